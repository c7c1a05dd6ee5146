//! The course of a job, event by event, with a clock of the tests' own.

use super::*;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn course(timeout: Option<Duration>, keep_going: bool) -> (Course, Instant) {
    let now = Instant::now();
    (Course::new(now, timeout, keep_going), now)
}

#[test]
fn nothing_happens_to_a_job_that_succeeds() {
    let (mut course, start) = course(None, false);
    assert!(!course.handle_end(start, End::Exited(0)));
    assert_eq!(course.poll(start + MS(1_000_000)), None);
    assert_eq!(course.next_deadline(), None);
    assert_eq!(course.status(true), 0);
}

#[test]
fn a_failed_rank_ends_the_others_step_by_step() {
    let (mut course, start) = course(None, false);
    assert!(course.handle_end(start, End::Killed(9)));
    assert!(!course.handle_end(start + MS(1), End::Exited(3)), "a failure that follows is no news");
    assert_eq!(course.poll(start + MS(199)), None);
    assert_eq!(course.poll(start + MS(200)), Some(Order::Terminate));
    assert_eq!(course.poll(start + MS(2199)), None);
    assert!(!course.is_killing());
    assert_eq!(course.poll(start + MS(2200)), Some(Order::Kill));
    assert!(course.is_killing());
    assert_eq!(course.status(false), 137);
}

#[test]
fn keep_going_remembers_the_first_failure_and_reports_each() {
    let (mut course, start) = course(None, true);
    assert!(course.handle_end(start, End::Exited(5)));
    assert!(course.handle_end(start, End::Exited(6)));
    assert!(course.is_running());
    assert_eq!(course.poll(start + MS(10_000)), None);
    assert_eq!(course.status(true), 5);
}

#[test]
fn a_time_out_is_announced_once() {
    let (mut course, start) = course(Some(MS(500)), false);
    assert_eq!(course.next_deadline(), Some(start + MS(500)));
    assert_eq!(course.poll(start + MS(500)), Some(Order::TimeOut));
    assert_eq!(course.poll(start + MS(501)), None);
    assert!(!course.handle_end(start + MS(502), End::Killed(15)));
    assert_eq!(course.poll(start + MS(2500)), Some(Order::Kill));
    assert_eq!(course.status(false), 124);
}

#[test]
fn a_time_out_after_a_failure_changes_nothing() {
    let (mut course, start) = course(Some(MS(100)), false);
    course.handle_end(start, End::Exited(2));
    assert_eq!(course.poll(start + MS(150)), None);
    assert_eq!(course.status(true), 2);
}

#[test]
fn an_interrupted_job_fails_unless_its_ranks_finished_well() {
    for (end, complete, status) in [
        (End::Killed(15), true, 143),
        (End::Exited(3), true, 143),
        (End::Exited(0), true, 0),
        (End::Exited(0), false, 143),
    ] {
        let (mut course, start) = course(None, false);
        course.handle_signal(start, Signal::SIGTERM);
        assert!(!course.handle_end(start, end), "{end:?} was reported");
        assert_eq!(course.poll(start + MS(1999)), None);
        assert_eq!(course.status(complete), status, "after {end:?}");
    }
}

#[test]
fn a_second_interrupt_does_not_prolong_the_first() {
    let (mut course, start) = course(None, false);
    course.handle_signal(start, Signal::SIGINT);
    course.handle_signal(start + MS(1500), Signal::SIGTERM);
    assert_eq!(course.poll(start + MS(2000)), Some(Order::Kill));
    assert_eq!(course.status(false), 130);
}

#[test]
fn user_signals_end_nothing() {
    let (mut course, start) = course(None, false);
    course.handle_signal(start, Signal::SIGUSR1);
    assert!(course.is_running());
    assert!(course.handle_end(start, End::Killed(10)), "a rank that dies of it has failed");
    assert_eq!(course.status(true), 138);
}

#[test]
fn closed_output_terminates_at_once() {
    let (mut course, start) = course(None, false);
    course.handle_output_closed(start);
    course.handle_output_closed(start);
    assert_eq!(course.poll(start), Some(Order::Terminate));
    assert_eq!(course.poll(start), None);
    assert_eq!(course.status(false), 141);
}

#[test]
fn an_abandoned_job_is_killed_whatever_it_was_doing() {
    let (mut course, start) = course(None, true);
    course.handle_end(start, End::Exited(2));
    course.handle_abandonment();
    assert!(course.is_killing() && !course.is_patient());
}
