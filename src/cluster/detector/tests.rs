//! The detector by hand, and with arbitrary words and times. On generated and recorded heartbeats: `tests/detector.rs`.

use super::*;
use proptest::prelude::*;

const HOUR: Duration = Duration::from_secs(3600);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn word(incarnation: u16, counter: u64) -> u64 {
    HeartbeatWord::new(incarnation, counter).0
}

/// A detector that has heard heartbeat 1 of agent 1 at 20 ms, and 2 at 40 ms.
fn healthy(options: DetectorOptions) -> Detector {
    let mut detector = Detector::new(options, ms(0)).expect("good options");
    assert_eq!(detector.observe(0, ms(1)), None);
    assert_eq!(detector.assess(ms(1)), Verdict::Unheard);
    assert_eq!(detector.observe(word(1, 1), ms(20)), Some(Event::Heard { incarnation: 1 }));
    assert_eq!(detector.observe(word(1, 2), ms(40)), None);
    assert_eq!(detector.assess(ms(40)), Verdict::Healthy);
    detector
}

/// Looks every 20 ms that find the same; the first event that is no further missed heartbeat.
fn stare(detector: &mut Detector, word: u64, from_ms: u64, to_ms: u64) -> Option<Event> {
    let looks = (from_ms..=to_ms).step_by(20);
    let events: Vec<Event> = looks.filter_map(|at| detector.observe(word, ms(at))).collect();
    events.into_iter().find(|event| !matches!(event, Event::Missed { .. }))
}

#[test]
fn heartbeats_are_missed_late_recovered_and_at_last_silent() {
    let mut detector = healthy(DetectorOptions::default());
    let last = word(1, 2);
    assert_eq!(detector.observe(last, ms(60)), None);
    assert_eq!(detector.observe(last, ms(80)), Some(Event::Late { missed: 1 }));
    assert_eq!(detector.observe(last, ms(100)), Some(Event::Missed { missed: 2 }));
    assert_eq!(detector.assess(ms(119)), Verdict::Late { missed: 2 });
    assert_eq!(detector.assess(ms(120)), Verdict::Late { missed: 3 });
    let recovered = Event::Recovered { missed: 2, after: ms(80) };
    assert_eq!(detector.observe(word(1, 3), ms(120)), Some(recovered));
    assert_eq!(detector.score(), Score { heard: 3, missed: 2, recovered: 1, stalls: 0 });
    // A gap of 80 ms has stretched the time-out, here to 20.9 + 6 · 7.4 < 1.5 · 80.
    assert_eq!(detector.timeout(), ms(120));
    assert_eq!(stare(&mut detector, word(1, 3), 140, 160), Some(Event::Late { missed: 1 }));
    assert_eq!(stare(&mut detector, word(1, 3), 180, 220), None);
    let silent = Event::Silent { since: ms(120), timeout: ms(120) };
    assert_eq!(detector.observe(word(1, 3), ms(240)), Some(silent));
    assert_eq!(detector.assess(HOUR), Verdict::Silent { since: ms(120) });
}

#[test]
fn a_silent_node_stays_silent_until_reset_or_until_another_agent_counts_on() {
    let mut detector = healthy(DetectorOptions::default());
    assert_eq!(stare(&mut detector, word(1, 2), 60, 100), Some(Event::Late { missed: 1 }));
    assert_eq!(stare(&mut detector, word(1, 2), 120, 140), Some(Event::Silent { since: ms(40), timeout: ms(100) }));
    assert_eq!(detector.observe(word(1, 3), ms(160)), Some(Event::HeardTooLate { incarnation: 1 }));
    assert_eq!(detector.observe(word(1, 4), ms(180)), None);
    let mut other = detector.clone();
    assert_eq!(detector.observe(word(2, 1), ms(200)), None);
    assert_eq!(detector.assess(ms(200)), Verdict::Silent { since: ms(40) });
    assert_eq!(detector.observe(word(2, 2), ms(220)), Some(Event::Reborn { incarnation: 2 }));
    assert_eq!(detector.assess(ms(220)), Verdict::Healthy);

    other.reset(ms(200));
    assert_eq!(other.assess(ms(200)), Verdict::Unheard);
    assert_eq!(other.observe(word(1, 4), ms(220)), None);
    assert_eq!(other.observe(word(1, 5), ms(240)), Some(Event::Heard { incarnation: 1 }));
}

#[test]
fn a_node_that_is_never_heard_has_its_grace() {
    let mut detector = Detector::new(DetectorOptions::default(), ms(0)).expect("good options");
    assert_eq!(stare(&mut detector, 0, 20, 4980), None);
    assert_eq!(detector.assess(ms(4980)), Verdict::Unheard);
    assert_eq!(stare(&mut detector, 0, 5000, 5000), Some(Event::Silent { since: ms(0), timeout: ms(5000) }));
}

#[test]
fn time_without_looks_is_no_silence() {
    let mut detector = healthy(DetectorOptions::default());
    assert_eq!(detector.assess(HOUR), Verdict::Healthy);
    // The watcher stood still for an hour: that counts as a tick.
    assert_eq!(detector.observe(word(1, 2), HOUR), None);
    assert_eq!(detector.assess(HOUR), Verdict::Healthy);
    assert_eq!(detector.observe(word(1, 3), HOUR + ms(20)), None);
    assert_eq!(detector.score().stalls, 1);
    assert_eq!(detector.timeout(), ms(100));
}

#[test]
fn after_a_stall_nothing_is_silent_before_a_second_look_an_interval_later() {
    let mut detector = healthy(DetectorOptions::default());
    assert_eq!(stare(&mut detector, word(1, 2), 60, 120), Some(Event::Late { missed: 1 }));
    // 80 ms are watched. A stall counts as 20, which makes the time-out; but what came meanwhile may not be read yet.
    assert_eq!(stare(&mut detector, word(1, 2), 5000, 5000), None);
    assert_eq!(detector.observe(word(1, 2), ms(5019)), None);
    let silent = Event::Silent { since: ms(40), timeout: ms(100) };
    assert_eq!(detector.observe(word(1, 2), ms(5020)), Some(silent));
}

#[test]
fn a_watcher_that_always_comes_late_judges_too() {
    let mut detector = healthy(DetectorOptions::default());
    let said =
        (1..20).find(|look| matches!(detector.observe(word(1, 2), ms(40 + look * 90)), Some(Event::Silent { .. })));
    // Each look counts as 20 ms, and every second one may judge.
    assert_eq!(said, Some(6));
}

#[test]
fn words_that_make_no_sense_make_nobody_silent() {
    let mut detector = healthy(DetectorOptions::default());
    let (high, most) = (word(u16::MAX, 7), word(1, u64::MAX));
    // Garbled once, then right again: the right ones are not old ones.
    assert_eq!(detector.observe(high, ms(60)), None);
    assert_eq!(detector.observe(word(1, 3), ms(80)), None);
    assert_eq!(detector.observe(most, ms(100)), None);
    let back = Event::Backwards { from: (1 << 48) - 1, to: 4 };
    assert_eq!(detector.observe(word(1, 4), ms(120)), Some(back));
    for counter in 5..500 {
        assert_eq!(detector.observe(word(1, counter), ms(40 + counter * 20)), None, "{counter}");
    }
}

#[test]
fn an_agent_of_before_is_ignored_and_reported_once() {
    let mut detector = healthy(DetectorOptions::default());
    assert_eq!(detector.observe(word(3, 1), ms(60)), None);
    assert_eq!(detector.observe(word(3, 2), ms(80)), Some(Event::Reborn { incarnation: 3 }));
    assert_eq!(detector.observe(word(1, 3), ms(100)), Some(Event::Ignored { word: word(1, 3) }));
    assert_eq!(detector.observe(word(1, 4), ms(101)), None);
    assert_eq!(detector.observe(0, ms(102)), Some(Event::Ignored { word: 0 }));
    assert_eq!(detector.observe(word(1, 5), ms(120)), Some(Event::Late { missed: 1 }));
    // Writing on does not keep the node alive.
    let events: Vec<_> =
        (6..20).filter_map(|counter| detector.observe(word(1, counter), ms(20 + counter * 20))).collect();
    assert!(events.contains(&Event::Silent { since: ms(80), timeout: ms(100) }), "{events:?}");
}

#[test]
fn the_time_out_is_stretched_where_gaps_are_uneven_and_shrinks_back() {
    let options = DetectorOptions::default();
    let mut detector = healthy(options);
    let (mut now_ms, mut counter) = (40, 2);
    let mut beat = |detector: &mut Detector, gap_ms| {
        counter += 1;
        let mut left = gap_ms;
        while left > 20 {
            (now_ms, left) = (now_ms + 20, left - 20);
            let event = detector.observe(word(1, counter - 1), ms(now_ms));
            assert!(!matches!(event, Some(Event::Silent { .. })), "{event:?}");
        }
        now_ms += left;
        detector.observe(word(1, counter), ms(now_ms));
    };
    (0..1000).for_each(|_| beat(&mut detector, 20));
    assert_eq!(detector.timeout(), ms(100));
    for gap_ms in [80, 110, 150, 220, 320, 460, 680, 1000] {
        (0..20).for_each(|_| beat(&mut detector, 20));
        beat(&mut detector, gap_ms);
        assert!(detector.timeout() >= ms(gap_ms * 3 / 2).min(options.longest_timeout()), "{gap_ms}");
        assert!(detector.timeout() <= options.longest_timeout(), "{gap_ms}");
    }
    // Remembered for a window, forgotten after two.
    (0..1000).for_each(|_| beat(&mut detector, 20));
    assert!(detector.timeout() > ms(900), "{:?}", detector.timeout());
    (0..2500).for_each(|_| beat(&mut detector, 20));
    assert_eq!(detector.timeout(), ms(100));
}

#[test]
fn options_that_cannot_work_are_refused_with_a_remedy() {
    let good = DetectorOptions::default();
    assert_eq!(good.check(), Ok(()));
    let bad = [
        DetectorOptions { interval: Duration::ZERO, ..good },
        DetectorOptions { interval: Duration::MAX, ..good },
        DetectorOptions { timeout: ms(59), ..good },
        DetectorOptions { timeout: Duration::MAX, window: Duration::MAX, grace: Duration::MAX, ..good },
        DetectorOptions { tick: ms(34), ..good },
        DetectorOptions { tick: Duration::ZERO, ..good },
        DetectorOptions { stretch: 0, ..good },
        DetectorOptions { stretch: u32::MAX, ..good },
        DetectorOptions { window: ms(99), ..good },
        DetectorOptions { grace: ms(99), ..good },
    ];
    for options in bad {
        let error = Detector::new(options, ms(0)).expect_err("bad options");
        assert!(error.to_string().contains("(remedy: "), "{error}");
    }
    let error = DetectorOptions { timeout: ms(59), ..good }.check().expect_err("a short time-out");
    assert!(error.to_string().contains("60ms at least"), "{error}");
}

#[test]
fn words_are_packed_as_their_table_says() {
    let last = HeartbeatWord::new(u16::MAX, u64::MAX);
    assert_eq!((last.0, last.incarnation(), last.counter()), (u64::MAX, u16::MAX, (1 << 48) - 1));
    assert_eq!(HeartbeatWord::new(1, 0).0, 1 << 48);
    assert_eq!(HeartbeatWord::new(2, 5).next(), HeartbeatWord::new(2, 6));
    assert_eq!(last.next(), HeartbeatWord::new(u16::MAX, 0));
}

/// A word and how long after the look before it is looked at: mostly what may happen, now and then anything.
fn looks() -> impl Strategy<Value = Vec<(u64, u64)>> {
    let words = prop_oneof![
        6 => (0_u16..4, 0_u64..4).prop_map(|(incarnation, counter)| word(incarnation, counter)),
        1 => any::<u64>(),
    ];
    let spans = prop_oneof![8 => 0..=40_000_000_u64, 1 => 0..10_000_000_000_u64, 1 => any::<u64>()];
    proptest::collection::vec((words, spans), 0..200)
}

proptest! {
    #[test]
    fn nothing_is_silent_before_the_time_out(looks in looks(), begins in any::<u64>()) {
        let options = DetectorOptions::default();
        let mut detector = Detector::new(options, Duration::from_nanos(begins)).expect("good options");
        let (mut now, mut changed_at) = (begins, begins);
        for (word, span) in looks {
            now = now.saturating_add(span);
            let at = Duration::from_nanos(now);
            let heard = detector.score().heard;
            let was_silent = matches!(detector.assess(at), Verdict::Silent { .. });
            let event = detector.observe(word, at);
            let has_changed = detector.score().heard > heard;
            prop_assert!(detector.timeout() >= options.timeout);
            prop_assert!(detector.timeout() <= options.longest_timeout().max(options.grace));
            let is_silent = matches!(detector.assess(at), Verdict::Silent { .. });
            let says_so = matches!(event, Some(Event::Silent { .. }));
            prop_assert_eq!(is_silent && !was_silent, says_so);
            prop_assert!(!says_so || now - changed_at >= ns(options.timeout), "{} after {}", now, changed_at);
            let is_reborn = matches!(event, Some(Event::Reborn { .. }));
            prop_assert!(!was_silent || is_silent || is_reborn);
            changed_at = if has_changed { now } else { changed_at };
        }
    }

    #[test]
    fn times_that_go_back_and_forth_never_panic(looks in proptest::collection::vec((any::<u64>(), any::<Duration>()), 0..50)) {
        let mut detector = Detector::new(DetectorOptions::default(), Duration::MAX).expect("good options");
        for (word, at) in looks {
            detector.observe(word, at);
            detector.assess(at);
            detector.reset(at);
            detector.observe(word.wrapping_add(1), Duration::MAX);
        }
    }

    /// Whatever came before: once the word stands still and the looks come in time, silence is said within the longest
    /// time-out and two ticks.
    #[test]
    fn silence_is_always_said(looks in looks(), last in any::<u64>(), ticks in proptest::collection::vec(1..=20_u64, 200)) {
        let options = DetectorOptions::default();
        let mut detector = Detector::new(options, ms(0)).expect("good options");
        let mut now = Duration::ZERO;
        let steady = (1..100).map(|counter| (word(1, counter), 20_000_000));
        for (word, span) in steady.chain(looks).chain([(last, 20_000_000)]) {
            now = now.saturating_add(Duration::from_nanos(span.min(1 << 50)));
            detector.observe(word, now);
        }
        let began = now;
        for tick in ticks {
            now += ms(tick);
            detector.observe(last, now);
            if matches!(detector.assess(now), Verdict::Silent { .. }) {
                return Ok(());
            }
            prop_assert!(now - began <= options.longest_timeout() + 2 * options.tick, "{:?}", detector);
        }
        prop_assert!(false, "not within {:?}", now - began);
    }
}
