//! Named objects seen from outside: who holds them, since when, who waits, as a node's tables of objects tell.
//!
//! In a job of several nodes a rank that has its node's lock of an object is one step below: the node has to have it
//! from the object's home, too, which [`ObjectFacts::tenure`] tells of. Words that make no sense are left out.

use std::time::Duration;

use super::RankFacts;
use super::shared::{AtHome, Shared};
use crate::coord::objects::directory::{KeyWord, ObjectKind};
use crate::coord::objects::home::{GlobalWord, NodeClaim};
use crate::coord::objects::layout::{NAME_WORDS, ObjectAt, object_words};
use crate::coord::objects::name::{OWN, text_of};
use crate::coord::objects::shared_hold::{SharedWord, Stand};
use crate::coord::objects::tenure::{PlaceWord, Tenure, TenureAt, TenureWord};
use crate::coord::objects::word::{ClaimWord, HoldWord, SinceWord};
use crate::fabric::WordAt;
use crate::fabric::node::ObjectTable;
use crate::fabric::shm::ReadOnlySegment;

/// An object that ranks of a node have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectFacts {
    /// What it is.
    pub kind: ObjectKind,
    /// What it is called.
    pub name: String,
    /// The node where it is at home; `None` while that is being found out.
    pub home: Option<usize>,
    /// What the node has to do with it there.
    pub tenure: Tenure,
    /// The rank that has the node's lock of it.
    pub holder: Option<usize>,
    /// By which token that rank holds the object, where that is known.
    pub token: Option<u64>,
    /// For how long it has the node's lock, where that was noted.
    pub held: Option<Held>,
    /// The ranks of the node that wait, in their order.
    pub queue: Vec<usize>,
    /// What is counted, where the object is one that counts, in a job of one node.
    pub value: Option<u64>,
    /// What ranks share of it, likewise.
    pub shared: Option<Shared>,
    /// Of a reader-writer lock at home elsewhere, what ranks of the node have of it together.
    pub together: Option<Together>,
}

/// Ranks of a node that share its hold of a reader-writer lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Together {
    /// Which they are.
    pub ranks: Vec<usize>,
    /// Whether they wait until a writer is through; else they read, or are about to.
    pub wait: bool,
}

/// For how long something is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// So long,
    pub span: Duration,
    /// or longer: that is since when somebody has waited for it.
    pub is_at_least: bool,
}

/// An object at its home, in a job of several nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HomeFacts {
    /// What it is.
    pub kind: ObjectKind,
    /// What it is called.
    pub name: String,
    /// The node that holds it.
    pub holder: Option<usize>,
    /// The nodes that wait, in their order.
    pub queue: Vec<usize>,
    /// What is counted, where it is an object that counts.
    pub value: Option<u64>,
    /// What ranks share of it.
    pub shared: Option<Shared>,
}

/// The objects that the ranks of a node have.
pub(super) fn here(
    segment: &ReadOnlySegment,
    ranks: &[RankFacts],
    has_ended: &dyn Fn(usize) -> bool,
) -> Vec<ObjectFacts> {
    let is_alone = segment.layout().nodes() == 1;
    all(segment, ObjectTable::Here, |kind, name, at| {
        let view = View { segment, at, ranks };
        let hold = HoldWord(segment.load(at.queue().hold));
        let tenure = TenureWord(segment.load(TenureAt(at).word())).tenure();
        let holder = match kind {
            // Nothing but its note tells of it on its node.
            _ if kind.has_ttl() => SinceWord(segment.load(at.held_since())).holder(),
            _ => hold.holder(),
        };
        let holder = holder.filter(|local| *local < ranks.len() && (!kind.has_ttl() || ranks[*local].end.is_none()));
        let noted = holder.and_then(|local| view.noted(local));
        // In a job of one node its home's words are at the same place of the other table.
        let home_of_one = is_alone.then(|| {
            let at = ObjectAt::of(&segment.layout(), ObjectTable::Home, at.index());
            AtHome { segment, at, has_ended }
        });
        ObjectFacts {
            kind,
            name,
            home: view.home(),
            tenure,
            holder: holder.map(|local| ranks[local].rank),
            token: match kind {
                _ if kind.has_ttl() => noted.and_then(|(_, token)| token),
                _ => holder.and_then(|local| view.token(hold, local, noted)),
            },
            held: noted.map(|(held, _)| held),
            queue: view.queue(),
            value: home_of_one.as_ref().and_then(|home| value_of(home, kind)),
            shared: home_of_one.and_then(|home| home.shared(kind, segment.load(at.parameter(1)))),
            together: (kind == ObjectKind::RwLock).then(|| view.together()).flatten(),
        }
    })
}

/// The objects that are at home on a node of several.
///
/// A node that has the copies of an object has it in the same table: it is at home where [`ObjectFacts::home`] says.
pub(super) fn at_home(segment: &ReadOnlySegment, has_ended: &dyn Fn(usize) -> bool) -> Vec<HomeFacts> {
    if segment.layout().nodes() == 1 {
        return Vec::new();
    }
    all(segment, ObjectTable::Home, |kind, name, at| {
        let lock = at.home();
        let claims = (0..lock.nodes).map(|node| (NodeClaim(segment.load(lock.claims.plus(node))), node));
        let mut waiting: Vec<(u64, usize)> =
            claims.filter(|(claim, _)| claim.is_waiting()).map(|(claim, node)| (claim.order(), node)).collect();
        waiting.sort_unstable();
        let home = AtHome { segment, at, has_ended };
        HomeFacts {
            kind,
            name,
            holder: GlobalWord(segment.load(lock.hold)).holder().filter(|node| *node < lock.nodes),
            queue: waiting.into_iter().map(|(_, node)| node).collect(),
            value: value_of(&home, kind),
            shared: home.shared(kind, segment.load(at.parameter(1))),
        }
    })
}

/// What a kind of object counts.
fn value_of(home: &AtHome<'_>, kind: ObjectKind) -> Option<u64> {
    (kind == ObjectKind::Counter).then(|| home.count())
}

/// Reads all objects of a table; one that goes, or another one comes in its place, meanwhile is left out.
fn all<T>(segment: &ReadOnlySegment, table: ObjectTable, read: impl Fn(ObjectKind, String, ObjectAt) -> T) -> Vec<T> {
    let node = segment.layout();
    if node.object_words() != object_words(&node) {
        return Vec::new();
    }
    let objects = (1..=node.objects()).filter_map(|index| {
        let at = ObjectAt::of(&node, table, index);
        let key = segment.load(at.key());
        let kind = KeyWord(key).is_live().then(|| ObjectKind::from_number(segment.load(at.parameter(0))))??;
        let facts = read(kind, name_of(segment, at), at);
        (segment.load(at.key()) == key).then_some(facts)
    });
    objects.collect()
}

/// An object's name, of which nothing disturbs a terminal.
fn name_of(segment: &ReadOnlySegment, at: ObjectAt) -> String {
    let text = text_of((0..NAME_WORDS).map(|index| segment.load(at.name(index))));
    let shown = text.trim_end_matches(OWN).chars();
    shown.map(|letter| if letter.is_control() { char::REPLACEMENT_CHARACTER } else { letter }).collect()
}

/// An object in its node's table.
struct View<'a> {
    segment: &'a ReadOnlySegment,
    at: ObjectAt,
    ranks: &'a [RankFacts],
}

impl View<'_> {
    fn load(&self, at: WordAt) -> u64 {
        self.segment.load(at)
    }

    fn home(&self) -> Option<usize> {
        let word = PlaceWord(self.load(TenureAt(self.at).home()));
        let (home, _) = word.place().filter(|_| word.sought().is_none())?;
        (home < self.segment.layout().nodes()).then_some(home)
    }

    /// What was noted of the hold of a rank: for how long, and by which token.
    fn noted(&self, local: usize) -> Option<(Held, Option<u64>)> {
        let since = SinceWord(self.load(self.at.held_since()));
        let token = self.load(self.at.held_token());
        if since.holder() != Some(local) || self.load(self.at.held_since()) != since.0 {
            return None;
        }
        let clock = self.segment.clock();
        let span = Duration::from_nanos(clock.ns(clock.now().saturating_sub(since.ticks())));
        Some((Held { span, is_at_least: since.is_at_least() }, (token != 0).then_some(token)))
    }

    /// The token by which a rank holds the object.
    fn token(&self, hold: HoldWord, local: usize, noted: Option<(Held, Option<u64>)>) -> Option<u64> {
        if self.segment.layout().nodes() > 1 {
            let tenure = TenureAt(self.at);
            let number = self.load(tenure.number());
            return match TenureWord(self.load(tenure.word())).tenure() {
                Tenure::Held(passed) => number.checked_add(passed + 1),
                _ => None,
            };
        }
        let high = self.load(self.at.queue().high);
        if !hold.is_wanted() {
            // Nothing has changed the word since it was granted.
            return hold.token(high);
        }
        let has_passed = self.load(self.at.queue().passings.plus(local)) != 0;
        let granted = || ClaimWord(self.load(self.at.queue().claims.plus(local))).last_token(high);
        // It may have had the lock since without a claim: of this hold it is if only those have changed the word since
        // who wait now.
        let changes = |token: u64| hold.version().wrapping_sub(token) & ((1 << HoldWord::TOKEN_BITS) - 1);
        let is_of_this_hold = |token: &u64| !has_passed && changes(*token) <= self.queue().len() as u64;
        noted.and_then(|(_, token)| token).or_else(|| granted().filter(is_of_this_hold))
    }

    /// Those who share the node's hold.
    fn together(&self) -> Option<Together> {
        let hold = SharedWord(self.load(self.at.shared_hold()));
        let stakes: Vec<u64> = (0..self.ranks.len()).map(|local| self.load(self.at.stake(local))).collect();
        let living = hold.sharers(&stakes).into_iter().filter_map(|local| self.ranks.get(local));
        let ranks: Vec<usize> = living.filter(|known| known.end.is_none()).map(|known| known.rank).collect();
        (!ranks.is_empty()).then(|| Together { ranks, wait: hold.stand() == Stand::Waiting })
    }

    fn queue(&self) -> Vec<usize> {
        let claims =
            (0..self.ranks.len()).map(|local| (ClaimWord(self.load(self.at.queue().claims.plus(local))), local));
        let waits = |claim: ClaimWord, local: usize| claim.is_waiting() && self.ranks[local].end.is_none();
        let mut waiting: Vec<(u64, usize)> = claims
            .filter(|(claim, local)| waits(*claim, *local))
            .map(|(claim, local)| (claim.order(), self.ranks[local].rank))
            .collect();
        waiting.sort_unstable();
        waiting.into_iter().map(|(_, rank)| rank).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::task::Poll;

    use super::*;
    use crate::coord;
    use crate::coord::objects::directory::{Directory, Nature};
    use crate::coord::objects::layout::with_objects;
    use crate::coord::objects::name::Name;
    use crate::coord::objects::queue::QueueLock;
    use crate::coord::objects::tally::TallyAt;
    use crate::fabric::Memory;
    use crate::fabric::node::NodeLayout;
    use crate::fabric::shm::Segment;
    use crate::inspect;
    use crate::job::Job;
    use crate::sync::Ordering;

    const RANKS: usize = 3;

    fn segment(nodes: usize) -> Segment {
        let layout = with_objects(NodeLayout::new(RANKS, 4096).in_job(RANKS * nodes, nodes), 4);
        Segment::create(layout, 77, coord::LAYOUT_HASH).expect("memory for a small segment")
    }

    pub fn look_at(segment: &Segment) -> ReadOnlySegment {
        let path = format!("/proc/self/fd/{}", segment.fd().as_raw_fd());
        let file = File::open(path).expect("a file of this process").into();
        ReadOnlySegment::attach(&file, coord::LAYOUT_HASH).expect("a segment")
    }

    fn open(segment: &Segment, table: ObjectTable, name: &str, kind: ObjectKind) -> ObjectAt {
        let directory = Directory::new(segment, segment.layout(), table, 0, |_| false);
        directory.open(&Name::new(name).expect("a name"), Nature { kind, parameter: 0 }).expect("room")
    }

    fn objects(seen: &ReadOnlySegment) -> Vec<ObjectFacts> {
        inspect::read(seen).expect("a sound segment").objects
    }

    #[test]
    fn a_lock_is_seen_with_its_holder_its_queue_and_its_token() {
        let segment = segment(1);
        let seen = look_at(&segment);
        let at = open(&segment, ObjectTable::Here, "a lock", ObjectKind::Lock);
        let locks: Vec<QueueLock> = (0..RANKS).map(|local| QueueLock::new(at.queue(), local)).collect();
        let free = &objects(&seen)[0];
        assert_eq!((free.kind, &*free.name, free.holder, free.token), (ObjectKind::Lock, "a lock", None, None));
        let token = locks[1].try_take(&segment, |_| false).expect("it is free");
        let held = &objects(&seen)[0];
        assert_eq!((held.holder, held.token, held.held, &held.queue), (Some(1), Some(token), None, &vec![]));
        for waiting in [2, 0] {
            locks[waiting].request(&segment, true);
        }
        assert_eq!((&objects(&seen)[0].queue, objects(&seen)[0].token), (&vec![2, 0], None), "the word has changed");
        locks[1].release(&segment, &|_| false, |_| false).expect("it was held");
        assert!(locks[2].poll(&segment, &|_| false).is_ready());
        let passed_on = &objects(&seen)[0];
        assert_eq!((passed_on.holder, &passed_on.queue), (Some(2), &vec![0]));
        assert!(passed_on.token > Some(token), "{passed_on:?}");
    }

    #[test]
    fn no_token_of_an_earlier_hold_or_of_a_claim_that_was_taken_back_is_shown() {
        let segment = segment(1);
        let seen = look_at(&segment);
        let at = open(&segment, ObjectTable::Here, "a lock", ObjectKind::Lock);
        let locks: Vec<QueueLock> = (0..RANKS).map(|local| QueueLock::new(at.queue(), local)).collect();
        let (nobody_ended, shown) = (|_: usize| false, || objects(&seen)[0].token);
        let first = locks[1].try_take(&segment, |_| false).expect("it is free");
        let _ = locks[0].request(&segment, true);
        let _ = locks[0].withdraw(&segment, &nobody_ended);
        assert!(shown().is_none_or(|token| token == first), "{:?}, granted {first}", shown());
        let claimed = locks[0].request(&segment, false);
        locks[1].release(&segment, &nobody_ended, |_| false).expect("it was held");
        let Poll::Ready(waited_for) = locks[0].poll(&segment, &nobody_ended) else { panic!("it is free: {claimed:?}") };
        assert!(shown().is_none_or(|token| token == waited_for));
        locks[0].release(&segment, &nobody_ended, |_| false).expect("it was held");
        let again = locks[0].try_take(&segment, |_| false).expect("it is free");
        for waiting in [1, 2] {
            let _ = locks[waiting].request(&segment, false);
            assert!(shown().is_none_or(|token| token == again), "{:?}, granted {again}", shown());
        }
    }

    #[test]
    fn what_was_noted_of_another_hold_is_not_shown() {
        let segment = segment(1);
        let seen = look_at(&segment);
        let at = open(&segment, ObjectTable::Here, "a lock", ObjectKind::Lock);
        let locks: Vec<QueueLock> = (0..RANKS).map(|local| QueueLock::new(at.queue(), local)).collect();
        let token = locks[1].try_take(&segment, |_| false).expect("it is free");
        locks[0].request(&segment, true);
        let note = |since: SinceWord| segment.word(at.held_since()).store(since.0, Ordering::Relaxed);
        segment.word(at.held_token()).store(token, Ordering::Relaxed);
        note(SinceWord::waited_for(1, segment.clock().now()));
        let shown = &objects(&seen)[0];
        assert!(shown.held.is_some_and(|held| held.is_at_least && held.span < Duration::from_secs(60)), "{shown:?}");
        assert_eq!(shown.token, Some(token));
        note(SinceWord::granted(2, segment.clock().now()));
        assert_eq!((objects(&seen)[0].held, objects(&seen)[0].token), (None, None));
    }

    #[test]
    fn what_is_noted_where_somebody_waits_goes_with_the_hold() {
        let jobs = Job::threads(2).expect("a job of threads");
        let holder_of = |job: &Job| {
            let object = objects(&look_at(&job.membership().segment)).remove(0);
            (object.holder, object.token, object.held.map(|held| held.is_at_least), object.queue)
        };
        std::thread::scope(|scope| {
            for job in jobs {
                scope.spawn(move || {
                    let lock = job.lock("a lock").expect("room");
                    let meet = || job.world().barrier().expect("both are there");
                    meet();
                    if job.rank() == 1 {
                        meet();
                        let request = lock.request().expect("a place in the queue");
                        meet();
                        meet();
                        let guard = request.wait().expect("it is released");
                        assert_eq!(holder_of(&job), (Some(1), Some(guard.token().0), Some(false), vec![]));
                        drop(guard);
                        return meet();
                    }
                    let guard = lock.acquire().expect("it is free");
                    assert_eq!(holder_of(&job), (Some(0), Some(guard.token().0), None, vec![]), "nobody waits");
                    meet();
                    meet();
                    assert_eq!(holder_of(&job), (Some(0), Some(guard.token().0), Some(true), vec![1]));
                    // Longer than a wait of which nothing is noted.
                    std::thread::sleep(Duration::from_millis(1));
                    drop(guard);
                    meet();
                    meet();
                    let guard = lock.acquire().expect("it is free");
                    assert_eq!(holder_of(&job), (Some(0), Some(guard.token().0), None, vec![]), "of the hold before");
                });
            }
        });
    }

    #[test]
    fn counters_are_seen_at_their_homes() {
        for nodes in [1, 2] {
            let segment = segment(nodes);
            let (seen, table) = (look_at(&segment), if nodes == 1 { ObjectTable::Here } else { ObjectTable::Home });
            let at = open(&segment, table, "a counter", ObjectKind::Counter);
            let home = TallyAt(ObjectAt::of(&segment.layout(), ObjectTable::Home, at.index()));
            segment.word(home.value()).store(40, Ordering::Relaxed);
            (1..3).for_each(|rank| segment.word(home.carried(rank)).store(1, Ordering::Relaxed));
            let facts = inspect::read(&seen).expect("a sound segment");
            let values: Vec<_> = facts.objects.iter().map(|object| object.value).collect();
            let at_home: Vec<_> = facts.at_home.iter().map(|object| object.value).collect();
            let (expected, none) = (vec![Some(42)], vec![]);
            assert_eq!((values, at_home), if nodes == 1 { (expected, none) } else { (none, expected) });
        }
    }

    #[test]
    fn between_nodes_the_tenure_tells_the_token_and_the_home_who_waits() {
        let segment = segment(3);
        let seen = look_at(&segment);
        let at = open(&segment, ObjectTable::Here, "a lock", ObjectKind::Lock);
        QueueLock::new(at.queue(), 1).try_take(&segment, |_| false).expect("it is free");
        let tenure = TenureAt(at);
        segment.word(tenure.number()).store(512, Ordering::Relaxed);
        segment.word(tenure.home()).store(3 << 32 | 1, Ordering::Relaxed);
        let held = TenureWord(0).then(Tenure::Held(2));
        segment.word(tenure.word()).store(held.0, Ordering::Relaxed);
        let shown = &objects(&seen)[0];
        assert_eq!((shown.home, shown.tenure, shown.token), (Some(2), Tenure::Held(2), Some(515)));

        let home = open(&segment, ObjectTable::Home, "at home", ObjectKind::Election).home();
        segment.word(home.hold).store(GlobalWord::held(1, 5, true).0, Ordering::Relaxed);
        segment.word(home.claims).store(NodeClaim::waiting(9, 1).0, Ordering::Relaxed);
        segment.word(home.claims.plus(2)).store(NodeClaim::waiting(8, 1).0, Ordering::Relaxed);
        let at_home = &inspect::read(&seen).expect("a sound segment").at_home[0];
        assert_eq!((at_home.holder, &at_home.queue), (Some(1), &vec![2, 0]));
    }

    #[test]
    fn words_that_make_no_sense_are_left_out() {
        for nodes in [1, 3] {
            let segment = segment(nodes);
            let (seen, first) = (look_at(&segment), segment.layout().object_key(ObjectTable::Here, 0).0);
            let mut random = 0x9e37_79b9_7f4a_7c15_u64;
            for round in 0..300 {
                for at in first..segment.words() {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    // Now all bits, now few: kinds, places and ranks of which some are there.
                    let word = if round % 2 == 0 { random } else { random >> 58 };
                    segment.word(WordAt(at)).store(word, Ordering::Relaxed);
                }
                for object in objects(&seen) {
                    assert!(object.holder.is_none_or(|rank| rank < RANKS) && object.queue.len() <= RANKS);
                    assert!(!object.name.chars().any(char::is_control));
                }
            }
        }
    }
}
