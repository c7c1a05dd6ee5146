//! What each kind of object does when it is called by one rank after the other.

use std::collections::{BTreeMap, BTreeSet};

use stateright::semantics::SequentialSpec;

/// A call, by the rank that makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub rank: usize,
    pub op: Op,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// To a counter.
    Add(u64),
    Load,
    Exchange {
        current: u64,
        new: u64,
    },
    /// To a fenced word.
    Write {
        token: u64,
        value: u64,
    },
    Fence(u64),
    Read,
    /// To a lock, or to write under one that readers share.
    Acquire,
    TryAcquire,
    Release,
    /// To a semaphore.
    Take(u64),
    Return(u64),
    /// To read under a lock that readers share.
    Enter,
    Leave,
    /// To go over from writing to reading.
    Downgrade,
    /// To a lease, besides `Acquire`, `TryAcquire` and `Release`.
    Renew,
    /// The time of a lease's hold with this token is over: from then on nobody holds it. No rank's call.
    Expire(u64),
    /// To an election, besides `Acquire` (to stand until it is won), `Release` (to resign) and, where leaders have a
    /// time to live, `Expire`.
    Check,
    Look,
    /// The rank dies.
    Die,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ret {
    Value(u64),
    /// An exchange has not taken place: this is the value.
    Differs(u64),
    Pair(u64, u64),
    /// A greater token was seen, this one.
    Refused(u64),
    /// With this token.
    Granted(u64),
    /// It would have to wait.
    Busy,
    Done,
    /// A lease was lost before.
    Lost,
    /// This rank leads, by this term.
    Led(usize, u64),
    Nobody,
    /// It has taken effect, and nobody knows what it returned.
    Unheard,
}

/// An object of each kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    Counter(u64),
    Fenced { token: u64, value: u64 },
    Lock { holder: Option<usize>, last: u64 },
    Semaphore { left: u64, held: BTreeMap<usize, u64> },
    RwLock { writer: Option<usize>, readers: BTreeSet<usize>, last: u64 },
    Lease { holder: Option<usize>, last: u64 },
    Election { leader: Option<usize>, last: u64 },
}

/// What comes of a call.
enum Effect {
    /// It returns this.
    Returns(Ret),
    /// It is granted, under a token greater than all before.
    Grants,
    /// It has to wait.
    Waits,
    /// This object has no such call.
    IsNone,
}

impl Object {
    pub fn lock() -> Self {
        Self::Lock { holder: None, last: 0 }
    }

    pub fn rwlock() -> Self {
        Self::RwLock { writer: None, readers: BTreeSet::new(), last: 0 }
    }

    pub fn lease() -> Self {
        Self::Lease { holder: None, last: 0 }
    }

    pub fn election() -> Self {
        Self::Election { leader: None, last: 0 }
    }

    pub fn semaphore(permits: u64) -> Self {
        Self::Semaphore { left: permits, held: BTreeMap::new() }
    }

    fn call(&mut self, Call { rank, op }: Call) -> Effect {
        match self {
            Self::Counter(value) => Self::counter(value, op),
            Self::Fenced { token, value } => Self::fenced(token, value, op),
            Self::Lock { holder, .. } => Self::exclusive(holder, rank, op),
            Self::Semaphore { left, held } => Self::permits(left, held, rank, op),
            Self::RwLock { writer, readers, .. } => Self::shared(writer, readers, rank, op),
            Self::Lease { holder, last } => Self::leased(holder, *last, rank, op),
            Self::Election { leader, last } => Self::elected(leader, *last, rank, op),
        }
    }

    fn counter(value: &mut u64, op: Op) -> Effect {
        let before = *value;
        match op {
            Op::Add(add) => *value = value.wrapping_add(add),
            Op::Load => {}
            Op::Exchange { current, new } if current == before => *value = new,
            Op::Exchange { .. } => return Effect::Returns(Ret::Differs(before)),
            Op::Die => return Effect::Returns(Ret::Done),
            _ => return Effect::IsNone,
        }
        Effect::Returns(Ret::Value(before))
    }

    fn fenced(token: &mut u64, value: &mut u64, op: Op) -> Effect {
        let ret = match op {
            Op::Write { token: mine, .. } | Op::Fence(mine) if mine < *token => Ret::Refused(*token),
            Op::Write { token: mine, value: new } => {
                (*token, *value) = (mine, new);
                Ret::Done
            }
            Op::Fence(mine) => {
                *token = mine;
                Ret::Value(*value)
            }
            Op::Read => Ret::Pair(*token, *value),
            Op::Die => Ret::Done,
            _ => return Effect::IsNone,
        };
        Effect::Returns(ret)
    }

    fn exclusive(holder: &mut Option<usize>, rank: usize, op: Op) -> Effect {
        match (op, *holder) {
            (Op::Acquire | Op::TryAcquire, None) => {
                *holder = Some(rank);
                Effect::Grants
            }
            (Op::TryAcquire, Some(_)) => Effect::Returns(Ret::Busy),
            (Op::Release, Some(other)) if other == rank => {
                *holder = None;
                Effect::Returns(Ret::Done)
            }
            (Op::Die, _) => {
                holder.take_if(|holder| *holder == rank);
                Effect::Returns(Ret::Done)
            }
            (Op::Acquire, Some(_)) => Effect::Waits,
            _ => Effect::IsNone,
        }
    }

    fn permits(left: &mut u64, held: &mut BTreeMap<usize, u64>, rank: usize, op: Op) -> Effect {
        let own = held.entry(rank).or_insert(0);
        match op {
            Op::Take(count) if count > *left => return Effect::Waits,
            Op::Take(count) => (*left, *own) = (*left - count, *own + count),
            Op::Return(count) if count > *own => return Effect::IsNone,
            Op::Return(count) => (*left, *own) = (*left + count, *own - count),
            Op::Die => (*left, *own) = (*left + *own, 0),
            _ => return Effect::IsNone,
        }
        Effect::Returns(Ret::Done)
    }

    fn shared(writer: &mut Option<usize>, readers: &mut BTreeSet<usize>, rank: usize, op: Op) -> Effect {
        let is_writer = *writer == Some(rank);
        match op {
            Op::Acquire if writer.is_none() && readers.is_empty() => {
                *writer = Some(rank);
                return Effect::Grants;
            }
            Op::Enter if writer.is_none() => drop(readers.insert(rank)),
            Op::Acquire | Op::Enter => return Effect::Waits,
            Op::Release if is_writer => *writer = None,
            Op::Downgrade if is_writer => {
                *writer = None;
                readers.insert(rank);
            }
            Op::Leave if readers.remove(&rank) => {}
            Op::Die => {
                readers.remove(&rank);
                writer.take_if(|writer| *writer == rank);
            }
            _ => return Effect::IsNone,
        }
        Effect::Returns(Ret::Done)
    }

    fn leased(holder: &mut Option<usize>, token: u64, rank: usize, op: Op) -> Effect {
        match op {
            Op::Renew if *holder == Some(rank) => Effect::Returns(Ret::Done),
            Op::Renew | Op::Release if *holder != Some(rank) => Effect::Returns(Ret::Lost),
            Op::Expire(expired) => {
                holder.take_if(|_| expired == token);
                Effect::Returns(Ret::Done)
            }
            op => Self::exclusive(holder, rank, op),
        }
    }

    fn elected(leader: &mut Option<usize>, term: u64, rank: usize, op: Op) -> Effect {
        match op {
            Op::Look => Effect::Returns(leader.map_or(Ret::Nobody, |leader| Ret::Led(leader, term))),
            Op::Check if *leader == Some(rank) => Effect::Returns(Ret::Done),
            Op::Check | Op::Renew => Effect::IsNone,
            // Where leaders have a time to live.
            op => Self::leased(leader, term, rank, op),
        }
    }

    /// Whether a token that is granted now may be this one; it then is the last.
    fn grant(&mut self, token: u64) -> bool {
        match self {
            Self::Lock { last, .. }
            | Self::RwLock { last, .. }
            | Self::Lease { last, .. }
            | Self::Election { last, .. } => std::mem::replace(last, token) < token,
            _ => false,
        }
    }
}

impl SequentialSpec for Object {
    type Op = Call;
    type Ret = Ret;

    /// For calls of which nobody knows how they have ended: what cannot be done now has no effect.
    fn invoke(&mut self, call: &Call) -> Ret {
        match self.call(*call) {
            Effect::Returns(ret) => ret,
            Effect::Grants => Ret::Unheard,
            Effect::Waits | Effect::IsNone => Ret::Busy,
        }
    }

    fn is_valid_step(&mut self, call: &Call, ret: &Ret) -> bool {
        // Nobody is passed by who waits, and who does is not seen by an object that knows calls only one after the
        // other: `History::judge` looks whether somebody did.
        if (call.op, *ret) == (Op::TryAcquire, Ret::Busy) {
            return true;
        }
        match (self.call(*call), *ret) {
            (Effect::Waits | Effect::IsNone, _) => false,
            (_, Ret::Unheard) => true,
            (Effect::Grants, Ret::Granted(token)) => self.grant(token),
            // A rank may be refused for a token that it knows to be too small, and not ask how great the greatest is.
            (Effect::Returns(Ret::Refused(greatest)), Ret::Refused(seen)) => {
                let mine = match call.op {
                    Op::Write { token, .. } | Op::Fence(token) => token,
                    _ => return false,
                };
                mine < seen && seen <= greatest
            }
            (Effect::Returns(ours), theirs) => ours == theirs,
            (Effect::Grants, _) => false,
        }
    }
}
