//! Leases, by each rank's own clock: clocks begin anywhere, and run wrong by as much as they may. Some holders sleep
//! for longer than they hold, connections break, and a rank that crashes is known to be dead, or only not heard of:
//! then it is followed when its time is over.

use std::task::Poll;

use phalanx::coord::objects::lease::{Fates, Hold, LeaseAt, Lessee, Outcome, Turn};
use phalanx::fabric::sim::{Rates, Seeded, SimFabric, World};
use phalanx::fabric::{Fabric, Memory, Request, WordAt};
use phalanx::sync::Ordering;

use super::super::history::{Entry, History};
use super::super::specs::{Call, Op, Ret};
use super::{Caller, Clock, Crash, draw_crash, network, run_until};

/// Long beside what messages take, so that a thousandth of it matters.
pub const TTL_NS: u64 = 20_000_000;
/// Who waits looks so often, if nobody has it look.
const LOOK_EVERY_NS: u64 = 2_000_000;
/// No run takes longer: each rank sleeps through its holds.
pub const LIMIT_NS: u64 = 100 * TTL_NS;
/// Millionths by which a clock may run wrong.
const DRIFT: u64 = 500;

const HOLD: WordAt = WordAt(0);
/// Where a rank has others poke it.
const POKED: WordAt = WordAt(3);
const CLAIMS: WordAt = WordAt(4);

/// The first of a node's words that the lease has no use of.
pub const fn words_of(nodes: usize) -> WordAt {
    CLAIMS.plus(nodes)
}

/// A rank's clock.
#[derive(Clone, Copy)]
struct Watch {
    begins_at: u64,
    millionths: u64,
}

impl Watch {
    fn draw(random: &mut Seeded) -> Self {
        let millionths = 1_000_000 - DRIFT + [0, DRIFT, 2 * DRIFT][random.below(3)];
        Self { begins_at: random.below(1 << 40) as u64, millionths }
    }

    fn at(self, now_ns: u64) -> u64 {
        self.begins_at + now_ns * self.millionths / 1_000_000
    }

    /// When it says so first.
    fn shows(self, time: u64) -> u64 {
        let since = time.saturating_sub(self.begins_at);
        (since * 1_000_000).div_ceil(self.millionths)
    }
}

/// What a rank knows of the others.
struct Known {
    crash: Option<Crash>,
    /// Whether one that has crashed is surely dead.
    is_sure: bool,
    now_ns: u64,
}

impl Fates for Known {
    fn has_ended(&self, rank: usize) -> bool {
        self.crash.is_some_and(|crash| crash.is_known_of(rank, self.now_ns))
    }

    fn is_dead(&self, rank: usize) -> bool {
        self.is_sure && self.has_ended(rank)
    }
}

/// A rank's way to the lease, and back.
pub struct Tenancy {
    lessee: Lessee,
    watch: Watch,
    crash: Option<Crash>,
    is_sure: bool,
    /// What its word for that held before it asked last.
    poked: u64,
    looked_ns: u64,
    /// When it gives up waiting.
    gives_up_ns: u64,
    /// Whether a connection broke in the middle of the call.
    pub was_broken: bool,
}

impl Tenancy {
    pub fn new(nodes: usize, rank: usize, crash: Option<Crash>, is_sure: bool, random: &mut Seeded) -> Self {
        let (orders, base) = (HOLD.plus(1), HOLD.plus(2));
        let at = LeaseAt { hold: HOLD, orders, base, claims: CLAIMS, stride: 1, ranks: nodes, is_first: true };
        Self {
            lessee: Lessee::new(at, rank, TTL_NS),
            watch: Watch::draw(random),
            crash,
            is_sure,
            poked: 0,
            looked_ns: 0,
            gives_up_ns: u64::MAX,
            was_broken: false,
        }
    }

    /// Waits for the lease until a time.
    pub fn acquire(&mut self, gives_up_ns: u64, caller: &mut Caller, fabric: &SimFabric) {
        let turn = self.lessee.acquire(self.watch.at(fabric.now_ns()));
        self.begin(turn, gives_up_ns, caller, fabric);
    }

    pub fn try_acquire(&mut self, caller: &mut Caller, fabric: &SimFabric) {
        let turn = self.lessee.try_acquire(self.watch.at(fabric.now_ns()));
        self.begin(turn, u64::MAX, caller, fabric);
    }

    pub fn renew(&mut self, caller: &mut Caller, fabric: &SimFabric) {
        let turn = self.lessee.renew(self.watch.at(fabric.now_ns()));
        self.begin(turn, u64::MAX, caller, fabric);
    }

    pub fn release(&mut self, caller: &mut Caller, fabric: &SimFabric) {
        let turn = self.lessee.release();
        self.begin(turn, u64::MAX, caller, fabric);
    }

    fn begin(&mut self, turn: Turn, gives_up_ns: u64, caller: &mut Caller, fabric: &SimFabric) {
        (self.was_broken, self.gives_up_ns) = (false, gives_up_ns);
        assert!(self.follow(turn, caller, fabric).is_pending(), "it asks first");
    }

    /// Until when a holder knows that it holds: by the time of all.
    pub fn surely_until(&self, hold: Hold) -> u64 {
        self.watch.shows(hold.until(TTL_NS))
    }

    /// Goes on with what was begun last.
    pub fn poll(&mut self, caller: &mut Caller, fabric: &SimFabric) -> Poll<Outcome> {
        let now_ns = fabric.now_ns();
        let turn = if self.lessee.is_waiting() {
            match self.wake(fabric) {
                Some(turn) => turn,
                None => return Poll::Pending,
            }
        } else {
            let known = Known { crash: self.crash, is_sure: self.is_sure, now_ns };
            match caller.poll(fabric) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(answers)) => self.lessee.answered(&answers, self.watch.at(now_ns), &known),
                Poll::Ready(Err(())) => {
                    self.was_broken = true;
                    self.lessee.broken()
                }
            }
        };
        self.follow(turn, caller, fabric)
    }

    /// One that waits looks, or gives up, where it is time.
    fn wake(&mut self, fabric: &SimFabric) -> Option<Turn> {
        let now_ns = fabric.now_ns();
        if now_ns >= self.gives_up_ns {
            return Some(self.lessee.withdraw());
        }
        let follows_ns = self.lessee.follows_at().map_or(u64::MAX, |time| self.watch.shows(time));
        let due_ns = follows_ns.min(self.looked_ns + LOOK_EVERY_NS);
        if now_ns >= due_ns || self.pokes(fabric) != self.poked {
            return Some(self.lessee.look());
        }
        fabric.alarm(due_ns.min(self.gives_up_ns));
        None
    }

    fn pokes(&self, fabric: &SimFabric) -> u64 {
        fabric.memory().word(POKED).load(Ordering::Acquire)
    }

    fn follow(&mut self, turn: Turn, caller: &mut Caller, fabric: &SimFabric) -> Poll<Outcome> {
        if let Some(rank) = self.lessee.take_named() {
            let mut tickets = Vec::new();
            // Where it is lost, that rank looks by itself.
            let _ = fabric.post(rank, &[Request::FetchAdd { at: POKED, add: 1 }], &mut tickets);
            tickets.into_iter().for_each(|ticket| fabric.forget(ticket));
        }
        match turn {
            Turn::Ask(requests) => {
                self.poked = self.pokes(fabric);
                caller.ask(fabric, requests);
            }
            Turn::Wait => {
                self.looked_ns = fabric.now_ns();
                fabric.alarm(self.looked_ns + 1);
            }
            Turn::Over(outcome) => return Poll::Ready(outcome),
        }
        Poll::Pending
    }
}

/// A rank that takes the lease, keeps it or not, and gives it back.
struct Tenant {
    caller: Caller,
    tenancy: Tenancy,
    state: State,
    renewals: usize,
    /// Its last hold, and until when it knew that it held.
    token: u64,
    until_ns: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Outside,
    /// In the middle of a call.
    Busy,
    /// It holds the lease, and sleeps until then.
    Inside {
        wakes_ns: u64,
    },
}

impl Tenant {
    fn poll(&mut self, clock: &Clock, fabric: &SimFabric) -> Poll<()> {
        match self.state {
            State::Outside if self.caller.left == 0 => return Poll::Ready(()),
            State::Outside => self.begin(clock, fabric),
            State::Inside { wakes_ns } if fabric.now_ns() < wakes_ns => fabric.alarm(wakes_ns),
            State::Inside { .. } if self.renewals > 0 => {
                self.renewals -= 1;
                self.call(Op::Renew, clock, fabric);
                self.tenancy.renew(&mut self.caller, fabric);
            }
            State::Inside { .. } => {
                self.call(Op::Release, clock, fabric);
                self.tenancy.release(&mut self.caller, fabric);
            }
            State::Busy => {
                if let Poll::Ready(outcome) = self.tenancy.poll(&mut self.caller, fabric) {
                    self.end(outcome, clock, fabric);
                }
            }
        }
        Poll::Pending
    }

    fn call(&mut self, op: Op, clock: &Clock, fabric: &SimFabric) {
        self.state = State::Busy;
        self.caller.begin(op, clock.read(fabric));
    }

    fn begin(&mut self, clock: &Clock, fabric: &SimFabric) {
        self.caller.left -= 1;
        self.renewals = self.caller.random.below(3);
        match self.caller.random.below(5) {
            0 => {
                self.call(Op::TryAcquire, clock, fabric);
                self.tenancy.try_acquire(&mut self.caller, fabric);
            }
            1 => {
                let patience_ns = self.caller.random.below(30_000) as u64;
                self.call(Op::TryAcquire, clock, fabric);
                self.tenancy.acquire(fabric.now_ns() + patience_ns, &mut self.caller, fabric);
            }
            _ => {
                self.call(Op::Acquire, clock, fabric);
                self.tenancy.acquire(u64::MAX, &mut self.caller, fabric);
            }
        }
    }

    fn end(&mut self, outcome: Outcome, clock: &Clock, fabric: &SimFabric) {
        let op = self.caller.op();
        let is_new = matches!(op, Op::Acquire | Op::TryAcquire);
        let ret = match outcome {
            Outcome::Held(hold) => {
                (self.token, self.until_ns) = (hold.token, self.tenancy.surely_until(hold));
                Some(if is_new { Ret::Granted(hold.token) } else { Ret::Done })
            }
            Outcome::Free(_) => Some(if is_new { Ret::Busy } else { Ret::Done }),
            // It may have been released, and others have had it since.
            Outcome::Lost(_) if op == Op::Release && self.tenancy.was_broken => None,
            Outcome::Lost(_) => Some(Ret::Lost),
        };
        if let Some(ret) = ret {
            self.caller.end(ret, clock.read(fabric));
        }
        if matches!(outcome, Outcome::Lost(_)) {
            self.caller.entries.push(expired(self.caller.rank, self.token, self.until_ns));
        }
        self.state = match outcome {
            Outcome::Held(_) => State::Inside { wakes_ns: fabric.now_ns() + self.draw_sleep() },
            Outcome::Free(_) | Outcome::Lost(_) => State::Outside,
        };
        self.caller.pause(fabric);
    }

    /// Not at all, for less than it holds, about as long, or for longer.
    fn draw_sleep(&mut self) -> u64 {
        let random = &mut self.caller.random;
        match random.below(6) {
            0 => TTL_NS / 2,
            1 => TTL_NS + random.below(60_000) as u64,
            2 => TTL_NS * 3 / 2,
            _ => 0,
        }
    }
}

/// A hold may have come to its end at any time since its holder knew that it would.
pub fn expired(rank: usize, token: u64, until_ns: u64) -> Entry {
    Entry { call: Call { rank, op: Op::Expire(token) }, begun_ns: until_ns * 10_000, ended: None }
}

pub fn rent_in_turns(seed: u64) -> History {
    let mut random = Seeded::new(seed);
    let nodes = 2 + random.below(3);
    let mut options = network(&mut random, nodes, words_of(nodes).0);
    options.rates = Rates { failed_per_million: [0, 30_000][random.below(2)], duplicated_per_million: 0 };
    let mut world = World::new(options);
    let (crash, is_sure) = (draw_crash(&mut random, nodes, &mut world), random.below(2) == 0);
    let mut tenant = |rank| Tenant {
        caller: Caller::new(rank, seed),
        tenancy: Tenancy::new(nodes, rank, crash, is_sure, &mut random),
        state: State::Outside,
        renewals: 0,
        token: 0,
        until_ns: 0,
    };
    let mut ranks: Vec<Tenant> = (0..nodes).map(&mut tenant).collect();
    let clock = Clock::default();
    let poll = |rank: &mut Tenant, _: &_, fabric: &_| rank.poll(&clock, fabric);
    run_until(LIMIT_NS, &mut world, &mut ranks, poll, |rank| &rank.caller, crash)
}
