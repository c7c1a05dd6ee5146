//! From the lock of this node to that of all nodes: what a rank does at the object's home once its node's lock is its own.
//!
//! The machine between nodes ([`HomeLock`]) says what to ask; this asks it, and keeps in the node's words how far it is
//! ([`Tenure`]), so that the node's ranks can pass its hold on without asking the home, and the next of them can go on where
//! one has ended. At most [`MOST_PASSED`] ranks in a row have it so; then other nodes come in.
//!
//! | what a rank finds that has the node's lock | what it does |
//! | --- | --- |
//! | nothing | acquires the lock at the home |
//! | held | takes the next token |
//! | waiting | waits on |
//! | under way, by one that has ended | once nothing of that one can arrive any more: takes back what it has left |

use std::task::Poll;
use std::time::{Duration, Instant};

use super::catalogue;
use super::reach::Reach;
use super::site::{Asked, Site};
use crate::coord::objects::directory::SiteFault;
use crate::coord::objects::home::{GlobalWord, HomeLock, Mail, NodeClaim, Outcome, TOKENS, Turn};
use crate::coord::objects::layout::ObjectAt;
use crate::coord::objects::tenure::{Tenure, TenureAt, TenureWord};
use crate::fabric::node::{ObjectTable, header};
use crate::fabric::{Await, Fabric, Memory, PostError, Request, WordAt};
use crate::sync::{Ordering, spin_hint};

/// So many ranks of a node have the lock in a row while other nodes may wait for it.
const MOST_PASSED: u64 = 64;
/// How long a mailbox is watched before this rank sleeps on it.
const WATCH: Duration = Duration::from_micros(50);
/// After so long without a word the rank looks at the home itself.
const LOOK_EVERY: Duration = Duration::from_millis(20);

const _: () = assert!(MOST_PASSED < TOKENS - 1);

/// A lock between nodes, as a rank has it that can have its node's.
#[derive(Clone, Debug)]
pub(super) struct Climb {
    pub site: Site,
    at: TenureAt,
    at_home: ObjectAt,
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
    /// Nothing has been done.
    Beginning,
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
    /// Whether the goal itself is being pursued, and not what others have left cleared away.
    is_underway: bool,
    machine: HomeLock,
    word: TenureWord,
    /// When the home was looked at last, or is to be looked at as if it had been then.
    looked: Option<Instant>,
    alarm: u64,
}

/// Where an ascent has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Summit {
    /// This node holds the lock, and this rank has a token of it.
    Held(u64),
    /// It has nothing to do with it.
    Free,
}

type Reached = Result<Summit, SiteFault>;

impl Climb {
    pub fn new(site: Site, at: ObjectAt, at_home: ObjectAt) -> Self {
        Self { site, at: TenureAt(at), at_home }
    }

    /// The lock of a home's table of objects, among nodes.
    pub fn of_table(site: &Site) -> Self {
        let at = ObjectAt::of(&site.reach.segment.layout(), ObjectTable::Here, 0);
        let at_home = ObjectAt::of(&site.reach.layouts[site.home], ObjectTable::Home, 0);
        Self::new(site.clone(), at, at_home)
    }

    fn reach(&self) -> &Reach {
        &self.site.reach
    }

    fn memory(&self) -> &impl Memory {
        &*self.site.reach.segment
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
        let reach = self.reach();
        Ascent {
            goal,
            stamp: stamp as u32,
            stage: Stage::Beginning,
            is_underway: false,
            machine: HomeLock::new(self.at_home.home(), reach.here(), self.at.0.index()),
            word: self.at.load(self.memory()),
            looked: None,
            alarm: reach.alarm(),
        }
    }

    /// Whether the node holds the lock at its home, or has anything else to do with it.
    pub fn is_engaged(&self) -> bool {
        self.at.load(self.memory()).tenure() != Tenure::Nothing
    }

    /// Whether the rank that has the node's lock may pass it on with the hold at the home.
    pub fn may_pass_on(&self) -> bool {
        matches!(self.at.load(self.memory()).tenure(), Tenure::Held(passed) if passed < MOST_PASSED)
            && !self.is_home_lost()
    }

    /// Which node holds the lock, as far as that can be learnt now.
    pub fn holder(&self) -> Option<usize> {
        let word = self.site.ask(&[Request::Read { at: self.at_home.home().hold }]).ok()?;
        GlobalWord(word[0]).holder()
    }

    fn is_home_lost(&self) -> bool {
        self.reach().has_lost(self.site.home)
    }

    /// Goes on. Never blocks. Where this fails the node's hold is lost, with its home, or this rank's part in it.
    pub fn poll(&self, ascent: &mut Ascent) -> Poll<Reached> {
        if matches!(ascent.stage, Stage::Beginning)
            && let Some(reached) = self.set_out(ascent)?
        {
            return Poll::Ready(Ok(reached));
        }
        loop {
            let turn = match self.step(ascent) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(turn)) => turn,
                // What was asked for may have come about or not; what was on its way is dropped with the connection.
                Poll::Ready(Err(SiteFault::Broken { .. })) => self.recover(ascent),
                Poll::Ready(Err(fault)) => return Poll::Ready(Err(fault)),
            };
            if let Some(reached) = self.follow(ascent, turn)? {
                return Poll::Ready(Ok(reached));
            }
        }
    }

    /// The beginning, by what the node's words say; it may be the end, too.
    fn set_out(&self, ascent: &mut Ascent) -> Result<Option<Summit>, SiteFault> {
        let home = self.site.home;
        if self.is_home_lost() {
            return Err(SiteFault::Lost { home });
        }
        let load = |at| self.reach().load(at);
        let (lock, me, place) = (self.at_home.home(), self.reach().here(), self.at.0.index());
        match (ascent.word.tenure(), ascent.goal) {
            (Tenure::Nothing, Goal::Nothing) => return Ok(Some(Summit::Free)),
            (Tenure::Nothing, _) => {
                let turn = self.pursue(ascent);
                return self.follow(ascent, turn);
            }
            (Tenure::Held(passed), Goal::Hold | Goal::TryHold) => {
                self.change(ascent, Tenure::Held(passed + 1))?;
                return Ok(Some(Summit::Held(load(self.at.number()) + passed + 2)));
            }
            (Tenure::Held(_), Goal::Nothing) => {
                ascent.machine = HomeLock::holding(lock, me, place, GlobalWord(load(self.at.hold())));
                let turn = ascent.machine.release();
                return self.follow(ascent, turn);
            }
            (Tenure::Waiting, goal) => {
                ascent.machine = HomeLock::waiting(lock, me, place, NodeClaim(load(self.at.claim())));
                ascent.stage = Stage::Waiting;
                if goal != Goal::Hold {
                    let turn = ascent.machine.withdraw();
                    return self.follow(ascent, turn);
                }
                ascent.is_underway = true;
            }
            (Tenure::Underway(local), _) => ascent.stage = Stage::Outliving { local, asked: None },
        }
        Ok(None)
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
    fn step(&self, ascent: &mut Ascent) -> Poll<Result<Turn, SiteFault>> {
        match &mut ascent.stage {
            Stage::Beginning => unreachable!("it has set out"),
            Stage::Outliving { local, asked } => match self.outlive(*local, asked) {
                Poll::Ready(Ok(())) => Poll::Ready(Ok(ascent.machine.recover())),
                Poll::Ready(Err(fault)) => Poll::Ready(Err(fault)),
                Poll::Pending => Poll::Pending,
            },
            Stage::Asking(asked) => match self.site.poll(asked) {
                Poll::Ready(Ok(answers)) => {
                    let is_lost = |node| self.reach().has_lost(node);
                    Poll::Ready(Ok(ascent.machine.answered(&answers, is_lost)))
                }
                Poll::Ready(Err(fault)) => Poll::Ready(Err(fault)),
                Poll::Pending => Poll::Pending,
            },
            Stage::Mailing(mail) => match self.mail(mail) {
                true => Poll::Ready(Ok(ascent.machine.mailed())),
                false => Poll::Pending,
            },
            Stage::Waiting => self.look_into_mailbox(ascent),
        }
    }

    /// Does what the machine wants.
    fn follow(&self, ascent: &mut Ascent, turn: Turn) -> Result<Option<Summit>, SiteFault> {
        match turn {
            Turn::Ask(requests) => {
                let only_reads = requests.iter().all(|request| matches!(request, Request::Read { .. }));
                if !only_reads
                    && !matches!(ascent.word.tenure(), Tenure::Underway(local) if local == self.reach().local())
                {
                    self.change(ascent, Tenure::Underway(self.reach().local()))?;
                }
                ascent.stage = Stage::Asking(self.site.begin(&requests));
            }
            Turn::Mail(mail) => ascent.stage = Stage::Mailing(mail),
            Turn::Wait => {
                let claim = ascent.machine.claim().expect("who waits has a claim");
                self.store(self.at.claim(), claim.0);
                self.change(ascent, Tenure::Waiting)?;
                ascent.looked.get_or_insert_with(Instant::now);
                ascent.stage = Stage::Waiting;
            }
            Turn::Over(Outcome::Granted(number)) if ascent.goal != Goal::Nothing => {
                let held = ascent.machine.held().expect("it was granted");
                self.store(self.at.number(), number);
                self.store(self.at.hold(), held.0);
                self.change(ascent, Tenure::Held(0))?;
                return Ok(Some(Summit::Held(number + 1)));
            }
            Turn::Over(Outcome::Granted(_)) => {
                let turn = ascent.machine.release();
                return self.follow(ascent, turn);
            }
            Turn::Over(Outcome::Free | Outcome::Lost) => {
                self.change(ascent, Tenure::Nothing)?;
                if ascent.is_underway || ascent.goal == Goal::Nothing {
                    return Ok(Some(Summit::Free));
                }
                let turn = self.pursue(ascent);
                return self.follow(ascent, turn);
            }
        }
        Ok(None)
    }

    /// Whether nothing that a rank of this node has asked for can take effect at the home any more.
    fn outlive(&self, local: usize, asked: &mut Option<Asked>) -> Poll<Result<(), SiteFault>> {
        let reach = self.reach();
        // What this rank has posted itself was dropped with the connection that broke; on the home's node nothing is posted.
        if local == reach.local() || self.site.is_here() {
            return Poll::Ready(Ok(()));
        }
        let Some(epoch) = reach.epoch_of(reach.topology.ranks_of(reach.here())[local]) else {
            return match reach.own_end() {
                Some(_) => Poll::Ready(Err(SiteFault::Excluded)),
                None if self.is_home_lost() => Poll::Ready(Err(SiteFault::Lost { home: self.site.home })),
                None => Poll::Pending,
            };
        };
        let read = asked.get_or_insert_with(|| self.site.begin(&[Request::Read { at: header::EPOCH }]));
        let answers = match self.site.poll(read) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(SiteFault::Broken { .. })) => vec![0],
            Poll::Ready(Err(fault)) => return Poll::Ready(Err(fault)),
            Poll::Ready(Ok(answers)) => answers,
        };
        *asked = None;
        if answers[0] >= epoch { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Takes back whatever the node has at the home, after a connection has broken, and then goes on.
    fn recover(&self, ascent: &mut Ascent) -> Turn {
        let reach = self.reach();
        ascent.machine = HomeLock::new(self.at_home.home(), reach.here(), self.at.0.index());
        ascent.is_underway = false;
        ascent.machine.recover()
    }

    fn look_into_mailbox(&self, ascent: &mut Ascent) -> Poll<Result<Turn, SiteFault>> {
        let reach = self.reach();
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
        if self.is_home_lost() {
            return Poll::Ready(Err(SiteFault::Lost { home: self.site.home }));
        }
        Poll::Ready(Ok(ascent.machine.look()))
    }

    /// Writes a waiting node's mailbox; `false` where there is no room for that now. One that is not reached looks itself.
    fn mail(&self, mail: &Mail) -> bool {
        let reach = self.reach();
        let Some(network) = &reach.network else { return true };
        if mail.claim.place() > reach.layouts[mail.node].objects() {
            return true;
        }
        let at = TenureAt(ObjectAt::of(&reach.layouts[mail.node], ObjectTable::Here, mail.claim.place()));
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
        // Another rank has gone on: this one was declared failed.
        ascent.word = self.at.change(self.memory(), ascent.word, tenure).ok_or(SiteFault::Excluded)?;
        Ok(())
    }

    fn store(&self, at: WordAt, value: u64) {
        // Relaxed: published by the tenure word.
        self.memory().word(at).store(value, Ordering::Relaxed);
    }

    /// Waits until an ascent is over, or `limit` has passed since `begun`: then it goes on only if it is polled again.
    pub fn wait(&self, ascent: &mut Ascent, begun: Instant, limit: Option<Duration>) -> Option<Reached> {
        let since = Instant::now();
        loop {
            if let Poll::Ready(reached) = self.poll(ascent) {
                return Some(reached);
            }
            let left = limit.map(|limit| limit.saturating_sub(begun.elapsed()));
            // In the middle of something the answers are waited for: they come, or the home is declared failed.
            let is_waiting = matches!(ascent.stage, Stage::Waiting);
            if is_waiting && left == Some(Duration::ZERO) {
                return None;
            }
            self.pause(ascent, since.elapsed(), left.unwrap_or(Duration::MAX));
        }
    }

    fn pause(&self, ascent: &Ascent, waited: Duration, left: Duration) {
        match &ascent.stage {
            Stage::Waiting if waited < WATCH && !self.reach().plan.shares_cpus => spin_hint(),
            Stage::Waiting => {
                let (at, claim) = (self.at.granted(), ascent.machine.claim());
                let seen = self.reach().load(at);
                if claim.is_none_or(|claim| claim.0 != seen) {
                    self.reach().sleep(at, seen, ascent.alarm, left.min(LOOK_EVERY));
                }
            }
            Stage::Outliving { .. } | Stage::Mailing(_) if waited >= WATCH => {
                if let Some(network) = &self.reach().network {
                    network.nap(self.reach().alarm(), Duration::from_micros(200));
                }
            }
            _ => self.site.pause(waited),
        }
    }

    /// Gives up what the node has to do with the lock at its home. This rank has the node's lock.
    pub fn descend(&self) -> Result<(), SiteFault> {
        let mut ascent = self.begin_with(Goal::Nothing, 0);
        self.wait(&mut ascent, Instant::now(), None).expect("without a limit").map(drop)
    }

    /// Gives an ascent up that has not come to its end: the node's claim at the home stays if `others_wait` on this node.
    pub fn abandon(&self, ascent: &mut Ascent, others_wait: bool) -> Result<(), SiteFault> {
        // What was asked for is answered first: otherwise nobody knows how far the node is.
        while !matches!(ascent.stage, Stage::Waiting | Stage::Beginning) {
            match self.poll(ascent) {
                Poll::Ready(Ok(_)) => break,
                Poll::Ready(Err(fault)) => return Err(fault),
                Poll::Pending => self.site.pause(WATCH),
            }
        }
        if others_wait { Ok(()) } else { self.descend() }
    }

    /// Acquires the lock of a home's table for this node. The caller has this node's table.
    pub fn acquire_alone(&self) -> Result<(), SiteFault> {
        self.settle_table()?;
        let home = (self.site.home as u64 + 1) << catalogue::HOME_NODE_AT;
        self.store(self.at.home(), home);
        // Different from that of the last time: each changes the word of the tenure.
        let mut ascent = self.begin(self.at.load(self.memory()).0 >> 21);
        self.wait(&mut ascent, Instant::now(), None).expect("without a limit").map(drop)
    }

    /// Gives it back.
    pub fn release_alone(&self) -> Result<(), SiteFault> {
        self.descend()
    }

    /// What a rank of this node has left with the table of a home, perhaps another one, is cleared away.
    fn settle_table(&self) -> Result<(), SiteFault> {
        if !self.is_engaged() {
            return Ok(());
        }
        let Some((home, _)) = catalogue::noted_home(self.reach(), &self.at.0) else { return Ok(()) };
        let site = Site { home, ..self.site.clone() };
        match Self::of_table(&site).descend() {
            Err(SiteFault::Lost { .. }) => self.forget_home(),
            other => other,
        }
    }

    /// The home is lost, and with it what this node had to do with it. This rank has the node's lock.
    pub fn forget_home(&self) -> Result<(), SiteFault> {
        let seen = self.at.load(self.memory());
        self.at.change(self.memory(), seen, Tenure::Nothing).map(drop).ok_or(SiteFault::Excluded)
    }
}
