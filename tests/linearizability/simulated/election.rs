//! Elections, on a lock between nodes or on a lease: who has that announces itself, and takes the announcement back
//! before it gives that up. Of those on leases some sleep for longer than they hold, before they are announced or when
//! they lead; others have been elected then.

use std::task::Poll;

use phalanx::coord::objects::election::{Announced, Announcement, Announcer, ElectionAt};
use phalanx::coord::objects::lease::Outcome;
use phalanx::fabric::sim::{Seeded, SimFabric, SimNode, World};

use super::super::history::History;
use super::super::specs::{Op, Ret};
use super::lease::{self, LIMIT_NS, TTL_NS, Tenancy, expired};
use super::lock::{self, Way};
use super::{Caller, Clock, Crash, draw_crash, network, run_until};

/// What a candidate wants and a leader has.
enum Seat {
    Lock(Way),
    Lease(Tenancy),
}

/// What has come of asking for a seat, or of giving it up.
#[derive(Clone, Copy)]
enum Seated {
    /// Under this token, until then at least.
    Sits {
        token: u64,
        until_ns: u64,
    },
    Free,
    /// It was another one's before.
    Lost,
}

impl Seat {
    fn acquire(&mut self, caller: &mut Caller, fabric: &SimFabric) {
        match self {
            Self::Lock(way) => way.acquire(caller, fabric),
            Self::Lease(tenancy) => tenancy.acquire(u64::MAX, caller, fabric),
        }
    }

    fn release(&mut self, caller: &mut Caller, fabric: &SimFabric) {
        match self {
            Self::Lock(way) => way.release(caller, fabric),
            Self::Lease(tenancy) => tenancy.release(caller, fabric),
        }
    }

    fn poll(&mut self, caller: &mut Caller, memory: &SimNode, fabric: &SimFabric) -> Poll<Seated> {
        match self {
            Self::Lock(way) => way.poll(caller, memory, fabric).map(|token| match token {
                Some(token) => Seated::Sits { token, until_ns: u64::MAX },
                None => Seated::Free,
            }),
            Self::Lease(tenancy) => tenancy.poll(caller, fabric).map(|outcome| match outcome {
                Outcome::Held(hold) => Seated::Sits { token: hold.token, until_ns: tenancy.surely_until(hold) },
                Outcome::Free(_) => Seated::Free,
                Outcome::Lost(_) => Seated::Lost,
            }),
        }
    }

    /// Now and then longer than a lease lasts.
    fn draw_sleep(&self, random: &mut Seeded) -> u64 {
        match self {
            Self::Lease(_) if random.below(4) == 0 => TTL_NS * 3 / 2,
            _ => 0,
        }
    }
}

enum State {
    Outside,
    Looking,
    /// For the seat.
    Standing,
    /// It has that, and announces itself after a sleep.
    Elected {
        wakes_ns: u64,
    },
    Announcing(Announcer),
    /// It was late: another one is announced. It gives the seat up.
    Parting,
    Leading {
        wakes_ns: u64,
    },
    /// The announcement is being taken back.
    Withdrawing,
    Resigning,
}

/// A rank that stands for election, leads and resigns, or looks who leads.
struct Candidate {
    caller: Caller,
    seat: Seat,
    at: ElectionAt,
    state: State,
    term: u64,
    until_ns: u64,
}

impl Candidate {
    fn poll(&mut self, clock: &Clock, memory: &SimNode, fabric: &SimFabric) -> Poll<()> {
        match self.state {
            State::Outside if self.caller.left == 0 => return Poll::Ready(()),
            State::Outside => self.begin(clock, fabric),
            State::Elected { wakes_ns } | State::Leading { wakes_ns } if fabric.now_ns() < wakes_ns => {
                fabric.alarm(wakes_ns);
            }
            State::Elected { .. } => {
                let (announcer, reads) = Announcer::begin(self.at, self.caller.rank, self.term);
                self.state = State::Announcing(announcer);
                self.caller.ask(fabric, reads);
            }
            State::Leading { .. } => {
                self.caller.begin(Op::Release, clock.read(fabric));
                self.state = State::Withdrawing;
                self.caller.ask(fabric, self.at.withdraw(self.caller.rank, self.term).to_vec());
            }
            State::Standing | State::Parting | State::Resigning => {
                if let Poll::Ready(seated) = self.seat.poll(&mut self.caller, memory, fabric) {
                    self.seated(seated, clock, fabric);
                }
            }
            State::Looking | State::Announcing(_) | State::Withdrawing => {
                if let Poll::Ready(answers) = self.caller.poll(fabric) {
                    self.answered(&answers.expect("no connection breaks here"), clock, fabric);
                }
            }
        }
        Poll::Pending
    }

    fn begin(&mut self, clock: &Clock, fabric: &SimFabric) {
        self.caller.left -= 1;
        if self.caller.random.below(3) == 0 {
            self.caller.begin(Op::Look, clock.read(fabric));
            self.state = State::Looking;
            self.caller.ask(fabric, self.at.look(None));
        } else {
            self.caller.begin(Op::Acquire, clock.read(fabric));
            self.state = State::Standing;
            self.seat.acquire(&mut self.caller, fabric);
        }
    }

    fn answered(&mut self, answers: &[u64], clock: &Clock, fabric: &SimFabric) {
        match &mut self.state {
            State::Looking => {
                let found = Announcement::of([answers[0], answers[1]]).leader();
                let ret = found.map_or(Ret::Nobody, |(rank, term)| Ret::Led(rank, term));
                self.end(Some(ret), State::Outside, clock, fabric);
            }
            State::Announcing(announcer) => match announcer.answered(answers) {
                Announced::Ask(requests) => self.caller.ask(fabric, requests),
                Announced::Done { .. } => {
                    let wakes_ns = fabric.now_ns() + self.seat.draw_sleep(&mut self.caller.random);
                    self.end(Some(Ret::Granted(self.term)), State::Leading { wakes_ns }, clock, fabric);
                }
                Announced::Superseded => {
                    self.state = State::Parting;
                    self.seat.release(&mut self.caller, fabric);
                }
            },
            _ => {
                self.state = State::Resigning;
                self.seat.release(&mut self.caller, fabric);
            }
        }
    }

    fn seated(&mut self, seated: Seated, clock: &Clock, fabric: &SimFabric) {
        let is_call = matches!(self.state, State::Resigning);
        match seated {
            Seated::Sits { token, until_ns } => {
                (self.term, self.until_ns) = (token, until_ns);
                let wakes_ns = fabric.now_ns() + self.seat.draw_sleep(&mut self.caller.random);
                self.state = State::Elected { wakes_ns };
                fabric.alarm(wakes_ns);
            }
            Seated::Free => self.end(is_call.then_some(Ret::Done), State::Outside, clock, fabric),
            Seated::Lost => {
                self.end(is_call.then_some(Ret::Lost), State::Outside, clock, fabric);
                self.caller.entries.push(expired(self.caller.rank, self.term, self.until_ns));
            }
        }
    }

    /// The call has ended; `None`: it says nothing of what it has done.
    fn end(&mut self, ret: Option<Ret>, state: State, clock: &Clock, fabric: &SimFabric) {
        if let Some(ret) = ret {
            self.caller.end(ret, clock.read(fabric));
        }
        self.state = state;
        self.caller.pause(fabric);
    }
}

pub fn lead_in_turns(seed: u64) -> History {
    let mut random = Seeded::new(seed);
    let nodes = 2 + random.below(3);
    let has_time_to_live = random.below(2) == 0;
    let own = if has_time_to_live { lease::words_of(nodes) } else { lock::words_of(nodes) };
    let at = ElectionAt { term: own, leader: own.plus(1), watched: own.plus(2) };
    let mut world = World::new(network(&mut random, nodes, own.plus(3).0));
    let crash: Option<Crash> = draw_crash(&mut random, nodes, &mut world);
    let is_sure = random.below(2) == 0;
    let mut ranks: Vec<Candidate> = (0..nodes)
        .map(|rank| Candidate {
            caller: Caller::new(rank, seed),
            seat: match has_time_to_live {
                true => Seat::Lease(Tenancy::new(nodes, rank, crash, is_sure, &mut random)),
                false => Seat::Lock(Way::new(nodes, rank, crash)),
            },
            at,
            state: State::Outside,
            term: 0,
            until_ns: u64::MAX,
        })
        .collect();
    let clock = Clock::default();
    let poll = |rank: &mut Candidate, memory: &_, fabric: &_| rank.poll(&clock, memory, fabric);
    run_until(LIMIT_NS, &mut world, &mut ranks, poll, |rank| &rank.caller, crash)
}
