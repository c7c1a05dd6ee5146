//! Histories that are not linearizable, or that a wrong object would have to explain: the judge refuses them. And what
//! is right, but strange, it allows.

use super::history::{Entry, History};
use super::specs::{Call, Object, Op, Ret};

/// A call that has returned.
fn done(rank: usize, op: Op, begun_ns: u64, ended_ns: u64, ret: Ret) -> Entry {
    Entry { call: Call { rank, op }, begun_ns, ended: Some((ended_ns, ret)) }
}

/// One that has not.
fn open(rank: usize, op: Op, begun_ns: u64) -> Entry {
    Entry { call: Call { rank, op }, begun_ns, ended: None }
}

fn is_right(object: Object, entries: &[Entry]) -> bool {
    History(entries.to_vec()).judge(object).is_ok()
}

#[test]
fn a_counter_that_loses_or_doubles_an_addition_is_refused() {
    let counter = Object::Counter(0);
    let both = |first, second| [done(0, Op::Add(1), 0, 10, first), done(1, Op::Add(1), 5, 15, second)];
    assert!(is_right(counter.clone(), &both(Ret::Value(1), Ret::Value(0))));
    assert!(!is_right(counter.clone(), &both(Ret::Value(0), Ret::Value(0))), "a number was given out twice");
    let mut late = both(Ret::Value(0), Ret::Value(1)).to_vec();
    late.push(done(2, Op::Load, 20, 25, Ret::Value(1)));
    assert!(!is_right(counter.clone(), &late), "an addition is lost");
    // By itself each value could have been read, but not in this order.
    let back = [
        done(0, Op::Add(1), 0, 100, Ret::Value(0)),
        done(1, Op::Load, 10, 20, Ret::Value(1)),
        done(2, Op::Load, 30, 40, Ret::Value(0)),
    ];
    assert!(!is_right(counter.clone(), &back), "it went back");
    let swapped =
        [done(0, Op::Exchange { current: 0, new: 7 }, 0, 1, Ret::Value(0)), done(1, Op::Load, 2, 3, Ret::Value(0))];
    assert!(!is_right(counter, &swapped), "an exchange is lost");
}

#[test]
fn what_nobody_has_heard_of_may_have_happened_or_not_but_once() {
    let counter = Object::Counter(0);
    let seen = |value, then| [open(0, Op::Add(1), 0), done(1, Op::Load, 5, 6, value), done(1, Op::Load, 7, 8, then)];
    assert!(is_right(counter.clone(), &seen(Ret::Value(0), Ret::Value(1))));
    assert!(is_right(counter.clone(), &seen(Ret::Value(0), Ret::Value(0))));
    assert!(!is_right(counter.clone(), &seen(Ret::Value(1), Ret::Value(2))));
    assert!(!is_right(counter.clone(), &seen(Ret::Value(1), Ret::Value(0))));
    // Its rank goes on, and does not see it either before it began.
    let goes_on =
        [done(0, Op::Load, 0, 1, Ret::Value(1)), open(0, Op::Add(1), 2), done(0, Op::Load, 4, 5, Ret::Value(1))];
    assert!(!is_right(counter.clone(), &goes_on));
    let unheard = [done(0, Op::Add(1), 0, 1, Ret::Unheard), done(1, Op::Load, 2, 3, Ret::Value(0))];
    assert!(!is_right(counter, &unheard), "it is known to have taken effect");
}

#[test]
fn a_fenced_word_that_lets_a_late_writer_in_is_refused() {
    let word = Object::Fenced { token: 0, value: 0 };
    let late = |ret| {
        [
            done(0, Op::Fence(2), 0, 1, Ret::Value(0)),
            done(1, Op::Write { token: 1, value: 9 }, 2, 3, ret),
            done(2, Op::Read, 4, 5, Ret::Pair(2, 0)),
        ]
    };
    assert!(is_right(word.clone(), &late(Ret::Refused(2))));
    assert!(!is_right(word.clone(), &late(Ret::Done)));
    assert!(!is_right(word.clone(), &late(Ret::Refused(1))), "its own token is no reason");
    assert!(!is_right(word.clone(), &late(Ret::Refused(3))), "nobody has such a token");
    let torn = [done(0, Op::Write { token: 1, value: 9 }, 0, 9, Ret::Done), done(1, Op::Read, 1, 8, Ret::Pair(1, 0))];
    assert!(!is_right(word, &torn), "half of a pair");
}

#[test]
fn two_holders_and_tokens_that_do_not_grow_are_refused() {
    let pair = |token, then| {
        [
            done(0, Op::Acquire, 0, 10, Ret::Granted(token)),
            done(0, Op::Release, 20, 30, Ret::Done),
            done(1, Op::Acquire, 5, 25, Ret::Granted(then)),
        ]
    };
    assert!(is_right(Object::lock(), &pair(1, 2)));
    assert!(!is_right(Object::lock(), &pair(2, 2)));
    assert!(!is_right(Object::lock(), &pair(2, 1)));
    let mut beside = pair(1, 2);
    beside[1] = done(0, Op::Release, 26, 30, Ret::Done);
    assert!(!is_right(Object::lock(), &beside), "it was granted before it was released");
    let mut busy = pair(1, 2).to_vec();
    busy.push(done(2, Op::TryAcquire, 31, 32, Ret::Busy));
    assert!(is_right(Object::lock(), &busy), "rank 1 has it");
    busy.push(done(1, Op::Release, 33, 34, Ret::Done));
    busy.push(done(0, Op::TryAcquire, 35, 36, Ret::Busy));
    assert!(!is_right(Object::lock(), &busy), "nobody has it");
}

#[test]
fn only_a_death_hands_over_what_was_not_released() {
    let taken = [done(0, Op::Acquire, 0, 10, Ret::Granted(1)), done(1, Op::Acquire, 5, 40, Ret::Granted(2))];
    assert!(!is_right(Object::lock(), &taken));
    let mut dead = taken.to_vec();
    dead.push(open(0, Op::Die, 20));
    assert!(is_right(Object::lock(), &dead));
    dead[2].begun_ns = 41;
    assert!(!is_right(Object::lock(), &dead), "it died later");
    let heir = [open(0, Op::Acquire, 0), done(1, Op::Acquire, 5, 40, Ret::Granted(2)), open(0, Op::Die, 20)];
    assert!(is_right(Object::lock(), &heir));
    let permits = [done(0, Op::Take(2), 0, 1, Ret::Done), done(1, Op::Take(1), 2, 30, Ret::Done), open(0, Op::Die, 20)];
    assert!(is_right(Object::semaphore(2), &permits));
    assert!(!is_right(Object::semaphore(2), &permits[..2]));
}

#[test]
fn readers_beside_a_writer_and_too_many_permits_are_refused() {
    let beside = |op| [done(0, Op::Enter, 0, 1, Ret::Done), done(1, op, 2, 3, Ret::Done)];
    assert!(is_right(Object::rwlock(), &beside(Op::Enter)));
    let writes = [done(0, Op::Enter, 0, 1, Ret::Done), done(1, Op::Acquire, 2, 3, Ret::Granted(1))];
    assert!(!is_right(Object::rwlock(), &writes));
    let downgraded = [
        done(0, Op::Acquire, 0, 1, Ret::Granted(1)),
        done(0, Op::Downgrade, 2, 3, Ret::Done),
        done(1, Op::Enter, 4, 5, Ret::Done),
    ];
    assert!(is_right(Object::rwlock(), &downgraded));
    assert!(!is_right(Object::rwlock(), &[downgraded[0], downgraded[2]]));
    let take = |counts: [u64; 2]| {
        [done(0, Op::Take(counts[0]), 0, 1, Ret::Done), done(1, Op::Take(counts[1]), 0, 1, Ret::Done)]
    };
    assert!(is_right(Object::semaphore(3), &take([1, 2])));
    assert!(!is_right(Object::semaphore(3), &take([2, 2])));
}

#[test]
fn a_lease_that_is_lost_before_its_time_is_refused() {
    let taken_over = |released| {
        [
            done(0, Op::Acquire, 0, 10, Ret::Granted(1)),
            done(1, Op::Acquire, 5, 40, Ret::Granted(2)),
            done(0, Op::Release, 50, 60, released),
        ]
    };
    assert!(!is_right(Object::lease(), &taken_over(Ret::Lost)), "its time was not over");
    let over = |at_ns, released| [&taken_over(released)[..], &[open(0, Op::Expire(1), at_ns)]].concat();
    assert!(is_right(Object::lease(), &over(30, Ret::Lost)));
    assert!(!is_right(Object::lease(), &over(41, Ret::Lost)), "its time was over later");
    assert!(!is_right(Object::lease(), &over(30, Ret::Done)), "it was followed");
    let mut other = over(30, Ret::Lost);
    other[3].call.op = Op::Expire(2);
    assert!(!is_right(Object::lease(), &other), "that was another hold");
    let renewed = |ret| [done(0, Op::Acquire, 0, 10, Ret::Granted(1)), done(0, Op::Renew, 20, 30, ret)];
    assert!(is_right(Object::lease(), &renewed(Ret::Done)));
    assert!(!is_right(Object::lease(), &renewed(Ret::Lost)));
    let again = [taken_over(Ret::Lost)[0], done(1, Op::Acquire, 5, 40, Ret::Granted(1)), open(0, Op::Expire(1), 30)];
    assert!(!is_right(Object::lease(), &again), "a token was given twice");
}

#[test]
fn leaders_that_are_seen_too_late_or_overlooked_are_refused() {
    let seen = |begun_ns, ended_ns, ret| {
        [
            done(0, Op::Acquire, 0, 10, Ret::Granted(1)),
            done(0, Op::Check, 11, 12, Ret::Done),
            done(0, Op::Release, 40, 50, Ret::Done),
            done(1, Op::Look, begun_ns, ended_ns, ret),
        ]
    };
    let election = Object::election;
    assert!(is_right(election(), &seen(20, 30, Ret::Led(0, 1))));
    assert!(is_right(election(), &seen(45, 60, Ret::Led(0, 1))));
    assert!(is_right(election(), &seen(45, 60, Ret::Nobody)));
    assert!(!is_right(election(), &seen(20, 30, Ret::Nobody)), "it led all the while");
    assert!(!is_right(election(), &seen(51, 60, Ret::Led(0, 1))), "it had resigned");
    assert!(!is_right(election(), &seen(20, 30, Ret::Led(0, 2))), "there is no such term");
    assert!(!is_right(election(), &seen(20, 30, Ret::Led(2, 1))), "another one led");
    let two = [done(0, Op::Acquire, 0, 10, Ret::Granted(1)), done(1, Op::Acquire, 5, 15, Ret::Granted(2))];
    assert!(!is_right(election(), &two));
    let late = [&two[..], &[open(0, Op::Die, 12), done(0, Op::Check, 20, 30, Ret::Done)]].concat();
    assert!(is_right(election(), &late[..3]));
    assert!(!is_right(election(), &late), "it was followed");
}

/// An object that does something else than what was seen makes what is right wrong: the judge goes by what it is told.
#[test]
fn what_is_right_is_refused_by_a_wrong_object() {
    let history = [done(0, Op::Add(1), 0, 1, Ret::Value(0)), done(1, Op::Load, 2, 3, Ret::Value(1))];
    assert!(is_right(Object::Counter(0), &history));
    assert!(!is_right(Object::Counter(5), &history));
    assert!(!is_right(Object::lock(), &history));
    let held = [done(0, Op::Take(1), 0, 1, Ret::Done), done(1, Op::Take(1), 2, 3, Ret::Done)];
    assert!(is_right(Object::semaphore(2), &held));
    assert!(!is_right(Object::semaphore(1), &held));
}
