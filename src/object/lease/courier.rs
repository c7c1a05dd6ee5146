//! Who asks a lease's home for a rank, and what becomes of the rank's part when the home is lost.
//!
//! A rank's *party* is what its threads and handles share of a lease: the machine that knows what to ask
//! ([`crate::coord::objects::lease`]), and the home that is asked. It is with one of them at a time.
//!
//! When the home is lost, whoever has the party and asks waits for the next home, as reader-writer locks do
//! ([`crate::object::anchor`]), and begins anew there. What holders have noted on their nodes until then each node's
//! steward has told that home by [`carry_hold`]. A rank notes its hold before it goes by it, and then looks whether the
//! home is lost: if not, the steward will find the note.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::{Desk, LeaseError, Slot};
use crate::cluster::view::{self, FailureCause, Unit};
use crate::coord::objects::directory::SiteFault;
use crate::coord::objects::layout::ObjectAt;
use crate::coord::objects::lease::{Fates, Hold, LeaseAt, LeaseWord, Lessee, Note, Outcome, SOMEBODY, Turn};
use crate::coord::objects::note::NoteAt;
use crate::coord::objects::word::SinceWord;
use crate::fabric::{Memory, Request, WordAt};
use crate::object::anchor::{self, Anchor, Answered};
use crate::object::errands::{self, Errand};
use crate::object::error::LockError;
use crate::object::homes::Home;
use crate::object::reach::Reach;
use crate::object::vigil::Vigil;
use crate::object::{Handle, Token, waiting};
use crate::sync::{Ordering, full_fence};

/// A rank's part in a lease.
#[derive(Debug)]
pub(super) struct Party {
    pub lessee: Lessee,
    pub anchor: Anchor,
}

/// Carries requests to a lease's home, for its holder and the thread that renews.
#[derive(Clone, Debug)]
pub(super) struct Courier {
    /// Kept while a thread renews the lease, also where nobody else has a handle any more.
    handle: Arc<Handle>,
    ttl: Duration,
}

impl Courier {
    pub fn new(handle: Arc<Handle>, ttl: Duration) -> Self {
        Self { handle, ttl }
    }

    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    pub fn name(&self) -> &str {
        self.handle.name.text()
    }

    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    pub fn rank(&self) -> usize {
        self.reach().rank
    }

    pub fn reach(&self) -> &Reach {
        &self.handle.membership.reach
    }

    pub fn ttl_ns(&self) -> u64 {
        u64::try_from(self.ttl.as_nanos()).expect("as `Job::lease` has it")
    }

    pub fn is_over(&self, hold: Hold) -> bool {
        now_ns() >= hold.until(self.ttl_ns())
    }

    pub fn party(&self) -> Result<Box<Party>, LockError> {
        let anchor = Anchor::of(&self.handle)?;
        let lessee = Lessee::new(self.at(&anchor), self.rank(), self.ttl_ns());
        Ok(Box::new(Party { lessee, anchor }))
    }

    /// Where the words are.
    fn at(&self, anchor: &Anchor) -> LeaseAt {
        LeaseAt::of(&anchor.words(), self.reach().topology.ranks(), anchor.is_first(&self.handle))
    }

    /// Does what a lessee wants until it has come to an end; gives its claim up when the vigil's time is over.
    pub fn drive(&self, party: &mut Party, mut turn: Turn, vigil: &mut Vigil<'_>) -> Result<Outcome, LeaseError> {
        loop {
            if let Some(outcome) = self.advance(party, turn, vigil)? {
                return Ok(outcome);
            }
            let follows = party.lessee.follows_at().map_or(u64::MAX, |time| time.saturating_sub(now_ns()));
            turn = match vigil.pause_at_most(&[], Duration::from_nanos(follows.max(1))) {
                true => party.lessee.look(),
                false => party.lessee.withdraw(),
            };
        }
    }

    /// Does what a lessee wants until it has come to an end, or waits for others (`None`).
    pub fn advance(
        &self,
        party: &mut Party,
        mut turn: Turn,
        vigil: &mut Vigil<'_>,
    ) -> Result<Option<Outcome>, LeaseError> {
        let reach = self.reach();
        loop {
            if let Some(rank) = party.lessee.take_named() {
                reach.poke(rank);
            }
            turn = match turn {
                Turn::Over(outcome) if self.settle(party, outcome) => return Ok(Some(outcome)),
                Turn::Over(_) => self.begin_anew(party, vigil)?,
                Turn::Ask(requests) => {
                    // What is waited for is noted before it is looked at.
                    vigil.note();
                    match party.anchor.try_ask_until(&self.handle, &requests, vigil.until())? {
                        Answered::All(answers) => party.lessee.answered(&answers, now_ns(), &Neighbours(reach)),
                        Answered::Broken => party.lessee.broken(),
                        Answered::HomeLost => self.begin_anew(party, vigil)?,
                    }
                }
                Turn::Wait => return Ok(None),
            };
        }
    }

    /// Notes what has come of it. Whether that counts: not where the home is lost before a hold was noted.
    fn settle(&self, party: &Party, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Held(hold) => {
                let note = Note { number: hold.word.number(), until: hold.until(self.ttl_ns()) };
                // A home that is this node is lost with this rank: then nobody asks for its notes.
                if !party.anchor.is_here() {
                    self.write_note(note);
                }
                // SYNC POINT: stake. After the note: this rank finds the home lost, or its steward finds the note.
                !party.anchor.is_lost()
            }
            Outcome::Free(_) | Outcome::Lost(_) => {
                self.forget_hold();
                true
            }
        }
    }

    /// This rank holds nothing, or is about to give it back.
    pub fn forget_hold(&self) {
        forget_hold(self.reach(), &self.handle.at);
    }

    /// Shows those who look from outside since when this rank holds the lease, and by which token.
    pub fn show(&self, token: Token) {
        let segment = &*self.reach().segment;
        let since = SinceWord::granted(self.reach().local(), segment.clock().now());
        waiting::show(segment, &self.handle.at, since, token.0);
    }

    /// It does not hold it any more: another rank of the node may show its hold already.
    pub fn show_no_more(&self) {
        let shown = self.reach().segment.word(self.handle.at.held_since());
        let seen = shown.load(Ordering::Relaxed);
        if SinceWord(seen).holder() == Some(self.reach().local()) {
            // Relaxed: for those who look.
            let _ = shown.compare_exchange(seen, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// For the next home, which is told of it by this rank's node.
    pub fn write_note(&self, note: Note) {
        note.write(self.note_at(), &*self.reach().segment);
    }

    fn note_at(&self) -> NoteAt {
        NoteAt::of(&self.handle.at, self.reach().local())
    }

    /// The home is lost: goes on at the next one, as soon as that has what survivors held.
    #[cold]
    fn begin_anew(&self, party: &mut Party, vigil: &Vigil<'_>) -> Result<Turn, LeaseError> {
        party.anchor.await_next_until(&self.handle, vigil.until())?;
        let at = self.at(&party.anchor);
        Ok(party.lessee.restart(at))
    }

    pub fn look_at_oneself(&self) -> Result<(), LeaseError> {
        Ok(anchor::look_at_oneself(&self.handle)?)
    }
}

/// What a rank has at the home is to be taken back: its claim, and its hold when that is over or released. It keeps no
/// handle: the rank may leave the job meanwhile.
#[derive(Debug)]
pub(super) struct Recalling {
    desk: Arc<Desk>,
    at: ObjectAt,
    ttl_ns: u64,
}

impl Recalling {
    pub fn new(courier: &Courier, desk: &Arc<Desk>) -> Self {
        Self { desk: Arc::clone(desk), at: courier.handle.at, ttl_ns: courier.ttl_ns() }
    }
}

impl Errand for Recalling {
    fn object(&self) -> WordAt {
        self.at.key()
    }

    fn run(&mut self, reach: &Reach) -> Poll<()> {
        let Some(home) = errands::home_now(reach, &self.at) else { return Poll::Pending };
        forget_hold(reach, &self.at);
        let lease_at = LeaseAt::of(&home.at, reach.topology.ranks(), false);
        let mut lessee = Lessee::new(lease_at, reach.rank, self.ttl_ns);
        let mut turn = lessee.withdraw();
        while let Turn::Ask(requests) = turn {
            let Some(answers) = errands::ask(&home, &requests) else { return Poll::Pending };
            turn = lessee.answered(&answers, now_ns(), &Neighbours(reach));
        }
        lessee.take_named().into_iter().for_each(|rank| reach.poke(rank));
        if Home::of(reach, &self.at).site.home != home.site.home {
            // What was noted before has moved with it.
            return Poll::Pending;
        }
        self.desk.put(Slot::Empty);
        Poll::Ready(())
    }
}

/// Tells a new home of a lease the last hold of this node's ranks: the holder, if its time is not over. Before anybody
/// asks that home; done again where a steward has broken off.
pub(in crate::object) fn carry_hold(reach: &Reach, at: &ObjectAt, new: &Home) -> Result<(), SiteFault> {
    // SYNC POINT: stake. The home was seen lost before: pairs with the ranks that note a hold and then look for that.
    full_fence();
    let ranks = reach.topology.ranks_of(reach.here()).iter().enumerate();
    let noted = ranks.map(|(local, rank)| (*rank, Note::read(NoteAt::of(at, local), &*reach.segment)));
    // A later hold has a greater number.
    let Some((rank, note)) = noted.max_by_key(|(_, note)| note.number).filter(|(_, note)| note.number > 0) else {
        return Ok(());
    };
    // One that was stopped, and declared failed for that, goes by its clock.
    let is_held = note.until > now_ns() && !Neighbours(reach).is_dead(rank);
    let carried = LeaseWord::carried(note.number, is_held.then_some(rank));
    let hold = LeaseAt::of(&new.at, reach.topology.ranks(), false).hold;
    let mut found = LeaseWord(new.site.ask(&[Request::Read { at: hold }])?[0]);
    while found.number() < carried.number() {
        let swap = Request::CompareSwap { at: hold, expected: found.0, new: carried.0 };
        let swapped = LeaseWord(new.site.ask(&[swap])?[0]);
        found = if swapped == found { carried } else { swapped };
    }
    Ok(())
}

/// This rank has noted no hold of a lease any more.
fn forget_hold(reach: &Reach, at: &ObjectAt) {
    let (note_at, segment) = (NoteAt::of(at, reach.local()), &*reach.segment);
    let note = Note::read(note_at, segment);
    if note.until != 0 {
        Note { until: 0, ..note }.write(note_at, segment);
    }
}

/// Whether a rank of this node has noted that it holds a lease, and its time is not over.
pub(in crate::object) fn is_held(reach: &Reach, at: &ObjectAt, local: usize) -> bool {
    Note::read(NoteAt::of(at, local), &*reach.segment).until > now_ns()
}

/// The job's ranks, as this one knows them.
struct Neighbours<'reach>(&'reach Reach);

impl Neighbours<'_> {
    /// Why a rank takes part no more.
    fn cause(&self, rank: usize) -> Option<FailureCause> {
        let (segment, layout) = (&*self.0.segment, self.0.segment.layout());
        let node = self.0.topology.node_of(rank);
        if node == self.0.here() {
            return view::end_of(segment, &layout, self.0.topology.local_of(rank)).map(|end| end.cause);
        }
        let epochs = 1..=view::epoch(segment, &layout);
        let mut lost = epochs.filter_map(|epoch| view::obituary(segment, &layout, epoch));
        let of_it = lost.find(|lost| lost.unit == Unit::Rank(rank) || lost.unit == Unit::Node(node));
        match of_it {
            Some(lost) => Some(lost.cause),
            None => self.0.has_lost(node).then_some(FailureCause::Left),
        }
    }
}

impl Fates for Neighbours<'_> {
    fn has_ended(&self, rank: usize) -> bool {
        self.0.has_ended(rank)
    }

    fn is_dead(&self, rank: usize) -> bool {
        if rank == SOMEBODY {
            let topology = &self.0.topology;
            return (0..topology.ranks()).all(|rank| !self.0.has_lost(topology.node_of(rank)) || self.is_dead(rank));
        }
        match self.cause(rank) {
            // It may come back, and then goes by its clock.
            None | Some(FailureCause::Stopped | FailureCause::Silent) => false,
            Some(_) => true,
        }
    }
}

/// The time of this machine, in nanoseconds, suspension included.
pub(super) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    seconds * 1_000_000_000 + nanos
}
