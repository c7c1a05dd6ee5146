//! From the lock of this node to that of all nodes: what a rank does at the object's home once its node's lock is its
//! own.
//!
//! The machine between nodes ([`HomeLock`]) says what to ask; this asks it, and keeps in the node's words how far it is
//! ([`Tenure`]), so that the node's ranks can pass its hold on without asking the home, and the next of them can go on
//! where one has ended. At most [`MOST_HANDED_ON`] ranks in a row have it so; then other nodes come in.
//!
//! | what a rank finds that has the node's lock | what it does |
//! | --- | --- |
//! | nothing | acquires the lock at the home |
//! | kept | likewise, by the word that was kept there for this node: if that is still there, it goes on with the number |
//! | held | takes the next token |
//! | waiting | waits on |
//! | under way, by one that has ended | once nothing of that one can arrive any more: takes back what it has left |
//!
//! *Who keeps.* A word that is kept for this node saves it a request when it comes again, and costs another node that
//! comes a round trip, and then this one another. So it is kept by a node that has had the lock [`STREAK`] times in a
//! row, and nobody else has asked for it: a lock that changes its node costs an eighth more at worst, and one that goes
//! back and forth nothing. On the home itself it is not kept where its words are memory: there the number costs an
//! instruction. Nor are the locks of homes' tables, all of which a node notes in the same words.
//!
//! When the home is lost the node's steward ([`super::steward`]) moves what the node holds to the next one, and whoever
//! is on its way begins anew there, once all nodes have done so ([`super::homes`]).
//!
//! Nothing here blocks; what waits for it stands in `climb/blocking.rs`.

mod blocking;

use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::{Duration, Instant};

use super::homes::{Completion, Home, without_room};
use super::reach::Reach;
use super::site::{Asked, Site};
use crate::cluster::view::{self, FailureCause};
use crate::coord::objects::directory::SiteFault;
use crate::coord::objects::home::{GlobalWord, HomeLock, LEAST_LEFT, Mail, NodeClaim, Outcome, TOKENS, Turn};
use crate::coord::objects::layout::{MOST_OBJECTS, ObjectAt};
use crate::coord::objects::tenure::{Tenure, TenureAt, TenureWord};
use crate::fabric::node::{ObjectTable, header};
use crate::fabric::{Fabric, Memory, PostError, Request, WordAt};
use crate::sync::Ordering;

/// So often the ranks of a node hand the lock on to each other in a row, while other nodes may wait for it.
const MOST_HANDED_ON: u64 = 64;
/// After so long without a word the rank looks at the home itself.
const LOOK_EVERY: Duration = Duration::from_millis(20);

const _: () = assert!(MOST_HANDED_ON < LEAST_LEFT - 1);

/// Acquisitions in a row after which the word is kept for a node.
const STREAK: u64 = 16;

/// In a claim, the place that stands for the table of home 0, with the other homes' behind it.
const TABLES_AT: usize = 1 << 23;

const _: () = assert!(MOST_OBJECTS < TABLES_AT);

/// A lock between nodes, as a rank has it that can have its node's.
#[derive(Clone, Debug)]
pub(super) struct Climb {
    reach: Reach,
    at: TenureAt,
    /// The home, of a lock that does not move with it.
    fixed: Option<Arc<Home>>,
    /// The home that was found first: most objects have no other one.
    first: OnceLock<Arc<Home>>,
}

/// What has been begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// To hold the lock.
    Hold,
    /// To hold it if it is free.
    TryHold,
    /// To have nothing to do with it.
    Nothing,
}

/// How far it is.
#[derive(Debug)]
enum Stage {
    /// Nothing has been done, or all has come to nothing.
    Beginning,
    /// Until the object is at home at a node that lives, and that knows what survivors have and want.
    Moving(Completion),
    /// Until nothing of a rank of this node that has ended can arrive at the home any more.
    Outliving { local: usize, asked: Option<Asked> },
    /// Waiting for answers.
    Asking(Asked),
    /// A waiting node's mailbox is to be written.
    Mailing(Mail),
    /// For the mailbox.
    Waiting,
}

/// A rank on its way between its node's lock and that of all nodes.
#[derive(Debug)]
pub(super) struct Ascent {
    goal: Goal,
    stamp: u32,
    stage: Stage,
    home: Arc<Home>,
    /// Whether the goal itself is being pursued, and not what others have left cleared away.
    is_underway: bool,
    /// Whether the home was asked for anything that it may have, or have not.
    has_asked: bool,
    machine: HomeLock,
    word: TenureWord,
    /// When the home was looked at last, or is to be looked at as if it had been then.
    looked: Option<Instant>,
    /// Whether what was asked for is a look at the word there.
    is_looking: bool,
    /// Whether the lock was found to be this node's when it was given up.
    was_granted: bool,
    alarm: u64,
}

impl Ascent {
    /// Whether something was asked for whose answers are to be waited for: nobody knows how far the node is before.
    pub fn is_in_the_middle(&self) -> bool {
        !matches!(self.stage, Stage::Waiting | Stage::Beginning | Stage::Moving(_))
    }

    /// Whether its node's claim stands at the home, and nothing is asked for.
    pub fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting)
    }

    /// Of one that was [given up](Climb::abandon): whether the lock had been granted to it by then, as far as that was
    /// learnt.
    pub fn was_granted(&self) -> bool {
        self.was_granted
    }
}

/// Where an ascent has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Summit {
    /// This node holds the lock, and this rank has a token of it.
    Held(u64),
    /// It has nothing to do with it.
    Free,
}

pub(super) type Reached = Result<Summit, SiteFault>;

impl Climb {
    /// The lock of an object of this node, wherever that is at home.
    pub fn new(reach: &Reach, at: ObjectAt) -> Self {
        Self { reach: reach.clone(), at: TenureAt(at), fixed: None, first: OnceLock::new() }
    }

    /// The lock of a home's table of objects, among nodes.
    pub fn of_table(site: &Site) -> Self {
        let at = ObjectAt::of(&site.reach.segment.layout(), ObjectTable::Here, 0);
        let at_home = ObjectAt::of(&site.reach.layouts[site.home], ObjectTable::Home, 0);
        let fixed = Some(Arc::new(Home { site: site.clone(), at: at_home }));
        Self { reach: site.reach.clone(), at: TenureAt(at), fixed, first: OnceLock::new() }
    }

    fn memory(&self) -> &impl Memory {
        &*self.reach.segment
    }

    /// Where the lock is at home now, lost or not.
    fn home(&self) -> Arc<Home> {
        if let Some(fixed) = &self.fixed {
            return Arc::clone(fixed);
        }
        let now = || Home::of(&self.reach, &self.at.0);
        let first = self.first.get_or_init(|| Arc::new(now()));
        if first.is_still_of(&self.at.0) { Arc::clone(first) } else { Arc::new(now()) }
    }

    /// Begins to acquire the lock. This rank has its node's, by a grant of which `stamp` tells it from others.
    pub fn begin(&self, stamp: u64) -> Ascent {
        self.begin_with(Goal::Hold, stamp)
    }

    /// Begins to acquire the lock if it is free.
    pub fn begin_to_try(&self, stamp: u64) -> Ascent {
        self.begin_with(Goal::TryHold, stamp)
    }

    #[allow(clippy::cast_possible_truncation, reason = "the lower half is meant")]
    fn begin_with(&self, goal: Goal, stamp: u64) -> Ascent {
        // Before the home is read: where that changes, this word is changed after it.
        let word = self.at.load(self.memory());
        let home = self.home();
        Ascent {
            goal,
            stamp: stamp as u32,
            stage: Stage::Beginning,
            is_underway: false,
            has_asked: false,
            machine: self.machine_at(&home),
            home,
            word,
            looked: None,
            is_looking: false,
            was_granted: false,
            alarm: self.reach.alarm(),
        }
    }

    /// Where a claim says that this node has the lock's mailbox. All homes' tables have one, and numbers of their own:
    /// each is named by a place of its own, so that what one of them has granted is not taken for what another one is
    /// to grant.
    fn place(&self) -> usize {
        match &self.fixed {
            Some(home) => TABLES_AT + home.site.home,
            None => self.at.0.index(),
        }
    }

    fn machine_at(&self, home: &Home) -> HomeLock {
        HomeLock::new(home.at.home(), self.reach.here(), self.place())
    }

    /// Whether the node holds the lock at its home, or has anything else to do with it.
    pub fn is_engaged(&self) -> bool {
        self.at.load(self.memory()).tenure().is_engaged()
    }

    /// Whether the node has a claim at the home, or has one carried on to the next: whoever gives the lock up finds it.
    pub fn has_claim(&self) -> bool {
        self.at.load(self.memory()).tenure() == Tenure::Waiting
    }

    /// Whether the rank that has the node's lock may pass it on with the hold at the home.
    pub fn may_pass_on(&self) -> bool {
        matches!(self.at.load(self.memory()).tenure(), Tenure::Held(passed) if passed < MOST_HANDED_ON)
    }

    /// Takes what the rank before has handed on to this one, together with the node's lock. Whether that was the lock:
    /// the node holds it, with a token for this rank.
    pub fn take_over(&self) -> bool {
        loop {
            let seen = self.at.load(self.memory());
            let handed_on = match seen.tenure() {
                Tenure::Held(passed) if self.has_token(passed + 1) => Tenure::Held(passed + 1),
                _ => return false,
            };
            if self.at.change(self.memory(), seen, handed_on).is_some() {
                return true;
            }
            // Or the steward has moved the lock: the hold with it.
            if self.reach.own_end().is_some() {
                return false;
            }
        }
    }

    /// Goes on. Never blocks. Where this fails this rank has been declared failed, or the home of a lock that does not
    /// move is lost.
    pub fn poll(&self, ascent: &mut Ascent) -> Poll<Reached> {
        loop {
            let went = match ascent.stage {
                Stage::Beginning => self.set_out(ascent),
                _ => match self.step(ascent) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(Some(turn))) => self.follow(ascent, turn),
                    Poll::Ready(Ok(None)) => Ok(None),
                    Poll::Ready(Err(fault)) => Err(fault),
                },
            };
            match went {
                Ok(None) => {}
                Ok(Some(reached)) => return Poll::Ready(Ok(reached)),
                Err(SiteFault::Excluded) => return Poll::Ready(Err(SiteFault::Excluded)),
                Err(SiteFault::Lost { home }) if self.fixed.is_some() => {
                    return Poll::Ready(Err(SiteFault::Lost { home }));
                }
                // Its follower goes on from here.
                Err(_) if self.reach.own_end().is_some() => return Poll::Ready(Err(SiteFault::Excluded)),
                // It can go on from here when the node is heard again, or has room.
                Err(fault @ (SiteFault::Silent { .. } | SiteFault::NoRoom { .. })) => {
                    self.begin_anew(ascent);
                    return Poll::Ready(Err(fault));
                }
                // What was asked for may have come about or not; what was on its way is dropped with the connection.
                Err(SiteFault::Broken { .. } | SiteFault::Lost { .. } | SiteFault::Late { .. }) => {
                    self.begin_anew(ascent);
                }
            }
        }
    }

    fn begin_anew(&self, ascent: &mut Ascent) {
        let (has_asked, was_granted) = (ascent.has_asked, ascent.was_granted);
        let again = self.begin_with(ascent.goal, ascent.stamp.into());
        *ascent = Ascent { has_asked, looked: ascent.looked, was_granted, ..again };
    }

    /// The beginning, by what the node's words say; it may be the end, too.
    fn set_out(&self, ascent: &mut Ascent) -> Result<Option<Summit>, SiteFault> {
        let is_lost = self.reach.has_lost(ascent.home.site.home);
        if is_lost && self.fixed.is_some() {
            return Err(SiteFault::Lost { home: ascent.home.site.home });
        }
        let tenure = ascent.word.tenure();
        match (tenure, ascent.goal) {
            (Tenure::Held(passed), Goal::Hold | Goal::TryHold) if self.has_token(passed + 1) => {
                // Valid also while the object moves: the hold moves with it.
                self.change(ascent, Tenure::Held(passed + 1))?;
                return Ok(Some(Summit::Held(self.last_token(passed + 1))));
            }
            (Tenure::Nothing | Tenure::Kept, Goal::Nothing) if !ascent.has_asked => return Ok(Some(Summit::Free)),
            // With the home everything is lost that it had of this node.
            (_, Goal::Nothing) if is_lost => {
                self.change(ascent, Tenure::Nothing)?;
                return Ok(Some(Summit::Free));
            }
            _ if is_lost || !self.is_complete(&ascent.home) => {
                ascent.stage = Stage::Moving(Completion::default());
                return Ok(None);
            }
            // Before anything is asked for.
            _ => ascent.home.site.look_for_silence()?,
        }
        self.set_out_for(ascent, tenure)
    }

    /// The same where the home can be asked.
    fn set_out_for(&self, ascent: &mut Ascent, tenure: Tenure) -> Result<Option<Summit>, SiteFault> {
        let (lock, me, place) = (ascent.home.at.home(), self.reach.here(), self.place());
        let load = |at| self.reach.load(at);
        let turn = match tenure {
            _ if ascent.has_asked => ascent.machine.recover(ascent.stamp),
            Tenure::Nothing => self.pursue(ascent),
            Tenure::Kept => {
                ascent.machine = HomeLock::keeping(lock, me, place, load(self.at.number()));
                self.pursue(ascent)
            }
            Tenure::Held(passed) => {
                let last =
                    (ascent.goal == Goal::Nothing && self.may_keep(&ascent.home)).then(|| self.last_token(passed));
                ascent.machine = HomeLock::holding(lock, me, place, GlobalWord(load(self.at.hold())));
                ascent.machine.release(last)
            }
            Tenure::Waiting => {
                ascent.machine = HomeLock::waiting(lock, me, place, NodeClaim(load(self.at.claim())));
                ascent.stage = Stage::Waiting;
                if ascent.goal == Goal::Hold {
                    ascent.is_underway = true;
                    return Ok(None);
                }
                ascent.machine.withdraw()
            }
            Tenure::Underway(local) => {
                ascent.stage = Stage::Outliving { local, asked: None };
                return Ok(None);
            }
        };
        self.follow(ascent, turn)
    }

    /// The last token of a hold that was passed on so often.
    fn last_token(&self, passed: u64) -> u64 {
        self.reach.load(self.at.number()) + passed + 1
    }

    /// Whether the number has a token for that: where ranks have died with the lock one after the other it may not.
    fn has_token(&self, passed: u64) -> bool {
        !self.last_token(passed).is_multiple_of(TOKENS)
    }

    /// Whether the word of a lock that is given up is to be kept for this node.
    fn may_keep(&self, home: &Home) -> bool {
        self.fixed.is_none() && !home.site.is_memory() && self.reach.load(self.at.streak()) >= STREAK
    }

    /// Notes whether this node has had the lock again, with this number, and no other node has drawn one meanwhile.
    fn note_streak(&self, number: u64) {
        let last = self.reach.load(self.at.number());
        let is_next = number == last || number == (last / TOKENS + 1) * TOKENS;
        let streak = if is_next { self.reach.load(self.at.streak()) + 1 } else { 0 };
        self.store(self.at.streak(), streak.min(STREAK));
    }

    /// Whether a home has all that survivors of those before it had.
    fn is_complete(&self, home: &Home) -> bool {
        self.fixed.is_some() || self.reach.load(self.at.complete_home()) == home.site.home as u64 + 1
    }

    fn pursue(&self, ascent: &mut Ascent) -> Turn {
        ascent.is_underway = true;
        match ascent.goal {
            Goal::Hold => ascent.machine.acquire(ascent.stamp),
            Goal::TryHold => ascent.machine.try_acquire(ascent.stamp),
            Goal::Nothing => Turn::Over(Outcome::Free),
        }
    }

    /// Waits for what the stage is about, and says what the machine makes of it.
    fn step(&self, ascent: &mut Ascent) -> Poll<Result<Option<Turn>, SiteFault>> {
        match &mut ascent.stage {
            Stage::Beginning => Poll::Ready(Ok(None)),
            Stage::Moving(completion) => self.await_home(&ascent.home, ascent.goal, completion).map_ok(|()| {
                self.begin_anew(ascent);
                // Nobody tells this node of a home where nobody has held the lock yet.
                ascent.looked = None;
                None
            }),
            Stage::Outliving { local, asked } => {
                let outlived = self.outlive(&ascent.home.site, *local, asked);
                outlived.map_ok(|()| Some(ascent.machine.recover(ascent.stamp)))
            }
            Stage::Asking(asked) => match ascent.home.site.poll(asked) {
                // Whoever was stopped meanwhile, and has been declared failed, is followed already.
                Poll::Ready(Ok(_)) if self.reach.own_end().is_some() => Poll::Ready(Err(SiteFault::Excluded)),
                Poll::Ready(Ok(answers)) => Poll::Ready(self.heed(ascent, &answers).map(Some)),
                Poll::Ready(Err(fault)) => Poll::Ready(Err(fault)),
                Poll::Pending => Poll::Pending,
            },
            Stage::Mailing(mail) => match self.mail(mail) {
                true => Poll::Ready(Ok(Some(ascent.machine.mailed()))),
                false => Poll::Pending,
            },
            Stage::Waiting => self.look_into_mailbox(ascent).map(|turn| turn.map(Some)),
        }
    }

    /// What the machine makes of the home's answers.
    fn heed(&self, ascent: &mut Ascent, answers: &[u64]) -> Result<Turn, SiteFault> {
        let is_lost = |node| self.reach.has_lost(node);
        if std::mem::take(&mut ascent.is_looking)
            && let Some(holder) = GlobalWord(answers[0]).holder()
        {
            // One that is stopped is declared failed by its own node.
            self.reach.ask_after(holder);
            // If nobody hears that, nobody can decide that it holds the lock no more.
            if self.reach.is_doubtful(holder) && !is_lost(holder) {
                return Err(SiteFault::Silent { node: holder });
            }
        }
        let was_withdrawing = ascent.machine.is_withdrawing();
        let turn = ascent.machine.answered(answers, is_lost);
        // The word was this node's all the same.
        ascent.was_granted |= ascent.goal == Goal::Nothing && was_withdrawing && ascent.machine.is_releasing();
        Ok(turn)
    }

    /// Waits until a home is lost no more, as there is another one, or until it is complete.
    fn await_home(&self, home: &Home, goal: Goal, completion: &mut Completion) -> Poll<Result<(), SiteFault>> {
        if self.reach.own_end().is_some() {
            return Poll::Ready(Err(SiteFault::Excluded));
        }
        let now = self.home();
        if now.site.home != home.site.home {
            return Poll::Ready(Ok(()));
        }
        if self.reach.has_lost(home.site.home) {
            // What is to be given back there is lost with it. The next one may be silent.
            return match (self.reach.doubted(), without_room(&self.reach, &self.at.0)) {
                _ if goal == Goal::Nothing => Poll::Ready(Ok(())),
                (_, Some(home)) => Poll::Ready(Err(SiteFault::NoRoom { home })),
                (Some(node), _) => Poll::Ready(Err(SiteFault::Silent { node })),
                (None, None) => Poll::Pending,
            };
        }
        match completion.poll(home, &self.at.0) {
            Poll::Ready(Ok(())) => {
                self.store(self.at.complete_home(), home.site.home as u64 + 1);
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }

    /// Does what the machine wants.
    fn follow(&self, ascent: &mut Ascent, turn: Turn) -> Result<Option<Summit>, SiteFault> {
        match turn {
            Turn::Ask(requests) => {
                let only_reads = requests.iter().all(|request| matches!(request, Request::Read { .. }));
                if !only_reads
                    && !matches!(ascent.word.tenure(), Tenure::Underway(local) if local == self.reach.local())
                {
                    self.change(ascent, Tenure::Underway(self.reach.local()))?;
                }
                ascent.has_asked |= !only_reads;
                ascent.stage = Stage::Asking(ascent.home.site.begin(&requests));
            }
            Turn::Mail(mail) => ascent.stage = Stage::Mailing(mail),
            Turn::Wait => {
                let claim = ascent.machine.claim().expect("who waits has a claim");
                self.store(self.at.claim(), claim.0);
                self.change(ascent, Tenure::Waiting)?;
                ascent.looked.get_or_insert_with(Instant::now);
                ascent.has_asked = false;
                ascent.stage = Stage::Waiting;
            }
            Turn::Over(Outcome::Granted(number)) if ascent.goal != Goal::Nothing => {
                self.note_hold(ascent, number)?;
                return Ok(Some(Summit::Held(number + 1)));
            }
            Turn::Over(Outcome::Granted(_)) => {
                let turn = ascent.machine.release(None);
                return self.follow(ascent, turn);
            }
            Turn::Over(Outcome::Free | Outcome::Lost) => {
                self.note_end(ascent)?;
                ascent.has_asked = false;
                if ascent.is_underway || ascent.goal == Goal::Nothing {
                    return Ok(Some(Summit::Free));
                }
                let turn = self.pursue(ascent);
                return self.follow(ascent, turn);
            }
        }
        Ok(None)
    }

    /// Notes that the node holds the lock, with this number.
    fn note_hold(&self, ascent: &mut Ascent, number: u64) -> Result<(), SiteFault> {
        let held = ascent.machine.held().expect("it was granted");
        self.note_streak(number);
        self.store(self.at.number(), number);
        self.store(self.at.hold(), held.0);
        self.change(ascent, Tenure::Held(0))
    }

    /// Notes that the node has nothing to do with the lock any more.
    fn note_end(&self, ascent: &mut Ascent) -> Result<(), SiteFault> {
        let Some(last) = ascent.machine.kept() else { return self.change(ascent, Tenure::Nothing) };
        self.store(self.at.number(), last);
        self.change(ascent, Tenure::Kept)
    }

    /// Whether nothing that a rank of this node has asked for can take effect at the home any more.
    pub fn outlive(&self, site: &Site, local: usize, asked: &mut Option<Asked>) -> Poll<Result<(), SiteFault>> {
        let reach = &self.reach;
        // What this rank has posted itself was dropped with the connection that broke. On the home's node what a rank
        // has posted to its device is done at once, or its process is gone and its queue pair with it.
        if local == reach.local() || site.is_here() {
            return Poll::Ready(Ok(()));
        }
        // Of one that has left the home is not told: its connections are closed, and what came by them is done when the
        // home answers.
        let end = view::end_of(&*reach.segment, &reach.segment.layout(), local);
        let epoch = match end {
            Some(end) if end.cause == FailureCause::Left => Some(0),
            _ => reach.epoch_of(reach.topology.ranks_of(reach.here())[local]),
        };
        let Some(epoch) = epoch else {
            return match reach.own_end() {
                Some(_) => Poll::Ready(Err(SiteFault::Excluded)),
                None if reach.has_lost(site.home) => Poll::Ready(Err(SiteFault::Lost { home: site.home })),
                None => reach.doubted().map_or(Poll::Pending, |node| Poll::Ready(Err(SiteFault::Silent { node }))),
            };
        };
        let read = asked.get_or_insert_with(|| site.begin(&[Request::Read { at: header::EPOCH }]));
        let answers = match site.poll(read) {
            Poll::Pending => return Poll::Pending,
            // It has answered nothing: it is asked again.
            Poll::Ready(Err(SiteFault::Broken { .. })) => {
                *asked = None;
                return Poll::Pending;
            }
            Poll::Ready(Err(fault)) => return Poll::Ready(Err(fault)),
            Poll::Ready(Ok(answers)) => answers,
        };
        *asked = None;
        if answers[0] >= epoch { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn look_into_mailbox(&self, ascent: &mut Ascent) -> Poll<Result<Turn, SiteFault>> {
        let reach = &self.reach;
        if let Some(network) = &reach.network {
            network.progress();
        }
        let claim = ascent.machine.claim().expect("who waits has a claim");
        if reach.load(self.at.granted()) == claim.0 {
            let turn = ascent.machine.receive(claim.order(), reach.load(self.at.granted_number()));
            return Poll::Ready(Ok(turn));
        }
        let raised = reach.alarm();
        let is_late = ascent.looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY);
        if raised == ascent.alarm && !is_late {
            return Poll::Pending;
        }
        (ascent.alarm, ascent.looked) = (raised, Some(Instant::now()));
        if reach.own_end().is_some() {
            return Poll::Ready(Err(SiteFault::Excluded));
        }
        if reach.has_lost(ascent.home.site.home) {
            return Poll::Ready(Err(SiteFault::Lost { home: ascent.home.site.home }));
        }
        ascent.is_looking = true;
        Poll::Ready(Ok(ascent.machine.look()))
    }

    /// Writes a waiting node's mailbox; `false` where there is no room for that now. One that is not reached looks
    /// itself.
    fn mail(&self, mail: &Mail) -> bool {
        let reach = &self.reach;
        let Some(network) = &reach.network else { return true };
        let place = if mail.claim.place() >= TABLES_AT { 0 } else { mail.claim.place() };
        if place > reach.layouts[mail.node].objects() {
            return true;
        }
        let at = TenureAt(ObjectAt::of(&reach.layouts[mail.node], ObjectTable::Here, place));
        let writes = [
            Request::Write { at: at.granted_number(), value: mail.number },
            Request::Write { at: at.granted(), value: mail.claim.0 },
        ];
        let posted = network.post(mail.node, &writes, &mut Vec::new());
        if matches!(posted, Err(PostError::Full { .. })) {
            network.progress();
            return false;
        }
        true
    }

    fn change(&self, ascent: &mut Ascent, tenure: Tenure) -> Result<(), SiteFault> {
        match self.at.change(self.memory(), ascent.word, tenure) {
            Some(word) => {
                ascent.word = word;
                Ok(())
            }
            // Another rank has gone on.
            None if self.reach.own_end().is_some() => Err(SiteFault::Excluded),
            // The steward has moved the object.
            None => Err(SiteFault::Broken { home: ascent.home.site.home }),
        }
    }

    fn store(&self, at: WordAt, value: u64) {
        // Relaxed: published by the tenure word.
        self.memory().word(at).store(value, Ordering::Relaxed);
    }
}
