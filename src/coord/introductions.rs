//! The leaders of a spanning group's nodes agree on where their blocks are, and that there is a group at all.
//!
//! Each has made its node's block and offers it abroad ([`super::offers`]) under a name that all members compute alike.
//! Nobody is told anything: each leader reads what the others offer, again and again, and writes only its own words. So
//! nothing depends on one message, and asking twice does no harm.
//!
//! 1. A leader that has found all the others' blocks *votes* for the ballot: a hash of all blocks and attempts.
//! 2. A leader that finds that all have voted for the same ballot has *agreed*: the group is made. Nobody can take a
//!    vote back while its ballot may still win, so what one has found, all will find.
//! 3. An offer that has been agreed upon stands until all others are seen to have agreed, too.
//!
//! *Giving up.* Before it has voted a leader just ends its attempt; others who had voted find the attempt gone, and a
//! ballot with it that can win no more. A leader that has voted must know whether its ballot can still win. It *dooms*
//! an attempt that has not voted for it: it raises that offer's doom word, and then looks at its stage *again*. Whoever
//! votes says first that it is about to, and then looks at its doom. One of the two sees the other.
//!
//! An attempt has a number that is never used again, so a leader that has given up may call again, as another attempt.
//! Who has voted for a ballot that can win no more votes for the next one.

use std::task::Poll;

use super::barrier::spanning::layout::{NodeWord, SpanLayout};
use super::formation;
use super::losses::Losses;
use super::offers::{self, Named, Offered, Stage, StageWord};
use super::reads::{Place, Reads};
use crate::fabric::node::{NodeLayout, OFFERS, hash};
use crate::fabric::{Fabric, Memory, Ticket, WordAt};
use crate::sync::{Ordering, full_fence};

/// Words read of each offer: group, key, call, value, stage, and the group again.
const WORDS: usize = 6;

/// How often what is lost of a survey is asked for again, before the rest is looked at.
const REPEATS: u32 = 8;

/// A node whose block this one has to learn of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// Its number in the job.
    pub node: usize,
    /// Its leader's place in its rank table.
    pub leader: usize,
    /// How its segment is divided.
    pub layout: NodeLayout,
}

/// This node's part.
#[derive(Clone, Debug)]
pub struct Own {
    /// Its number in the job.
    pub node: usize,
    /// Its leader's place in its rank table.
    pub leader: usize,
    /// How its segment is divided.
    pub segment: NodeLayout,
    /// Its block.
    pub block: SpanLayout,
    /// Its index among the group's nodes.
    pub index: usize,
    /// The number that it gives to the group: the first attempt's.
    pub group: u64,
    /// The number of the group of whose members it is made: what is not wanted any more goes with that.
    pub parent: u64,
}

/// What a leader is found to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// It has not been read.
    Unread,
    /// It offers nothing under this name.
    Nothing,
    /// It is at a later call: this one is over for it.
    Later,
    /// It offers something.
    Attempt(Attempt),
}

/// Where another leader stands, for one that would give up.
#[derive(Clone, Copy, Debug)]
enum Stand {
    /// It has voted for the same ballot.
    For,
    /// It has ended, and may have.
    Presumed,
    /// It has not, and will not.
    Against,
    /// It is not known yet; perhaps it is to be asked whether its attempt is doomed.
    Open { is_to_be_doomed: bool },
}

impl Said {
    /// Of what is read at two places, what counts: the attempt that was voted for, any attempt at this call, then a
    /// later call. (A leader that gives an attempt up may be at the next one before the first has ended.)
    fn or(self, other: Self, voted: Option<u64>) -> Self {
        match (self, other) {
            (Self::Attempt(_), Self::Attempt(attempt)) if voted == Some(attempt.group) => other,
            (Self::Attempt(_), _) => self,
            (_, Self::Attempt(_)) => other,
            (Self::Later, _) | (_, Self::Later) => Self::Later,
            (Self::Unread, _) | (_, Self::Unread) => Self::Unread,
            (Self::Nothing, Self::Nothing) => Self::Nothing,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Attempt {
    place: usize,
    group: u64,
    start: u64,
    stage: StageWord,
}

/// Reads those offers again of which a word was lost: all of each, since it is their order that tells what belongs
/// together.
fn read_again(reads: &mut Reads) {
    for first in (0..reads.len()).step_by(WORDS) {
        if (first..first + WORDS).any(|index| reads.value(index).is_none()) {
            reads.discard(first..first + WORDS);
        }
    }
    reads.try_again();
}

/// What came of meeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// All have agreed: the group is made, and the list of its nodes is in this node's block.
    Agreed,
    /// A leader has no space, or has been through with this call.
    Refused,
    /// Another leader has ended this attempt, having given up: begin another one.
    Ended,
}

/// What came of giving up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenUp {
    /// There will be no group with this node's block.
    NoGroup,
    /// Too late: the group is made.
    Agreed,
    /// A leader has ended, and nobody can tell any more whether the group is made: this node leaves it as if it were.
    Presumed,
}

#[derive(Debug)]
struct Vote {
    ballot: u64,
    /// The others' attempts, in their order.
    groups: Vec<u64>,
}

/// A look at, or a swap of, another leader's doom word.
#[derive(Clone, Copy, Debug)]
struct Dooming {
    index: usize,
    ticket: Ticket,
    is_read: bool,
}

/// One leader's part in making a spanning group.
#[derive(Debug)]
pub struct Introductions {
    named: Named,
    own: Own,
    others: Vec<Stranger>,
    said: Vec<Said>,
    /// The places at which they have been found.
    places: Vec<Option<usize>>,
    survey: Option<Reads>,
    /// How often reads of the survey that were lost have been repeated.
    repeats: u32,
    offered: Option<Offered>,
    /// The same, once this node's other members can see it.
    opened: Option<Offered>,
    vote: Option<Vote>,
    has_agreed: bool,
    dooming: Option<Dooming>,
    /// Those whose attempts of the vote are known to be doomed.
    doomed: Vec<bool>,
    /// Those that have been seen to have agreed, or to be gone.
    know: Vec<bool>,
}

impl Introductions {
    /// Nothing is offered yet, and nobody known. `others` in the group's order.
    pub fn new(named: Named, own: Own, others: Vec<Stranger>) -> Self {
        let (said, doomed) = (vec![Said::Unread; others.len()], vec![false; others.len()]);
        let know = vec![false; others.len()];
        let places = vec![None; others.len()];
        let (survey, repeats, offered, opened) = (None, 0, None, None);
        let (vote, has_agreed, dooming) = (None, false, None);
        Self {
            named,
            own,
            others,
            said,
            places,
            survey,
            repeats,
            offered,
            opened,
            vote,
            has_agreed,
            dooming,
            doomed,
            know,
        }
    }

    /// What the group is offered under.
    pub fn named(&self) -> Named {
        self.named
    }

    /// The group of whose members it is made.
    pub fn parent(&self) -> u64 {
        self.own.parent
    }

    /// This node's block.
    pub fn block(&self) -> SpanLayout {
        self.own.block
    }

    /// The leader's place in the rank table.
    pub fn leader(&self) -> usize {
        self.own.leader
    }

    /// How this node's segment is divided.
    pub fn segment(&self) -> &NodeLayout {
        &self.own.segment
    }

    /// Whether the leader has a place for its offer.
    pub fn is_offered(&self) -> bool {
        self.offered.is_some()
    }

    /// The first node whose leader has not been found.
    pub fn missing(&self) -> Option<&Stranger> {
        let mut first = 0;
        for (index, stranger) in self.others.iter().enumerate() {
            let end = first + self.places_of(index).len() * WORDS;
            if !matches!(self.said[index], Said::Attempt(_)) && !self.has_shown_up(index, first..end) {
                return Some(stranger);
            }
            first = end;
        }
        None
    }

    /// Whether what has come of the survey under way tells of a leader's attempt.
    fn has_shown_up(&self, index: usize, words: std::ops::Range<usize>) -> bool {
        let Some(reads) = &self.survey else { return false };
        let values: Vec<Option<u64>> = words.map(|word| reads.value(word)).collect();
        let mut found = self.places_of(index).zip(values.chunks_exact(WORDS));
        found.any(|(place, words)| matches!(self.understand(place, words), Said::Attempt(_)))
    }

    /// It is wanted again, after some steps to give it up. A survey under way goes on: votes that it finds stand. What
    /// is asked of a doom word may be about another attempt when the answer comes.
    pub fn resume(&mut self, fabric: &impl Fabric) {
        if let Some(dooming) = self.dooming.take() {
            fabric.forget(dooming.ticket);
        }
    }

    /// Moves on. After [`Met::Ended`] call [`begin_again`](Self::begin_again), after [`Met::Refused`]
    /// [`close`](Self::close), after [`Met::Agreed`] [`open`](Self::open) and then [`acknowledge`](Self::acknowledge)
    /// until that is ready.
    pub fn poll(&mut self, memory: &impl Memory, fabric: &impl Fabric) -> Poll<Met> {
        if self.has_agreed {
            return Poll::Ready(Met::Agreed);
        }
        let Some(offered) = self.offered.or_else(|| self.try_to_offer(memory)) else { return Poll::Pending };
        if self.survey(fabric).is_pending() {
            return Poll::Pending;
        }
        let met = self.judge(memory, offered);
        if matches!(met, Poll::Ready(Met::Refused | Met::Ended)) {
            offers::end_attempt(memory, offered);
            self.vote = None;
        }
        met
    }

    fn try_to_offer(&mut self, memory: &impl Memory) -> Option<Offered> {
        let Own { segment, leader, block, group, .. } = &self.own;
        self.offered = offers::offer_abroad(memory, segment, *leader, self.named, (block.start().0 as u64, *group));
        self.offered
    }

    /// Another attempt with the same block, numbered `group`.
    pub fn begin_again(&mut self, memory: &impl Memory, group: u64) {
        self.own.group = group;
        self.vote = None;
        if let Some(offered) = self.offered {
            offers::begin_attempt(memory, offered, group, Stage::Offered);
        }
    }

    /// What to make of all that has been read.
    fn judge(&mut self, memory: &impl Memory, offered: Offered) -> Poll<Met> {
        let is_refusal = |said: &Said| match said {
            Said::Later => true,
            Said::Attempt(attempt) => attempt.stage.stage() == Some(Stage::Refused),
            Said::Unread | Said::Nothing => false,
        };
        if self.said.iter().any(is_refusal) {
            return Poll::Ready(Met::Refused);
        }
        let is_doomed = self.is_doomed(memory, offered);
        let Some(attempts) = self.attempts() else {
            // A vote for a ballot of which an attempt is gone is void.
            let is_void = self.vote.as_ref().is_none_or(|vote| self.has_lost(vote));
            return if is_doomed && is_void { Poll::Ready(Met::Ended) } else { Poll::Pending };
        };
        let ballot = self.ballot(&attempts);
        if self.vote.as_ref().is_none_or(|vote| vote.ballot != ballot) && !self.vote(memory, offered, &attempts, ballot)
        {
            return Poll::Ready(Met::Ended);
        }
        if !attempts.iter().all(|attempt| attempt.stage.is_for(ballot)) {
            return Poll::Pending;
        }
        self.agree(memory, offered, ballot);
        Poll::Ready(Met::Agreed)
    }

    fn agree(&mut self, memory: &impl Memory, offered: Offered, ballot: u64) {
        self.has_agreed = true;
        // SYNC POINT: agreed. Release: this leader has read all votes before. Pairs with the other leaders' reads in
        // `survey`, which fabrics serve as acquire loads: who finds this may end the attempt that its own vote was for.
        memory.word(offered.at.stage()).store(StageWord::new(Stage::Agreed, ballot).0, Ordering::Release);
    }

    fn is_doomed(&self, memory: &impl Memory, offered: Offered) -> bool {
        // SYNC POINT: doom. After the stage has been stored.
        memory.word(offered.at.doom()).load(Ordering::SeqCst) >= self.own.group
    }

    fn attempts(&self) -> Option<Vec<Attempt>> {
        let attempt = |said: &Said| match said {
            Said::Attempt(attempt) => Some(*attempt),
            Said::Unread | Said::Nothing | Said::Later => None,
        };
        self.said.iter().map(attempt).collect()
    }

    /// Whether an attempt that was voted for is gone.
    fn has_lost(&self, vote: &Vote) -> bool {
        let is_gone = |(said, group): (&Said, &u64)| match said {
            Said::Unread => false,
            Said::Nothing | Said::Later => true,
            Said::Attempt(attempt) => attempt.group != *group,
        };
        self.said.iter().zip(&vote.groups).any(is_gone)
    }

    /// All nodes' numbers, blocks and attempts, in the group's order.
    fn list(&self, attempts: &[Attempt]) -> Vec<(usize, u64, u64)> {
        let other = |(stranger, attempt): (&Stranger, &Attempt)| (stranger.node, attempt.start, attempt.group);
        let mut list: Vec<(usize, u64, u64)> = self.others.iter().zip(attempts).map(other).collect();
        list.insert(self.own.index, (self.own.node, self.own.block.start().0 as u64, self.own.group));
        list
    }

    fn ballot(&self, attempts: &[Attempt]) -> u64 {
        let words = self.list(attempts).into_iter().flat_map(|(node, start, group)| [node as u64, start, group]);
        // The lowest bit that is kept is set: 0 is no ballot.
        (hash(self.named.key, &words.collect::<Vec<u64>>()) | 8) & !7
    }

    /// Votes, unless the attempt is doomed. The block says first which group it is.
    fn vote(&mut self, memory: &impl Memory, offered: Offered, attempts: &[Attempt], ballot: u64) -> bool {
        let list = self.list(attempts);
        // Relaxed, here and below: the vote publishes them, and the leader's opening of the offer to its node.
        let store = |at: WordAt, value: u64| memory.word(at).store(value, Ordering::Relaxed);
        let block = self.own.block;
        for (index, (node, start, _)) in list.iter().enumerate() {
            // Checked by whoever reads the list.
            let start = WordAt(usize::try_from(*start).unwrap_or(usize::MAX));
            store(block.node(index), NodeWord::new(*node, start).0);
        }
        store(block.local().id(), list[0].2);
        store(block.ballot(), ballot);
        let stage = memory.word(offered.at.stage());
        // SYNC POINT: doom. Before the doom is looked at; who raises it looks at the stage after that.
        stage.store(StageWord::new(Stage::Voting, ballot).0, Ordering::SeqCst);
        full_fence();
        if self.is_doomed(memory, offered) {
            return false;
        }
        // SYNC POINT: vote. Release pairs with the other leaders' reads in `survey`, which fabrics serve as acquire
        // loads: who finds this reads the block later, and sees what it says.
        stage.store(StageWord::new(Stage::Voted, ballot).0, Ordering::Release);
        self.vote = Some(Vote { ballot, groups: attempts.iter().map(|attempt| attempt.group).collect() });
        self.doomed.fill(false);
        true
    }

    /// Opens the place to the node's other members: they find the group, or (`is_refusal`) that there is none.
    /// Once: who calls again learns where.
    pub fn open(&mut self, memory: &impl Memory, takers: usize, is_refusal: bool) -> Option<Offered> {
        if let (None, Some(offered)) = (self.opened, self.offered) {
            if !is_refusal {
                formation::share(memory, &self.own.segment, self.own.block.start(), takers);
            }
            offers::open(memory, offered, takers, is_refusal);
            self.opened = Some(offered);
        }
        self.opened
    }

    /// Takes back what this node's other members have not taken; how many can take it no more.
    pub fn revoke(&self, memory: &impl Memory) -> usize {
        self.opened.map_or(0, |opened| offers::revoke(memory, opened))
    }

    /// After [`Met::Refused`]: tells the node's other members, and lets the place go.
    pub fn close(mut self, memory: &impl Memory, fabric: &impl Fabric, takers: usize) {
        self.abandon(fabric);
        if let Some(offered) = self.open(memory, takers, true) {
            offers::let_go(memory, offered);
        }
    }

    /// After [`Met::Agreed`]: ready when all others are known to have agreed, too, or to have ended, and the place is
    /// let go.
    pub fn acknowledge(&mut self, memory: &impl Memory, fabric: &impl Fabric, losses: &Losses) -> Poll<()> {
        let (Some(offered), Some(vote)) = (self.offered, &self.vote) else { return Poll::Ready(()) };
        let (ballot, groups) = (vote.ballot, vote.groups.clone());
        if self.survey(fabric).is_pending() {
            return Poll::Pending;
        }
        let agreed = StageWord::new(Stage::Agreed, ballot);
        // Nobody else lets its place go before it has found this one agreed or gone.
        let knows = |(said, group): (&Said, u64)| match said {
            Said::Unread => false,
            Said::Nothing | Said::Later => true,
            Said::Attempt(attempt) => attempt.group != group || attempt.stage == agreed,
        };
        // What has been seen once stays so, though its node may not answer any more.
        for ((know, stranger), found) in self.know.iter_mut().zip(&self.others).zip(self.said.iter().zip(groups)) {
            *know |= knows(found) || losses.has_ended(stranger.node, stranger.leader);
        }
        if !self.know.iter().all(|know| *know) {
            return Poll::Pending;
        }
        self.end(memory, fabric, offered);
        Poll::Ready(())
    }

    /// Whether some of those that this leader waits for did not answer when they were asked last: all that are to know
    /// that there is a group, or any, to give up.
    pub fn is_unanswered(&self) -> bool {
        let mut awaited = self.said.iter().zip(&self.know).filter(|(_, know)| !**know).map(|(said, _)| said);
        let is_unread = |said: &Said| *said == Said::Unread;
        if self.has_agreed { awaited.all(is_unread) } else { awaited.any(is_unread) }
    }

    /// As [`acknowledge`](Self::acknowledge), if it is this offer's: the caller knows that all others have agreed.
    pub fn conclude(&mut self, memory: &impl Memory, offered: Offered, fabric: &impl Fabric) -> bool {
        let is_this = self.has_agreed && self.offered == Some(offered);
        if is_this {
            self.end(memory, fabric, offered);
        }
        is_this
    }

    /// Gives up, if it can. [`GivenUp::NoGroup`]: the place is let go, and the block is the caller's to give back.
    ///
    /// A leader that has ended may have told others of its vote, who then have found the group. Where all the rest have
    /// voted, who gives up leaves the group as if it were made: its vote stands until they know, its block until they
    /// have departed.
    pub fn give_up(&mut self, memory: &impl Memory, fabric: &impl Fabric, losses: &Losses) -> Poll<GivenUp> {
        if self.has_agreed {
            return Poll::Ready(GivenUp::Agreed);
        }
        let Some(offered) = self.offered else { return Poll::Ready(GivenUp::NoGroup) };
        let Some(vote) = &self.vote else { return Poll::Ready(self.end(memory, fabric, offered)) };
        let (ballot, groups) = (vote.ballot, vote.groups.clone());
        if self.doom(&groups, fabric).is_pending() || self.survey(fabric).is_pending() {
            return Poll::Pending;
        }
        let (mut is_agreed, mut is_presumed) = (true, false);
        let mut to_be_doomed = None;
        for (index, group) in groups.iter().enumerate() {
            match self.stand_of(index, *group, ballot, losses) {
                Stand::Against => return Poll::Ready(self.end(memory, fabric, offered)),
                Stand::For => {}
                Stand::Presumed => is_presumed = true,
                Stand::Open { is_to_be_doomed } => {
                    is_agreed = false;
                    to_be_doomed = to_be_doomed.or(is_to_be_doomed.then_some(index));
                }
            }
        }
        if is_agreed {
            self.agree(memory, offered, ballot);
            return Poll::Ready(if is_presumed { GivenUp::Presumed } else { GivenUp::Agreed });
        }
        if let Some(index) = to_be_doomed {
            self.look_at_doom(index, fabric);
        }
        Poll::Pending
    }

    /// Where another leader stands, as far as it has said.
    fn stand_of(&self, index: usize, group: u64, ballot: u64, losses: &Losses) -> Stand {
        let has_ended = losses.has_ended(self.others[index].node, self.others[index].leader);
        let stage = match &self.said[index] {
            Said::Unread if has_ended => return Stand::Presumed,
            Said::Unread => return Stand::Open { is_to_be_doomed: false },
            Said::Attempt(attempt) if attempt.group == group => attempt.stage,
            Said::Nothing | Said::Later | Said::Attempt(_) => return Stand::Against,
        };
        let is_voting = stage == StageWord::new(Stage::Voting, ballot);
        match stage {
            _ if stage.is_for(ballot) => Stand::For,
            _ if is_voting && has_ended => Stand::Presumed,
            // It is looking at its doom.
            _ if is_voting => Stand::Open { is_to_be_doomed: false },
            _ if self.doomed[index] => Stand::Against,
            _ => Stand::Open { is_to_be_doomed: true },
        }
    }

    /// The doom word of another leader's offer.
    fn doom_of(&self, index: usize) -> Option<(usize, WordAt)> {
        let Said::Attempt(attempt) = self.said[index] else { return None };
        let stranger = &self.others[index];
        Some((stranger.node, stranger.layout.offer(stranger.leader, attempt.place).doom()))
    }

    fn look_at_doom(&mut self, index: usize, fabric: &impl Fabric) {
        let Some((node, at)) = self.doom_of(index) else { return };
        self.dooming = fabric.read(node, at).ok().map(|ticket| Dooming { index, ticket, is_read: true });
    }

    /// Goes on raising a doom word; ready when nothing is on its way. What is lost is begun again, with a look.
    fn doom(&mut self, groups: &[u64], fabric: &impl Fabric) -> Poll<()> {
        let Some(Dooming { index, ticket, is_read }) = self.dooming else { return Poll::Ready(()) };
        fabric.progress();
        let Poll::Ready(answer) = fabric.take(ticket) else { return Poll::Pending };
        self.dooming = None;
        match answer {
            Ok(doom) if is_read && doom >= groups[index] => self.doomed[index] = true,
            Ok(doom) if is_read => {
                let Some((node, at)) = self.doom_of(index) else { return Poll::Ready(()) };
                let swap = fabric.compare_swap(node, at, doom, groups[index]);
                self.dooming = swap.ok().map(|ticket| Dooming { index, ticket, is_read: false });
            }
            // Swapped, or somebody else was quicker, or the answer was lost: a look tells.
            Ok(_) | Err(_) => self.look_at_doom(index, fabric),
        }
        if self.dooming.is_some() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Reads what the others say, once; ready when all have answered, or cannot be asked.
    fn survey(&mut self, fabric: &impl Fabric) -> Poll<()> {
        let mut reads = self.survey.take().unwrap_or_else(|| Reads::new(self.words_of_others()));
        if reads.poll(fabric).is_pending() {
            self.survey = Some(reads);
            return Poll::Pending;
        }
        if reads.has_failed() && self.repeats < REPEATS {
            self.repeats += 1;
            read_again(&mut reads);
            self.survey = Some(reads);
            return Poll::Pending;
        }
        self.repeats = 0;
        self.take_in(&reads.into_values(fabric));
        Poll::Ready(())
    }

    /// The places to be read of a leader: the one at which it has been found, or all.
    fn places_of(&self, index: usize) -> std::ops::Range<usize> {
        self.places[index].map_or(0..OFFERS, |place| place..place + 1)
    }

    fn words_of_others(&self) -> Vec<Place> {
        let mut words = Vec::new();
        for (index, stranger) in self.others.iter().enumerate() {
            for place in self.places_of(index) {
                let offer = stranger.layout.offer(stranger.leader, place);
                // SYNC POINT: attempt. What stands between two equal groups belongs to that attempt.
                let all = [offer.group(), offer.key(), offer.call(), offer.value(), offer.stage(), offer.group()];
                words.extend(all.map(|at| Place { node: stranger.node, at }));
            }
        }
        words
    }

    fn take_in(&mut self, values: &[Option<u64>]) {
        let mut values = values.chunks_exact(WORDS);
        for index in 0..self.others.len() {
            let places = self.places_of(index);
            let mut said = Said::Nothing;
            let voted = self.vote.as_ref().map(|vote| vote.groups[index]);
            for (place, words) in places.zip(&mut values) {
                said = said.or(self.understand(place, words), voted);
            }
            self.places[index] = match said {
                Said::Attempt(attempt) => Some(attempt.place),
                Said::Nothing | Said::Later => None,
                // It is where it was, if it was found.
                Said::Unread => self.places[index],
            };
            self.said[index] = said;
        }
    }

    fn understand(&self, place: usize, words: &[Option<u64>]) -> Said {
        let [Some(group), Some(key), Some(call), Some(start), Some(stage), Some(again)] = *words else {
            return Said::Unread;
        };
        if group == 0 || group != again || key != self.named.key || call < self.named.call {
            return Said::Nothing;
        }
        if call > self.named.call {
            return Said::Later;
        }
        Said::Attempt(Attempt { place, group, start, stage: StageWord(stage) })
    }

    /// Gives up what is on its way.
    pub fn abandon(&mut self, fabric: &impl Fabric) {
        if let Some(reads) = self.survey.take() {
            drop(reads.into_values(fabric));
        }
        self.resume(fabric);
    }

    fn end(&mut self, memory: &impl Memory, fabric: &impl Fabric, offered: Offered) -> GivenUp {
        offers::end_attempt(memory, offered);
        offers::let_go(memory, offered);
        self.offered = None;
        self.abandon(fabric);
        GivenUp::NoGroup
    }
}
