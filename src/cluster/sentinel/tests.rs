//! Single steps of a sentinel: rank 0's, in a job of two nodes with two ranks each. (`tests/sentinel/` has whole jobs.)

use std::cell::Cell;

use super::*;
use crate::fabric::WordAt;
use crate::fabric::sim::{Options, SimFabric, SimNode, World};

/// What a test says happens beside words: nothing, or that the other node's kernel acknowledged something so long ago,
/// or that some of this node's ranks are stopped.
#[derive(Default)]
struct Scripted<'test> {
    acknowledged: Option<Duration>,
    stopped: &'test [usize],
    /// Counts the looks whether a rank is stopped.
    looks: Option<&'test Cell<u32>>,
}

impl Surroundings for Scripted<'_> {
    fn is_agent(&self) -> bool {
        true
    }

    fn become_agent(&self) -> bool {
        true
    }

    fn is_stopped(&self, local: usize) -> bool {
        self.looks.inspect(|looks| looks.set(looks.get() + 1));
        self.stopped.contains(&local)
    }

    fn probe(&self, _node: usize) {}

    fn ports(&self, _node: usize) -> Ports {
        Ports::Unknown
    }

    fn acknowledged(&self, _node: usize) -> Option<Duration> {
        self.acknowledged
    }

    fn shut_out(&self, _lost: Obituary) {}

    fn rouse(&self) {}
}

fn node() -> NodeLayout {
    NodeLayout::new(2, 1).in_job(4, 2)
}

fn world() -> World {
    World::new(Options::new(2, node().words()))
}

fn sentinel() -> Sentinel {
    sentinel_of(0)
}

fn sentinel_of(rank: usize) -> Sentinel {
    Sentinel::new(Post {
        rank,
        layouts: Arc::new([node(), node()]),
        topology: Arc::new(Topology::from_keys(&[0, 0, 1, 1])),
        has_witness: false,
        options: SentinelOptions { timeout: Duration::from_millis(100), heartbeat: Duration::from_millis(20) },
        seed: 0,
    })
}

fn site(world: &World) -> Site<'_, SimNode, SimFabric, Scripted<'_>> {
    const CALM: &Scripted<'_> = &Scripted { acknowledged: None, stopped: &[], looks: None };
    let (memory, fabric, surroundings) = (world.memory(0), world.fabric(0), CALM);
    Site { memory, fabric, surroundings, now: Duration::from_secs(1) }
}

fn set(world: &World, at: WordAt, value: u64) {
    world.memory(0).word(at).store(value, Ordering::Relaxed);
}

fn get(world: &World, at: WordAt) -> u64 {
    world.memory(0).word(at).load(Ordering::Relaxed)
}

fn note_end(world: &World, rank: usize, cause: FailureCause) -> Obituary {
    let end = Obituary { unit: Unit::Rank(rank), cause };
    assert!(view::note_end(world.memory(0), node().end(rank), end));
    end
}

#[test]
fn who_learns_that_its_node_is_lost_proposes_nothing_any_more() {
    let (world, mut sentinel) = (world(), sentinel());
    sentinel.wanted.push(Obituary { unit: Unit::Rank(2), cause: FailureCause::Died });
    let lost = Obituary { unit: Unit::Node(0), cause: FailureCause::Silent };
    view::learn(world.memory(0), &node(), 1, lost);
    assert!(sentinel.begin_attempt(world.memory(0), Duration::ZERO).is_some());
    assert_eq!(sentinel.step(&site(&world)), None);
    assert!(sentinel.begin_attempt(world.memory(0), Duration::ZERO).is_none(), "it has no vote");
}

#[test]
fn the_doubts_of_an_agent_end_with_it() {
    let (world, mut sentinel) = (world(), sentinel());
    set(&world, node().doubt(1), 1);
    sentinel.step(&site(&world));
    assert_eq!((get(&world, node().doubt(1)), get(&world, header::ALARM)), (0, 1));
    // Its own are left to it.
    set(&world, node().doubt(1), 1);
    sentinel.step(&site(&world));
    assert_eq!((get(&world, node().doubt(1)), get(&world, header::ALARM)), (1, 1));
}

#[test]
fn whoever_leaves_is_lost_only_to_those_that_ask_from_then_on() {
    let (world, mut sentinel) = (world(), sentinel());
    let farewell = HeartbeatWord::new(FAREWELL, 1).0;
    set(&world, node().asked_after(1), 3);
    set(&world, node().missed(1), 5);
    let rank = note_end(&world, 1, FailureCause::Left);
    set(&world, node().heartbeat(1), farewell);
    sentinel.collect(&site(&world));
    assert_eq!(sentinel.wanted, []);
    set(&world, node().asked_after(1), 4);
    sentinel.collect(&site(&world));
    assert_eq!(sentinel.wanted, [rank]);
    set(&world, node().missed(1), 6);
    sentinel.collect(&site(&world));
    assert_eq!(sentinel.wanted, [rank, Obituary { unit: Unit::Node(1), cause: FailureCause::Left }]);
}

#[test]
fn no_farewell_is_said_for_a_process_that_may_live_or_whose_end_is_not_decided() {
    for (cause, is_said) in [(FailureCause::Stopped, false), (FailureCause::Died, false), (FailureCause::Left, true)] {
        let (world, mut sentinel) = (world(), sentinel());
        note_end(&world, 0, FailureCause::Left);
        note_end(&world, 1, cause);
        assert_eq!(sentinel.say_farewell(&site(&world)).is_pending(), is_said, "{cause:?}");
        assert_eq!(has_left(world.memory(0), &node(), 0), is_said, "{cause:?}");
    }
}

#[test]
fn where_all_have_ended_one_that_was_given_up_and_runs_again_speaks() {
    for (own, speaks) in [(FailureCause::Stopped, true), (FailureCause::Left, false)] {
        let (world, mut sentinel) = (world(), sentinel());
        note_end(&world, 0, own);
        sentinel.step(&site(&world));
        assert_eq!(sentinel.wanted, [], "rank 1 lives, and speaks");
        let next = note_end(&world, 1, FailureCause::Killed { signal: 9 });
        sentinel.step(&site(&world));
        assert_eq!(sentinel.wanted.contains(&next), speaks, "{own:?}");
    }
}

/// Of a stopped node, whose kernel puts off to acknowledge what it is sent. A watcher that had no CPU has sent nothing.
#[test]
fn who_could_not_watch_for_a_while_takes_no_kernel_for_dead() {
    const MS: Duration = Duration::from_millis(1);
    for pause in [45 * MS, 80 * MS] {
        let (world, mut sentinel) = (world(), sentinel());
        set(&world, node().heartbeat(1), HeartbeatWord::new(1, 1).0);
        let begun = Duration::from_secs(1);
        let mut now = begun;
        // What was acknowledged last.
        let mut look = |span: Duration, last: Duration| {
            now += span;
            let surroundings = &Scripted { acknowledged: Some(now.saturating_sub(last)), ..Scripted::default() };
            sentinel.step(&Site { surroundings, now, ..site(&world) });
            (now, sentinel.wanted.clone())
        };
        let mut last = begun;
        for _ in 0..8 {
            let (seen, wanted) = look(20 * MS, last);
            assert_eq!(wanted, [], "it is stalled");
            last = seen;
        }
        let (sent, wanted) = look(pause, last);
        assert_eq!(wanted, [], "nothing was sent that could have been acknowledged in {pause:?}");
        assert_eq!([look(20 * MS, last).1, look(20 * MS, last).1], [[], []], "it is on its way");
        assert_eq!(look(20 * MS, sent).1, [], "it has come");
        let silent = Obituary { unit: Unit::Node(1), cause: FailureCause::Silent };
        let looks: Vec<_> = (0..8).map(|_| look(50 * MS, sent).1).collect();
        assert!(looks[2] == [silent], "a watcher that pauses again and again gives no more time: {looks:?}");
    }
}

/// The kernel of a stopped node: it puts off to acknowledge what comes to it, as long as it lives.
struct Kernel {
    /// How much this node had sent at the last look.
    sent: u64,
    /// When it acknowledges what it has not.
    due: Option<Duration>,
    acknowledged_at: Duration,
}

impl Kernel {
    const PUTS_OFF: Duration = Duration::from_millis(55);

    fn new(now: Duration) -> Self {
        Self { sent: 0, due: None, acknowledged_at: now }
    }

    /// A look of the sentinel, whom it wants, and what comes of it for the kernel.
    fn look(&mut self, sentinel: &mut Sentinel, world: &World, now: Duration, lives: bool) -> Vec<Obituary> {
        if let Some(at) = self.due.take_if(|at| *at <= now) {
            self.acknowledged_at = at;
        }
        let acknowledged = Some(now.saturating_sub(self.acknowledged_at));
        let surroundings = &Scripted { acknowledged, ..Scripted::default() };
        sentinel.step(&Site { surroundings, now, ..site(world) });
        let sent = world.traffic(0).sent;
        if lives && sent > std::mem::replace(&mut self.sent, sent) {
            self.due.get_or_insert(now + Self::PUTS_OFF);
        }
        sentinel.wanted.clone()
    }
}

/// A node is stopped at once after its first heartbeat, and its watcher for a while before one of its looks: also
/// before the first question, and between that and the first time that something is sent again.
#[test]
fn a_watchers_pause_at_any_look_gives_a_kernel_up_neither_too_soon_nor_too_late() {
    const MS: Duration = Duration::from_millis(1);
    // The look at which the node is wanted as silent.
    let given_up_at = |pause: Duration, late: u32, lives: bool| {
        let (world, mut sentinel) = (world(), sentinel());
        set(&world, node().heartbeat(1), HeartbeatWord::new(1, 1).0);
        let mut now = Duration::from_secs(1);
        let mut kernel = Kernel::new(now);
        (0..18).find(|look| {
            if *look > 0 {
                now += if *look == late { pause } else { 20 * MS };
            }
            !kernel.look(&mut sentinel, &world, now, lives || *look < late).is_empty()
        })
    };
    assert_eq!(given_up_at(20 * MS, 0, false), Some(5), "without a pause, after the time-out");
    for (pause, late) in [100 * MS, 200 * MS].into_iter().flat_map(|pause| (1..=6).map(move |late| (pause, late))) {
        assert_eq!(given_up_at(pause, late, true), None, "{pause:?} before look {late}");
        let soon = Some((late + 3).max(6));
        assert_eq!(given_up_at(pause, late, false), soon, "{pause:?} before look {late}, and its machine dies");
    }
}

/// Its machine seemed dead, and nothing has been decided yet.
#[test]
fn whose_kernel_acknowledges_after_all_is_wanted_no_more() {
    let (world, mut sentinel) = (world(), sentinel());
    set(&world, node().heartbeat(1), HeartbeatWord::new(1, 1).0);
    let mut now = Duration::from_secs(1);
    let mut kernel = Kernel::new(now);
    let mut look = |lives: bool| {
        now += Duration::from_millis(20);
        kernel.look(&mut sentinel, &world, now, lives).is_empty()
    };
    while look(false) {}
    let wanted: Vec<bool> = (0..5).map(|_| !look(true)).collect();
    assert_eq!(wanted, [true, true, true, false, false], "it puts that off for three looks");
}

/// A node was stopped before it was heard for the first time. Its kernel lives.
#[test]
fn who_was_never_heard_and_is_stalled_at_the_end_of_its_grace_has_its_time_all_the_same() {
    let (world, mut sentinel) = (world(), sentinel());
    let begun = Duration::from_secs(1);
    let (mut now, mut last, mut given_up) = (begun, begun, None);
    let grace = crate::cluster::detector::DetectorOptions::default().grace;
    while given_up.is_none() && now < begun + grace * 2 {
        now += Duration::from_millis(20);
        let surroundings = &Scripted { acknowledged: Some(now - last), ..Scripted::default() };
        sentinel.step(&Site { surroundings, now, ..site(&world) });
        // It acknowledges what it is sent.
        last = if sentinel.watching.is_nudged(1) { now } else { last };
        given_up = (!sentinel.wanted.is_empty()).then_some(now);
    }
    let stalled = given_up.expect("not for ever") - begun;
    assert!(stalled >= grace + Duration::from_millis(280), "given up after {stalled:?}, with {grace:?} of grace");
}

/// A rank of this node is asked after each time that it is stopped.
#[test]
fn who_runs_between_two_questions_has_not_been_stopped_all_the_time() {
    let (world, mut sentinel) = (world(), sentinel());
    let mut step = |at_ms: u64, asked: u64, is_stopped: bool| {
        set(&world, node().asked_after(1), asked);
        let (now, surroundings) = (
            Duration::from_millis(1000 + at_ms),
            &Scripted { stopped: if is_stopped { &[1] } else { &[] }, ..Scripted::default() },
        );
        sentinel.step(&Site { now, surroundings, ..site(&world) });
        get(&world, node().end(1)) != 0
    };
    assert!(!step(0, 1, true) && !step(20, 1, false), "it runs");
    assert!(!step(60, 2, true) && !step(120, 3, true), "stopped again, for 60 ms of 100");
    assert!(step(180, 4, true), "for 120 ms");
}

#[test]
fn who_is_declared_stopped_is_looked_at_no_more() {
    let (world, mut sentinel, looks) = (world(), sentinel(), Cell::new(0));
    let mut step = |at_ms: u64, asked: u64| {
        set(&world, node().asked_after(1), asked);
        let now = Duration::from_millis(1000 + at_ms);
        let surroundings = &Scripted { stopped: &[0, 1], looks: Some(&looks), ..Scripted::default() };
        sentinel.step(&Site { now, surroundings, ..site(&world) });
        get(&world, node().end(1)) != 0
    };
    assert!(!step(0, 1) && step(100, 2), "stopped for the time-out");
    let before = looks.get();
    (1..=5).for_each(|beat| assert!(step(100 + 20 * beat, 2 + beat)));
    assert_eq!(looks.get(), before);
}

/// A node is stopped and continued rank by rank, and the next in line comes before the agent.
#[test]
fn who_was_stopped_itself_does_not_take_its_agent_for_stopped_all_the_time() {
    let (world, mut sentinel) = (world(), sentinel_of(1));
    set(&world, node().heartbeat(0), HeartbeatWord::new(1, 1).0);
    let surroundings = &Scripted { stopped: &[0, 1], ..Scripted::default() };
    let mut step = |at_ms: u64| {
        sentinel.step(&Site { now: Duration::from_millis(1000 + at_ms), surroundings, ..site(&world) });
        get(&world, node().end(0)) != 0
    };
    assert!(!step(0) && !step(20));
    assert!(!step(5000) && !step(5020) && !step(5040), "it may have run until just now");
    assert!(step(5060), "half of the time-out");
}

/// The last rank of a node of several, which has just seen its agent's last heartbeat.
struct Behind {
    world: World,
    node: NodeLayout,
    sentinel: Sentinel,
    now: Duration,
}

impl Behind {
    fn new(ranks: usize) -> Self {
        let node = NodeLayout::new(ranks, 1).in_job(2 * ranks, 2);
        let keys: Vec<usize> = (0..2 * ranks).map(|rank| rank / ranks).collect();
        let mut post = sentinel().post;
        (post.rank, post.layouts, post.topology) =
            (ranks - 1, Arc::new([node, node]), Arc::new(Topology::from_keys(&keys)));
        let world = World::new(Options::new(2, node.words()));
        let mut behind = Self { world, node, sentinel: Sentinel::new(post), now: Duration::from_secs(1) };
        behind.beat(1);
        behind.step(&[]);
        behind
    }

    fn beat(&mut self, count: u64) {
        set(&self.world, self.node.heartbeat(0), HeartbeatWord::new(1, count).0);
    }

    /// A step while some are stopped, and when it wants the next one; it comes as late as it may.
    fn step(&mut self, stopped: &[usize]) {
        let (memory, fabric) = (self.world.memory(0), self.world.fabric(0));
        let surroundings = &Scripted { stopped, ..Scripted::default() };
        let pause = self.sentinel.step(&Site { memory, fabric, surroundings, now: self.now });
        self.now += pause.expect("it looks again").max(Duration::from_millis(1));
    }

    /// Who is declared stopped.
    fn declared(&self) -> Vec<usize> {
        (0..self.node.ranks()).filter(|local| get(&self.world, self.node.end(*local)) != 0).collect()
    }
}

#[test]
fn the_first_rank_that_runs_follows_the_agent_however_many_before_it_are_stopped() {
    const MS: Duration = Duration::from_millis(1);
    for ranks in [3, 4, 9] {
        let mut behind = Behind::new(ranks);
        let stopped: Vec<usize> = (0..ranks - 1).collect();
        // The last heartbeat.
        let begun = Duration::from_secs(1);
        let heartbeat = |behind: &Behind| get(&behind.world, behind.node.heartbeat(0));
        let last = heartbeat(&behind);
        while heartbeat(&behind) == last && behind.now < begun + 400 * MS {
            let span = behind.now - begun;
            behind.step(&stopped);
            assert!(span >= 50 * MS || behind.declared().is_empty(), "{ranks} ranks, after {span:?}");
        }
        assert_eq!(behind.declared(), stopped, "{ranks} ranks");
        let span = behind.now - begun;
        assert!(span <= 240 * MS, "{ranks} ranks: others would give the node up after four time-outs, not {span:?}");
    }
}

#[test]
fn who_is_further_behind_leaves_the_agent_to_one_between_that_runs() {
    let mut behind = Behind::new(4);
    for _ in 0..40 {
        behind.step(&[0, 1]);
        behind.step(&[0, 2]);
    }
    assert_eq!(behind.declared(), [0; 0]);
}

/// A debugger has them at several moments.
#[test]
fn who_runs_between_two_looks_is_not_declared_with_the_agent() {
    let mut behind = Behind::new(4);
    for count in 2..40 {
        behind.beat(count);
        behind.step(&[1, 2]);
    }
    assert_eq!(behind.declared(), [0; 0], "the agent's heart beats");
    while behind.declared().is_empty() {
        behind.step(&[0, 1, 2]);
    }
    assert_eq!(behind.declared(), [0]);
    behind.step(&[0, 1]);
    let begun = behind.now;
    while behind.declared() == [0] {
        behind.step(&[0, 1, 2]);
    }
    assert_eq!(behind.declared(), [0, 1], "rank 2 has run {:?} ago", behind.now - begun);
}
