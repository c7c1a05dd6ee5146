//! A lock that readers share, phase-fair (Brandenburg and Anderson 2010): readers and writers have it by turns, so that
//! neither keep the other out.
//!
//! Writers have an exclusive lock among themselves ([`super::queue`], [`super::home`]); what is here begins when a rank
//! holds that. One word at the object's home, the *phase*, says whether a writer is there and which; a word for each
//! rank of the job, its *part*, which only that rank writes, says that it reads. Each writer has a phase of its own:
//! whoever asks to read meanwhile waits for that one, and has the lock when the phase is over, before the next writer
//! can have it.
//!
//! | call | requests | round trips |
//! | --- | --- | --- |
//! | read, no writer there | write the part "reads"; read the phase | 1 |
//! | read, a writer there | then: write the part "waits for phase k"; read the phase; wait until it is another one | 2, and the writer's end |
//! | stop reading | write the part; read the phase; have its writer look, if there is one | 1 |
//! | write | swap the phase; read all parts: until none reads | 1 for each 63 parts; another one if the phase was not the one that this rank has seen last |
//! | stop writing | swap the phase to the next one; read all parts; have those look who wait for it | 1 for each 63 parts |
//!
//! Besides the parts of ranks there is one of each node: of those of its ranks that share one hold of it
//! ([`super::shared_hold`]). To a writer it is a part as the others.
//!
//! *Both see each other.* A reader writes its part and then reads the phase; a writer changes the phase and then reads
//! the parts. So either the reader learns of the writer, or the writer waits for the reader. The same holds at a
//! phase's end: a reader that waits writes so and reads the phase again, the writer changes the phase and then reads
//! who waits.
//!
//! *Who waits for phase j reads in all later phases.* Nothing is to be written when a phase is over: the part of who
//! has waited for it keeps the next writer waiting. A rank that did not see the phase change for long is not passed by.
//!
//! *Death.* The parts of ranks that have ended, and of nodes that are lost, count for nothing. A writer that has ended
//! is followed by the next one, which has the exclusive lock, or its phase is ended by a reader that waits for it. No
//! phase comes twice, and the phase word is changed by compare-and-swap only: what a rank that was declared failed does
//! to it later fails. A part is written by its rank alone, and writing it once more changes nothing: where a connection
//! breaks, the same requests are asked again.
//!
//! The machine here posts nothing itself, like that of [`super::home`].

#[cfg(all(test, not(model)))]
mod exhaustive;

use super::layout::ObjectAt;
use crate::fabric::{Memory, Request, WordAt};
use crate::sync::{Ordering, publish};

/// Where the words of a sharing stand at its home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SharingAt {
    /// Whether a writer is there: [`PhaseWord`].
    pub phase: WordAt,
    /// The part of rank 0, with the others' behind it: [`PartWord`].
    pub parts: WordAt,
    /// The job's ranks.
    pub ranks: usize,
    /// The part of node 0, with the others' behind it: [`PartWord`].
    pub node_parts: WordAt,
    /// For each node likewise, where it has the object in its own table, as it was when it wrote its part last.
    pub places: WordAt,
    /// The job's nodes.
    pub nodes: usize,
}

/// Whose part it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Member {
    /// A rank's.
    Rank(usize),
    /// That of a node, whose ranks share it.
    Node(usize),
}

/// A rank that is to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Called {
    /// This one.
    Rank(usize),
    /// The one at this place of a node's rank table.
    Of {
        /// The node.
        node: usize,
        /// The place.
        local: usize,
    },
}

/// Whether a writer is there.
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0–20 | writer | the rank, plus 1; 0: none |
/// | 21–63 | phase | grows whenever a writer is there no more |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PhaseWord(pub u64);

impl PhaseWord {
    const WRITER: u64 = (1 << Self::PHASE_AT) - 1;
    const PHASE_AT: u32 = 21;

    /// The writer that is there.
    #[allow(clippy::cast_possible_truncation, reason = "21 bits")]
    pub const fn writer(self) -> Option<usize> {
        match self.0 & Self::WRITER {
            0 => None,
            rank => Some(rank as usize - 1),
        }
    }

    /// The number of the phase.
    pub const fn phase(self) -> u64 {
        self.0 >> Self::PHASE_AT
    }

    /// With a writer: in the same phase where there was none, else in the next one.
    pub(super) const fn with_writer(self, rank: usize) -> Self {
        let free = if self.0 & Self::WRITER == 0 { self } else { self.over() };
        Self(free.0 | (rank as u64 + 1))
    }

    /// The next phase, without a writer.
    const fn over(self) -> Self {
        Self((self.0 >> Self::PHASE_AT).wrapping_add(1) << Self::PHASE_AT)
    }
}

/// What a rank does that does not write, or a node whose ranks read together.
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0–1 | state | 0 nothing, 1 it reads or is about to, 2 it waits for the end of a phase, and reads in all later ones |
/// | 2–44 | phase | that phase |
/// | 45–63 | called | of a node's part: who looks when the phase is over, by its place on the node |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PartWord(pub u64);

impl PartWord {
    /// It does not read.
    pub const NOTHING: Self = Self(0);
    /// It reads, unless it finds a writer.
    pub const READING: Self = Self(1);
    const PHASE_AT: u32 = 2;
    const CALLED_AT: u32 = 45;

    /// It waits for the end of a phase.
    pub(super) const fn waiting_for(phase: u64) -> Self {
        Self(2 | phase << Self::PHASE_AT)
    }

    /// As a node's part: who is to look when that is over.
    pub(super) const fn calling(self, local: usize) -> Self {
        Self(self.0 | (local as u64) << Self::CALLED_AT)
    }

    #[allow(clippy::cast_possible_truncation, reason = "19 bits")]
    const fn called(self) -> usize {
        (self.0 >> Self::CALLED_AT) as usize
    }

    /// Whether it waits for the end of this phase.
    pub const fn waits_for(self, phase: u64) -> bool {
        self.0 & ((1 << Self::CALLED_AT) - 1) == Self::waiting_for(phase).0
    }

    /// Whether the writer of this phase is to wait.
    pub const fn reads_in(self, phase: u64) -> bool {
        self.0 != 0 && !self.waits_for(phase)
    }
}

/// What a machine wants next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Turn {
    /// These requests to the home, in order, and then their answers.
    Ask(Vec<Request>),
    /// Nothing, until this rank is to look.
    Wait,
    /// This rank has what it wanted.
    In,
    /// It has nothing to do with the lock.
    Out,
}

/// What the answers to come belong to, or what this rank has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    Out,
    /// The part says that it reads; the phase is being read.
    Coming,
    /// The part says that it waits for the end of a phase; the phase is being read.
    Registering {
        seen: PhaseWord,
    },
    /// For the end of a phase.
    Waiting {
        seen: PhaseWord,
    },
    /// Reading the phase once more.
    Looking {
        seen: PhaseWord,
    },
    /// The phase's writer has ended: swapping it to the next, reading who waits.
    Following {
        seen: PhaseWord,
    },
    Reading,
    /// The part has been cleared; the phase is being read.
    Leaving,
    /// Swapping the phase, reading the parts.
    Entering {
        seen: PhaseWord,
    },
    /// For those who read.
    Draining {
        mine: PhaseWord,
        readers: Vec<Member>,
    },
    /// Reading the parts once more.
    Counting {
        mine: PhaseWord,
    },
    Writing {
        mine: PhaseWord,
    },
    /// As `Passing`, at another home: reading the phase there.
    Resuming {
        reads_then: bool,
    },
    /// Swapping the phase to the next, reading who waits; after that it reads, or not.
    Passing {
        mine: PhaseWord,
        reads_then: bool,
    },
}

impl SharingAt {
    /// In an object's place at its home, in a job of so many ranks.
    pub const fn of(home: &ObjectAt, ranks: usize) -> Self {
        let (node_parts, places) = (home.node_part(0), home.node_place(0));
        Self { phase: home.own(0), parts: home.part(0), ranks, node_parts, places, nodes: home.members() }
    }

    /// Reads all parts: those of the ranks, and those of the nodes behind them.
    pub(super) fn read_parts(&self) -> impl Iterator<Item = Request> + use<> {
        let of_ranks = self.parts.0..self.parts.0 + self.ranks;
        let of_nodes = self.node_parts.0..self.node_parts.0 + self.nodes;
        of_ranks.chain(of_nodes).map(|at| Request::Read { at: WordAt(at) })
    }

    /// Whose parts were read.
    fn of_members<'parts>(&self, parts: &'parts [u64]) -> impl Iterator<Item = (Member, PartWord)> + use<'parts> {
        let (ranks, of_nodes) = (self.ranks, |node| Member::Node(node));
        let members = (0..ranks).map(Member::Rank).chain((0..self.nodes).map(of_nodes));
        members.zip(parts.iter().map(|part| PartWord(*part)))
    }

    /// Has those look who wait for the end of a phase, but for rank `me`.
    pub(super) fn wake(&self, me: usize, ended: PhaseWord, parts: &[u64], poke: impl FnMut(Called)) {
        let waiting = self.of_members(parts).filter(|(_, part)| part.waits_for(ended.phase()));
        let called = waiting.map(|(member, part)| match member {
            Member::Rank(rank) => Called::Rank(rank),
            Member::Node(node) => Called::Of { node, local: part.called() },
        });
        called.filter(|called| *called != Called::Rank(me)).for_each(poke);
    }

    /// The end of the phase of a writer that has ended, and who waits for that.
    pub(super) fn follow(&self, seen: PhaseWord) -> Vec<Request> {
        std::iter::once(self.swap(seen, seen.over())).chain(self.read_parts()).collect()
    }

    pub(super) const fn read_phase(&self) -> Request {
        Request::Read { at: self.phase }
    }

    const fn swap(&self, expected: PhaseWord, new: PhaseWord) -> Request {
        Request::CompareSwap { at: self.phase, expected: expected.0, new: new.0 }
    }

    /// What says at a new home, where nobody has asked for anything, what a rank had at the last one.
    pub fn carry(&self, rank: usize, stake: u64) -> Option<Request> {
        let written = PhaseWord(0).with_writer(rank);
        match stake {
            Sharing::READS => Some(Request::Write { at: self.parts.plus(rank), value: PartWord::READING.0 }),
            Sharing::WRITES => Some(Request::CompareSwap { at: self.phase, expected: 0, new: written.0 }),
            _ => None,
        }
    }
}

/// One rank's part in a sharing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sharing {
    at: SharingAt,
    me: usize,
    state: State,
    /// What the phase word was when it was seen last.
    guess: PhaseWord,
}

impl Sharing {
    /// The part of a rank that neither reads nor writes.
    pub const fn new(at: SharingAt, me: usize) -> Self {
        Self { at, me, state: State::Out, guess: PhaseWord(0) }
    }

    /// Begins to read. The rank neither reads nor writes.
    pub fn read(&mut self) -> Turn {
        self.state = State::Coming;
        Turn::Ask(vec![self.write_part(PartWord::READING), self.at.read_phase()])
    }

    /// As [`read`](Self::read), on the home's own node and where no writer is there; whether the rank reads. If not it
    /// goes on with [`read`](Self::read).
    #[inline]
    pub fn read_here(&mut self, memory: &impl Memory) -> bool {
        // SYNC POINT: sharing. A full fence pairs with the writer's compare-and-swap of the phase before it reads the
        // parts.
        publish(memory.word(self.part_at()), PartWord::READING.0);
        self.guess = self.load_phase(memory);
        let is_free = self.guess.writer().is_none();
        if is_free {
            self.state = State::Reading;
        }
        is_free
    }

    /// Begins to give up what the rank has or waits for, whether it reads or writes.
    ///
    /// # Panics
    ///
    /// In the middle of something: a bug of the caller.
    pub fn leave(&mut self) -> Turn {
        match self.state {
            State::Waiting { .. } | State::Reading => {
                self.state = State::Leaving;
                Turn::Ask(vec![self.write_part(PartWord::NOTHING), self.at.read_phase()])
            }
            State::Draining { mine, .. } | State::Writing { mine } => self.pass(mine, false),
            _ => panic!("only who has something, or waits, gives it up"),
        }
    }

    /// As [`leave`](Self::leave) of one that reads, on the home's own node: the writer that is to look.
    #[inline]
    pub fn leave_here(&mut self, memory: &impl Memory) -> Option<usize> {
        debug_assert!(self.is_reading(), "only who reads");
        self.state = State::Out;
        // SYNC POINT: sharing. As in `read_here`: the writer sees that this rank reads no more, or this rank sees the
        // writer. It releases what this rank has read.
        publish(memory.word(self.part_at()), PartWord::NOTHING.0);
        self.load_phase(memory).writer()
    }

    /// Begins to write. The rank has the exclusive lock, and does not read.
    pub fn write(&mut self) -> Turn {
        self.enter(self.guess)
    }

    /// Begins to read instead of writing; no other writer comes in between. Then the rank gives the exclusive lock up.
    ///
    /// # Panics
    ///
    /// When it does not write: a bug of the caller.
    pub fn downgrade(&mut self) -> Turn {
        let State::Writing { mine } = self.state else { panic!("only who writes") };
        self.pass(mine, true)
    }

    /// Begins to take back whatever this rank has there, or has asked for: nobody knows how far that came.
    pub fn take_back(&mut self) -> Turn {
        self.state = State::Resuming { reads_then: false };
        Turn::Ask(vec![self.write_part(PartWord::NOTHING), self.at.read_phase()])
    }

    /// Looks, where it waits.
    pub fn look(&mut self) -> Turn {
        match self.state {
            State::Waiting { seen } => {
                self.state = State::Looking { seen };
                Turn::Ask(vec![self.at.read_phase()])
            }
            State::Draining { mine, .. } => {
                self.state = State::Counting { mine };
                Turn::Ask(self.at.read_parts().collect())
            }
            _ => Turn::Wait,
        }
    }

    /// Begins anew what is under way, as its home is lost, at the next one: no phase of the last one counts there.
    ///
    /// # Panics
    ///
    /// When nothing is under way: a bug of the caller.
    pub fn restart(&mut self, at: SharingAt) -> Turn {
        (self.at, self.guess) = (at, PhaseWord(0));
        match std::mem::replace(&mut self.state, State::Out) {
            State::Coming
            | State::Registering { .. }
            | State::Waiting { .. }
            | State::Looking { .. }
            | State::Following { .. } => self.read(),
            State::Entering { .. } | State::Draining { .. } | State::Counting { .. } | State::Writing { .. } => {
                self.write()
            }
            State::Leaving => {
                self.state = State::Leaving;
                Turn::Ask(vec![self.write_part(PartWord::NOTHING), self.at.read_phase()])
            }
            State::Passing { reads_then, .. } | State::Resuming { reads_then } => {
                self.state = State::Resuming { reads_then };
                let part = if reads_then { PartWord::READING } else { PartWord::NOTHING };
                Turn::Ask(vec![self.write_part(part), self.at.read_phase()])
            }
            State::Out | State::Reading => panic!("only what is under way begins anew"),
        }
    }

    /// Goes by another home from now on, where this rank neither has nor wants anything: no phase of the last one
    /// counts there.
    pub const fn set_home(&mut self, at: SharingAt) {
        (self.at, self.guess) = (at, PhaseWord(0));
    }

    /// What a rank notes of what it has at the home, for whoever moves that to the next one: see [`SharingAt::carry`].
    pub const NO_STAKE: u64 = 0;
    /// It reads, or is about to.
    pub const READS: u64 = 1;
    /// It writes.
    pub const WRITES: u64 = 2;
    /// It reads with others of its node, or is about to, or wants to when that is possible: see [`super::shared_hold`].
    pub const SHARES: u64 = 3;
    /// It waits until others of its node are through that keep a writer waiting, and reads after that one: likewise.
    pub const WANTS: u64 = 4;

    /// Whether it reads.
    pub fn is_reading(&self) -> bool {
        self.state == State::Reading
    }

    /// For whom it waits.
    pub fn awaited(&self) -> Vec<Member> {
        match &self.state {
            State::Waiting { seen } => seen.writer().map(Member::Rank).into_iter().collect(),
            State::Draining { readers, .. } => readers.clone(),
            _ => Vec::new(),
        }
    }

    /// Goes on with the answers to what was asked. `has_ended`: which ranks have, or which nodes are lost; `poke` has a
    /// rank look.
    ///
    /// # Panics
    ///
    /// When there are not as many answers as were asked for: a bug of the caller.
    pub fn answered(&mut self, answers: &[u64], has_ended: impl Fn(Member) -> bool, poke: impl FnMut(Called)) -> Turn {
        let found = PhaseWord(answers[0]);
        match std::mem::replace(&mut self.state, State::Out) {
            State::Coming => self.came(found),
            State::Registering { seen } => self.looked(seen, found, has_ended, Some(poke)),
            State::Looking { seen } => self.looked(seen, found, has_ended, None::<fn(Called)>),
            State::Following { seen } => {
                self.at.wake(self.me, seen, &answers[1..], poke);
                self.reads()
            }
            State::Leaving => {
                self.guess = found;
                found.writer().map(Called::Rank).into_iter().for_each(poke);
                Turn::Out
            }
            State::Entering { seen } => self.entered(seen, found, &answers[1..], has_ended),
            State::Counting { mine } => self.drain(mine, answers, has_ended),
            State::Resuming { reads_then } => match found.writer() {
                Some(writer) if writer == self.me => self.pass(found, reads_then),
                _ if reads_then => self.reads(),
                _ => Turn::Out,
            },
            State::Passing { mine, reads_then } => {
                self.at.wake(self.me, mine, &answers[1..], poke);
                self.guess = mine.over();
                if reads_then { self.reads() } else { Turn::Out }
            }
            State::Out | State::Waiting { .. } | State::Reading | State::Draining { .. } | State::Writing { .. } => {
                unreachable!("nothing was asked")
            }
        }
    }

    fn came(&mut self, found: PhaseWord) -> Turn {
        self.guess = found;
        if found.writer().is_none() {
            return self.reads();
        }
        self.state = State::Registering { seen: found };
        Turn::Ask(vec![self.write_part(PartWord::waiting_for(found.phase())), self.at.read_phase()])
    }

    /// The phase has been read by one that waits for the end of one. `poke`: its writer may have seen this rank
    /// reading.
    fn looked(
        &mut self,
        seen: PhaseWord,
        found: PhaseWord,
        has_ended: impl Fn(Member) -> bool,
        poke: Option<impl FnMut(Called)>,
    ) -> Turn {
        self.guess = found;
        let Some(writer) = found.writer().filter(|_| found.phase() == seen.phase()) else { return self.reads() };
        if has_ended(Member::Rank(writer)) {
            self.state = State::Following { seen: found };
            return Turn::Ask(self.at.follow(found));
        }
        poke.into_iter().for_each(|mut poke| poke(Called::Rank(writer)));
        self.state = State::Waiting { seen: found };
        Turn::Wait
    }

    fn reads(&mut self) -> Turn {
        self.state = State::Reading;
        Turn::In
    }

    fn enter(&mut self, seen: PhaseWord) -> Turn {
        self.state = State::Entering { seen };
        let swap = self.at.swap(seen, seen.with_writer(self.me));
        Turn::Ask(std::iter::once(swap).chain(self.at.read_parts()).collect())
    }

    fn entered(
        &mut self,
        seen: PhaseWord,
        found: PhaseWord,
        parts: &[u64],
        has_ended: impl Fn(Member) -> bool,
    ) -> Turn {
        let mine = seen.with_writer(self.me);
        // The second where the same was asked before, by a connection that broke.
        if found != seen && found != mine {
            return self.enter(found);
        }
        self.guess = mine;
        self.drain(mine, parts, has_ended)
    }

    fn drain(&mut self, mine: PhaseWord, parts: &[u64], has_ended: impl Fn(Member) -> bool) -> Turn {
        let others = self.at.of_members(parts).filter(|(member, _)| *member != Member::Rank(self.me));
        let readers = others.filter(|(_, part)| part.reads_in(mine.phase())).map(|(member, _)| member);
        let readers: Vec<Member> = readers.filter(|member| !has_ended(*member)).collect();
        if readers.is_empty() {
            self.state = State::Writing { mine };
            return Turn::In;
        }
        self.state = State::Draining { mine, readers };
        Turn::Wait
    }

    fn pass(&mut self, mine: PhaseWord, reads_then: bool) -> Turn {
        self.state = State::Passing { mine, reads_then };
        let part = reads_then.then(|| self.write_part(PartWord::READING));
        Turn::Ask(part.into_iter().chain(self.at.follow(mine)).collect())
    }

    fn part_at(&self) -> WordAt {
        self.at.parts.plus(self.me)
    }

    fn load_phase(&self, memory: &impl Memory) -> PhaseWord {
        // SYNC POINT: sharing. Acquire pairs with the last writer's end; sequentially consistent, so that it is not
        // read before the part is written.
        PhaseWord(memory.word(self.at.phase).load(Ordering::SeqCst))
    }

    fn write_part(&self, part: PartWord) -> Request {
        Request::Write { at: self.part_at(), value: part.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_word_keeps_its_fields_apart_and_no_phase_comes_twice() {
        let first = PhaseWord(0).with_writer(0);
        assert_eq!((PhaseWord(0).writer(), first.writer(), first.phase()), (None, Some(0), 0));
        assert_eq!((first.over().writer(), first.over().phase()), (None, 1));
        let followed = first.with_writer((1 << 21) - 2);
        assert_eq!((followed.writer(), followed.phase()), (Some((1 << 21) - 2), 1), "one that has ended is followed");
        let last = PhaseWord(u64::MAX >> PhaseWord::PHASE_AT << PhaseWord::PHASE_AT).with_writer(7);
        assert_eq!((last.over().phase(), last.over().writer()), (0, None));
    }

    #[test]
    fn who_waits_for_a_phase_reads_in_all_others() {
        let waiting = PartWord::waiting_for(5);
        assert!(waiting.waits_for(5) && !waiting.reads_in(5) && waiting.reads_in(6) && waiting.reads_in(7));
        assert!(PartWord::READING.reads_in(0) && !PartWord::READING.waits_for(0) && !PartWord::NOTHING.reads_in(0));
        let last = PhaseWord(u64::MAX).phase();
        assert!(PartWord::waiting_for(last).waits_for(last));
        let called = PartWord::waiting_for(last).calling(2047);
        assert!(called.waits_for(last) && called.called() == 2047 && called.reads_in(last - 1));
    }
}
