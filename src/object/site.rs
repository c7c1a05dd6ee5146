//! An object's words at its home, wherever that is: on another node by the fabric, on this one in memory.
//!
//! Where this node's device does additions and swaps ([`home_words`](crate::fabric::network::home_words)), they are
//! posted to it here, too, as many as stand one behind the other together. Loads and writes are memory accesses all the
//! same, and each waits for what comes before it: that is the order that the fabric keeps for other nodes.
//!
//! No wait here is without an end where nobody can decide whether the home lives: it ends as if the connection had
//! broken, if something was sent, and as [`SiteFault::Silent`] from then on; one whose time is over, or whose rank
//! leaves the job, ends as [`SiteFault::Late`]. What was asked may then take effect yet. Whatever this process asks the home after
//! that comes behind it: it goes by the same connection, or by a later one, on whose making the rest of the first is
//! dropped.

use std::collections::VecDeque;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::reach::Reach;
use crate::coord::objects::directory::{SiteFault, Words};
use crate::coord::wait::Step;
use crate::fabric::network::Network;
use crate::fabric::{Await, BATCH_REQUESTS, Fabric, PostError, Request, Ticket, WordAt};
use crate::sync::spin_hint;

/// The longest sleep while answers are waited for: they end it.
const NAP: Duration = Duration::from_millis(1);

/// How long a home is tried to reach before it is asked whether it has left, and then again.
const QUESTION_EVERY: Duration = Duration::from_millis(20);

/// How long a call whose time is over waits on for answers that are on their way.
pub(super) const PATIENCE: Duration = Duration::from_millis(200);

/// A home, as one rank reaches it.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub reach: Reach,
    pub home: usize,
}

/// Requests to a home, and their answers as far as they have come.
#[derive(Debug, Default)]
pub(super) struct Asked {
    unposted: VecDeque<Request>,
    tickets: VecDeque<Ticket>,
    answers: Vec<u64>,
    /// The connection that has carried the first of them.
    incarnation: Option<u64>,
    /// When those who watch the home are asked whether it has left, if it is not reached until then.
    question: Option<Instant>,
}

#[cfg(test)]
impl Asked {
    /// Something was asked by a connection that has broken since.
    pub fn cut_off() -> Self {
        Self { incarnation: Some(u64::MAX), ..Self::default() }
    }
}

impl Site {
    /// Whether the home is this node.
    pub fn is_here(&self) -> bool {
        self.home == self.reach.here()
    }

    /// Whether the home is this node, and all that is done to its words are memory accesses.
    pub fn is_memory(&self) -> bool {
        let by_device = |network: &Network| network.changes_own_words_by_device();
        self.is_here() && !self.reach.network.as_deref().is_some_and(by_device)
    }

    /// Does some requests in order, and waits for their answers: the old values of all that are no writes.
    ///
    /// # Errors
    ///
    /// [`SiteFault`].
    ///
    /// # Cost
    ///
    /// A round trip for every 64 requests; on the home itself their memory accesses, or where its device changes words
    /// a round trip through that for additions and swaps that stand together.
    pub fn ask(&self, requests: &[Request]) -> Result<Vec<u64>, SiteFault> {
        self.ask_until(requests, None)
    }

    /// As [`ask`](Self::ask), until a time at the latest.
    ///
    /// # Errors
    ///
    /// [`SiteFault`].
    pub fn ask_until(&self, requests: &[Request], until: Option<Instant>) -> Result<Vec<u64>, SiteFault> {
        self.look_for_silence()?;
        // Of a rank that was declared failed, and comes back, other nodes execute nothing. Its own does.
        if self.is_here() && self.reach.own_end().is_some() {
            return Err(SiteFault::Excluded);
        }
        let mut asked = self.begin(requests);
        let begun = Instant::now();
        loop {
            if let Poll::Ready(answers) = self.poll(&mut asked) {
                if let Some(network) = self.reach.network.as_deref().filter(|_| !self.is_memory()) {
                    network.hand_over_if_asked(begun);
                }
                return answers;
            }
            if until.is_some_and(|until| Instant::now() >= until) || self.reach.gives_up(begun) {
                self.forget(&mut asked);
                return Err(SiteFault::Late { home: self.home });
            }
            self.pause(begun.elapsed());
        }
    }

    /// Fails where nothing is heard of the home, and nobody can decide whether it has failed.
    pub fn look_for_silence(&self) -> Result<(), SiteFault> {
        let is_silent = self.reach.is_doubtful(self.home) && !self.reach.has_lost(self.home);
        if is_silent { Err(SiteFault::Silent { node: self.home }) } else { Ok(()) }
    }

    /// Posts requests, whose answers [`poll`](Self::poll) gives. Never blocks.
    pub fn begin(&self, requests: &[Request]) -> Asked {
        if self.is_memory() {
            let asked = requests.iter().filter_map(|request| {
                let value = self.reach.execute(*request);
                request.has_ticket().then_some(value)
            });
            return Asked { answers: asked.collect(), ..Asked::default() };
        }
        let mut asked = Asked { answers: Vec::with_capacity(requests.len()), ..Asked::default() };
        if !self.post_at_once(requests, &mut asked) {
            asked.unposted = requests.iter().copied().collect();
            // What is wrong with posting is wrong with the next attempt, too, which returns it.
            let _ = self.post(&mut asked);
        }
        asked
    }

    /// Posts the first requests, if they are one batch and there is room for it: then they need not be kept.
    fn post_at_once(&self, requests: &[Request], asked: &mut Asked) -> bool {
        let is_batch = !self.is_here() && (1..=BATCH_REQUESTS).contains(&requests.len());
        let Some(network) = self.reach.network.as_deref().filter(|_| is_batch) else { return false };
        let mut tickets = Vec::with_capacity(requests.len());
        if network.post(self.home, requests, &mut tickets).is_err() {
            return false;
        }
        asked.tickets = tickets.into();
        asked.incarnation = Some(network.incarnation(self.home));
        true
    }

    /// The answers, when all are there. Never blocks.
    pub fn poll(&self, asked: &mut Asked) -> Poll<Result<Vec<u64>, SiteFault>> {
        // In memory all is done at once.
        let was_posted = asked.incarnation.is_some() || !asked.unposted.is_empty();
        if let Some(network) = self.reach.network.as_deref().filter(|_| was_posted) {
            network.progress();
            self.post(asked)?;
            while let Some(ticket) = asked.tickets.front() {
                let Poll::Ready(value) = network.take(*ticket) else { return self.look_around(asked) };
                asked.tickets.pop_front();
                match value {
                    Ok(value) => asked.answers.push(value),
                    Err(_) => return Poll::Ready(Err(self.broken(asked))),
                }
                if asked.tickets.is_empty() && self.is_here() {
                    // What waited for these.
                    self.post(asked)?;
                }
            }
            if !asked.unposted.is_empty() {
                return self.look_around(asked);
            }
            if asked.incarnation != Some(network.incarnation(self.home)) {
                return Poll::Ready(Err(self.broken(asked)));
            }
        }
        Poll::Ready(Ok(std::mem::take(&mut asked.answers)))
    }

    /// Waits a little for answers, after so long.
    pub fn pause(&self, waited: Duration) {
        match self.reach.plan.step(waited, false) {
            Step::Spin => spin_hint(),
            Step::Yield => crate::machine::yield_cpu(),
            Step::Park => {
                if let Some(network) = &self.reach.network {
                    network.nap(self.reach.alarm(), NAP);
                }
            }
        }
    }

    /// Posts what there is room for.
    fn post(&self, asked: &mut Asked) -> Result<(), SiteFault> {
        let Some(network) = self.reach.network.as_deref() else { return Ok(()) };
        loop {
            let batch = match self.is_here() {
                true => self.next_for_own_device(asked),
                false => asked.unposted.len().min(BATCH_REQUESTS),
            };
            if batch == 0 {
                return Ok(());
            }
            let mut tickets = Vec::with_capacity(batch);
            let requests = &asked.unposted.make_contiguous()[..batch];
            match network.post(self.home, requests, &mut tickets) {
                Ok(()) => {
                    asked.unposted.drain(..batch);
                    asked.tickets.extend(tickets);
                    self.note_connection(asked, network)?;
                }
                Err(PostError::Full { .. }) => return Ok(()),
                Err(_) if self.reach.has_lost(self.home) => return Err(SiteFault::Lost { home: self.home }),
                // It may be reached in a moment, or be declared failed.
                Err(_) => return Ok(()),
            }
        }
    }

    /// On the home itself, where its device changes words: loads and writes as far as their turn has come. How many
    /// requests then are to be posted together.
    fn next_for_own_device(&self, asked: &mut Asked) -> usize {
        if !asked.tickets.is_empty() {
            return 0;
        }
        while let Some(request) = asked.unposted.front().copied().filter(|request| !request.is_atomic()) {
            asked.unposted.pop_front();
            let value = self.reach.execute(request);
            asked.answers.extend(request.has_ticket().then_some(value));
        }
        asked.unposted.iter().take(BATCH_REQUESTS).take_while(|request| request.is_atomic()).count()
    }

    /// Notes by which connection the first of the requests went; what goes by another one is not in order with it.
    fn note_connection(&self, asked: &mut Asked, network: &Network) -> Result<(), SiteFault> {
        let now = network.incarnation(self.home);
        match asked.incarnation {
            Some(first) if first != now => Err(self.broken(asked)),
            _ => {
                asked.incarnation = Some(now);
                Ok(())
            }
        }
    }

    /// Something is not there yet: whether it will be.
    fn look_around(&self, asked: &mut Asked) -> Poll<Result<Vec<u64>, SiteFault>> {
        self.reach.shut_out_the_lost();
        if self.reach.has_lost(self.home) {
            self.forget(asked);
            return Poll::Ready(Err(SiteFault::Lost { home: self.home }));
        }
        if self.reach.own_end().is_some() {
            self.forget(asked);
            return Poll::Ready(Err(SiteFault::Excluded));
        }
        if let Err(silent) = self.look_for_silence() {
            // What was sent may take effect, as over a connection that breaks.
            let was_sent = asked.incarnation.is_some();
            self.forget(asked);
            return Poll::Ready(Err(if was_sent { SiteFault::Broken { home: self.home } } else { silent }));
        }
        if !asked.unposted.is_empty() && !self.is_here() {
            self.ask_whether_it_has_left(asked);
        }
        Poll::Pending
    }

    /// A node that leaves says so to its neighbours: others have to ask them.
    fn ask_whether_it_has_left(&self, asked: &mut Asked) {
        let now = Instant::now();
        let due = *asked.question.get_or_insert(now + QUESTION_EVERY);
        if now >= due {
            self.reach.ask_watchers_of(self.home);
            asked.question = Some(now + QUESTION_EVERY);
        }
    }

    fn broken(&self, asked: &mut Asked) -> SiteFault {
        self.forget(asked);
        let home = self.home;
        match self.reach.has_lost(home) {
            true => SiteFault::Lost { home },
            false => SiteFault::Broken { home },
        }
    }

    /// Waits for no answers any more. What was posted may take effect yet, before whatever this process asks after it.
    pub fn forget(&self, asked: &mut Asked) {
        asked.unposted.clear();
        if let Some(network) = &self.reach.network {
            asked.tickets.drain(..).for_each(|ticket| network.forget(ticket));
        }
    }
}

impl Words for &Site {
    fn load(&self, at: &[WordAt]) -> Result<Vec<u64>, SiteFault> {
        let reads: Vec<Request> = at.iter().map(|at| Request::Read { at: *at }).collect();
        self.ask(&reads)
    }

    fn store(&self, words: &[(WordAt, u64)]) -> Result<(), SiteFault> {
        let writes = words.iter().map(|(at, value)| Request::Write { at: *at, value: *value });
        // The read's answer says that the writes have arrived.
        let read = words.first().map(|(at, _)| Request::Read { at: *at });
        let all: Vec<Request> = writes.chain(read).collect();
        self.ask(&all).map(drop)
    }

    fn swap(&self, at: WordAt, seen: u64, wanted: u64) -> Result<bool, SiteFault> {
        let found = self.ask(&[Request::CompareSwap { at, expected: seen, new: wanted }])?;
        Ok(found[0] == seen)
    }
}
