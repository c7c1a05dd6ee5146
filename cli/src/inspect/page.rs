//! Jobs on paper: a page for people, or a JSON object a line for programs.

use std::fmt::Write;
use std::time::Duration;

use phalanx::SegmentError;
use phalanx_bench::page::ns;
use serde::Serialize;

use super::objects::{Object, Shared};
use super::view::{Call, Epoch, Job, Rank, State, Unreadable, Verdict};

/// How many ranks are named in a sentence; of the others only the number is said.
const NAMED: usize = 4;

/// What to do about a job of another version.
const OWN_PROGRAM: &str = "remedy: use that job's own `phalanx`";

/// The head of the column of calls.
const CALL_HEAD: &str = "last long call";

/// An object for each job, on a line of its own.
pub fn json_lines(jobs: &[Job]) -> String {
    jobs.iter().map(|job| serde_json::to_string(&Record::new(job)).expect("texts and numbers") + "\n").collect()
}

/// A job as programs see it.
#[derive(Serialize)]
struct Record<'a> {
    inspect: String,
    summary: String,
    nodes: usize,
    completed: u64,
    missing: Vec<usize>,
    ranks: &'a [Rank],
    epochs: &'a [Epoch],
    objects: &'a [Object],
}

impl<'a> Record<'a> {
    fn new(job: &'a Job) -> Self {
        Self {
            inspect: job.name(),
            summary: summary(job),
            nodes: job.nodes,
            completed: job.completed,
            missing: job.missing.iter().map(|index| job.ranks[*index].rank).collect(),
            ranks: &job.ranks,
            epochs: &job.epochs,
            objects: &job.objects,
        }
    }
}

/// Why a job cannot be read.
pub fn complaint(job: &Unreadable) -> String {
    let pids: Vec<String> = job.holders.iter().map(u32::to_string).collect();
    let names = listed(&pids.iter().map(String::as_str).collect::<Vec<_>>());
    let processes = if pids.len() == 1 { "process" } else { "processes" };
    let why = match job.error {
        SegmentError::Version { found, expected } => {
            format!("its format version is {found}, this program's {expected} ({OWN_PROGRAM})")
        }
        SegmentError::Layout { found, expected } => {
            format!("its layout hash is {found:#018x}, this program's {expected:#018x} ({OWN_PROGRAM})")
        }
        ref other => other.to_string(),
    };
    format!("cannot read the job of {processes} {names}: {why}")
}

/// The jobs one below the other.
pub fn page(jobs: &[Job]) -> String {
    jobs.iter().map(section).collect::<Vec<_>>().join("\n")
}

fn section(job: &Job) -> String {
    let size = match job.is_whole() {
        true => format!("{} on {}", counted(job.ranks.len(), "rank"), counted(job.nodes, "node")),
        false => {
            let (ranks, nodes) = (counted(job.size.0, "rank"), counted(job.size.1, "node"));
            format!("{} of {ranks}, {} of {nodes} seen here", job.ranks.len(), job.nodes)
        }
    };
    let barriers = counted(usize::try_from(job.completed).unwrap_or(usize::MAX), "barrier");
    let mut text = format!("{}\njob {}: {size}, {barriers} of the world\n\n", summary(job), job.name());
    let calls: Vec<String> =
        job.ranks.iter().map(|rank| rank.call.as_ref().map(call_text).unwrap_or_default()).collect();
    let width = calls.iter().map(String::len).max().unwrap_or(0).max(CALL_HEAD.len());
    let [rank, node, pid, state, barriers] = ["rank", "node", "pid", "state", "barriers"];
    let _ = writeln!(text, "{rank:>6} {node:>5} {pid:>8}  {state:<8} {barriers:>12}  {CALL_HEAD:<width$}  waits, end");
    for (rank, call) in job.ranks.iter().zip(calls) {
        let pid = rank.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let row = format!(
            "{:>6} {:>5} {:>8}  {:<8} {:>12}  {call:<width$}  {}",
            rank.rank,
            rank.node,
            pid,
            rank.state.name(),
            rank.barriers,
            rank.end.clone().unwrap_or_else(|| wait(job, rank))
        );
        let _ = writeln!(text, "{}", row.trim_end());
    }
    if !job.epochs.is_empty() {
        text.push('\n');
    }
    for Epoch { epoch, unit, cause, .. } in &job.epochs {
        let _ = writeln!(text, "epoch {epoch}: {unit}, {cause}");
    }
    text + &object_rows(&job.objects)
}

/// The table of named objects; nothing where there are none.
fn object_rows(objects: &[Object]) -> String {
    if objects.is_empty() {
        return String::new();
    }
    let widest =
        |head: &str, text: &dyn Fn(&Object) -> usize| objects.iter().map(text).max().unwrap_or(0).max(head.len());
    let width = widest("object", &|object| object.name.chars().count());
    let kinds = widest("kind", &|object| object.kind.len());
    let [object, kind, node, home, tenure] = ["object", "kind", "node", "home", "tenure"];
    let [holder, token, held] = ["holder", "token", "held"];
    let mut text = format!(
        "\n{object:<width$}  {kind:<kinds$} {node:>5} {home:>5}  {tenure:<8} {holder:>6} {token:>14} {held:>13}  waiting, value\n"
    );
    for object in objects {
        let row = format!(
            "{:<width$}  {:<kinds$} {:>5} {:>5}  {:<8} {:>6} {:>14} {:>13}  {}",
            object.name,
            object.kind,
            object.node,
            or_dash(object.home),
            or_dash(object.tenure),
            or_dash(holder_of(object)),
            or_dash(token_of(object)),
            held_text(object),
            object_end(object),
        );
        let _ = writeln!(text, "{}", row.trim_end());
    }
    text
}

fn or_dash(value: Option<impl std::fmt::Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn held_text(object: &Object) -> String {
    let bound = if object.held_at_least { "≥ " } else { "" };
    or_dash(object.held_ns.map(|span| format!("{bound}{}", span_text(Duration::from_nanos(span)))))
}

/// The rank that holds an object, also where only its home tells that.
fn holder_of(object: &Object) -> Option<usize> {
    object.holder.or(match object.shared {
        Some(Shared::Lease { holder, .. }) => holder,
        _ => None,
    })
}

fn token_of(object: &Object) -> Option<u64> {
    object.token.or(match object.shared {
        Some(Shared::Written { token, .. }) => Some(token),
        _ => None,
    })
}

/// Who waits for an object, here and elsewhere; who shares it, what it counts or says.
fn object_end(object: &Object) -> String {
    let value = object.value.map(|value| format!("is {value}"));
    let waiting = (!object.waiting.is_empty()).then(|| numbered("rank", &object.waiting));
    let nodes = &object.waiting_nodes;
    let elsewhere = (!nodes.is_empty()).then(|| format!("{} at its home", numbered("node", nodes)));
    let shared = object.shared.iter().flat_map(shared_texts);
    value.into_iter().chain(waiting).chain(shared).chain(elsewhere).collect::<Vec<_>>().join("; ")
}

fn shared_texts(shared: &Shared) -> Vec<String> {
    match shared {
        Shared::Readers { readers, waiting, .. } => {
            let read = (!readers.is_empty()).then(|| format!("read by {}", numbered("rank", readers)));
            let wait = (!waiting.is_empty()).then(|| format!("then by {}", numbered("rank", waiting)));
            read.into_iter().chain(wait).collect()
        }
        Shared::Permits { permits, taken, waiting } => {
            let all = taken.iter().fold(0_u64, |all, taken| all.saturating_add(taken.permits));
            let by: Vec<String> =
                taken.iter().map(|taken| format!("{} by rank {}", taken.permits, taken.rank)).collect();
            let by = if by.is_empty() { String::new() } else { format!(": {}", by.join(", ")) };
            let taken = format!("{all} of {permits} permits{by}");
            let waits = waiting.map(|waits| format!("rank {} waits until it has {}", waits.rank, waits.permits));
            std::iter::once(taken).chain(waits).collect()
        }
        Shared::Lease { waiting, .. } if waiting.is_empty() => Vec::new(),
        Shared::Lease { waiting, .. } => vec![numbered("rank", waiting)],
        Shared::Written { value, rank, .. } => {
            let by = rank.map(|rank| format!(", by rank {rank}")).unwrap_or_default();
            vec![format!("is {value}{by}")]
        }
    }
}

/// "rank 3", "nodes 1, 2".
fn numbered(noun: &str, numbers: &[usize]) -> String {
    let texts: Vec<String> = numbers.iter().map(usize::to_string).collect();
    format!("{} {}", plural(numbers.len(), noun), texts.join(", "))
}

/// What a rank waits in, and for how long; or what it was in last.
fn call_text(call: &Call) -> String {
    let (name, group) = (call.name, call.group);
    let sequence = if call.sequence == 0 { String::new() } else { format!(" {}", call.sequence) };
    let span = span_text(Duration::from_nanos(call.began_ns));
    match call.inside {
        true => format!("in {name}{sequence} of group {group} for {span}"),
        false => format!("was in {name}{sequence} of group {group}, begun {span} ago"),
    }
}

/// Since when a rank waits, and for whom.
fn wait(job: &Job, rank: &Rank) -> String {
    if !rank.waits {
        return String::new();
    }
    let missing: Vec<&Rank> = job.missing.iter().map(|index| &job.ranks[*index]).collect();
    let names = named(&missing, |rank| rank.rank.to_string());
    let span = rank.waits_ns.map(|span| span_text(Duration::from_nanos(span))).unwrap_or_default();
    format!("{span} for {} {names}", plural(missing.len(), "rank")).trim_start().to_owned()
}

/// The job in a sentence.
fn summary(job: &Job) -> String {
    match job.verdict() {
        Verdict::Over if job.is_whole() => "nobody is left".to_owned(),
        Verdict::Over => "nobody is left here".to_owned(),
        Verdict::Joining => {
            let absent: Vec<&Rank> = job.ranks.iter().filter(|rank| rank.state == State::Absent).collect();
            let (names, verb) = (named(&absent, |rank| rank.rank.to_string()), has(absent.len()));
            format!("{} {names} {verb} not joined yet", plural(absent.len(), "rank"))
        }
        Verdict::HeldUp { waiting, longest } => {
            let missing: Vec<&Rank> = job.missing.iter().map(|index| &job.ranks[*index]).collect();
            let (subject, verb) = (subject(&missing), if missing.len() == 1 { "holds" } else { "hold" });
            let span = longest.map(|span| format!(" for {}", span_text(span))).unwrap_or_default();
            format!("{subject} {verb} up {}{span}", counted(waiting, "rank"))
        }
        Verdict::Free => {
            let halted: Vec<&Rank> = job.halted().into_iter().map(|index| &job.ranks[index]).collect();
            match (halted.is_empty(), job.epochs.is_empty()) {
                (true, true) => "nobody waits in the world's barrier".to_owned(),
                (true, false) => {
                    let units: Vec<&str> = job.epochs.iter().map(|epoch| &*epoch.unit).collect();
                    format!("the job goes on without {}; nobody waits in the world's barrier", listed(&units))
                }
                // Nobody waits yet, or only in groups of which it is not known here whose they are.
                (false, _) => format!("{} may hold up the others, who are no further", subject(&halted)),
            }
        }
    }
}

/// Ranks with their processes and states.
fn subject(ranks: &[&Rank]) -> String {
    let with_process = |rank: &Rank| {
        let pid = rank.pid.map(|pid| format!("pid {pid}, ")).unwrap_or_default();
        format!("{} ({pid}{})", rank.rank, rank.state.name())
    };
    format!("{} {}", plural(ranks.len(), "rank"), named(ranks, with_process))
}

/// The first of them by name, the others by number.
fn named(ranks: &[&Rank], name: impl Fn(&Rank) -> String) -> String {
    let names: Vec<String> = ranks.iter().map(|rank| name(rank)).collect();
    listed(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

fn listed(all: &[&str]) -> String {
    let mut names: Vec<String> = all.iter().take(NAMED).map(|name| (*name).to_owned()).collect();
    if all.len() > NAMED {
        names.push(format!("{} more", all.len() - NAMED));
    }
    match names.pop() {
        Some(last) if !names.is_empty() => format!("{} and {last}", names.join(", ")),
        Some(only) => only,
        None => String::new(),
    }
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {}", plural(count, noun))
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { noun.to_owned() } else { format!("{noun}s") }
}

fn has(count: usize) -> &'static str {
    if count == 1 { "has" } else { "have" }
}

/// A span with three figures, from a minute on in whole seconds.
fn span_text(span: Duration) -> String {
    match span.as_secs() {
        0..60 => ns(span.as_secs_f64() * 1e9),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use phalanx::FailureCause;
    use phalanx::cluster::view::{Obituary, Unit};

    use super::super::objects::Taken;
    use super::super::view::jobs;
    use super::super::view::tests::{node, rank};
    use super::*;

    /// The only job of these nodes, with some ranks' processes in other states.
    fn job(arrivals: &[u64], states: &[(usize, State)]) -> Job {
        let ranks = arrivals.iter().enumerate().map(|(index, arrivals)| rank(index, *arrivals)).collect();
        let mut job = jobs(vec![node(0x1234, ranks)]).remove(0);
        for rank in &mut job.ranks {
            rank.pid = Some(100 + u32::try_from(rank.rank).expect("small"));
        }
        states.iter().for_each(|(index, state)| job.ranks[*index].state = *state);
        job
    }

    #[test]
    fn the_first_line_names_who_holds_up_how_many_since_when() {
        let page = page(&[job(&[8, 8, 8, 7], &[(3, State::Stopped)])]);
        assert!(page.starts_with("rank 3 (pid 103, stopped) holds up 3 ranks for 3.00 s\n"), "{page}");
        assert!(page.contains("\njob 0000000000001234: 4 ranks on 1 node, 7 barriers of the world\n"), "{page}");
        assert!(
            page.contains("\n     0     0      100  running             8                  3.00 s for rank 3\n"),
            "{page}"
        );
        assert!(page.ends_with("\n     3     0      103  stopped             7\n"), "{page}");
    }

    const CALL: Call = Call { name: "barrier", group: 0, sequence: 8, inside: true, began_ns: 2_500_000_000 };

    fn lose_rank_1(job: &mut Job) {
        let lost = Obituary { unit: Unit::Rank(1), cause: FailureCause::Killed { signal: 9 } };
        job.ranks[1].end = Some(lost.cause.to_string());
        job.epochs = vec![Epoch::new(1, &lost)];
    }

    #[test]
    fn calls_ends_and_epochs_have_their_places() {
        let mut job = job(&[8, 8, 8], &[(1, State::Dead)]);
        lose_rank_1(&mut job);
        job.ranks[0].call = Some(CALL);
        job.ranks[2].call = Some(Call { name: "shrink", sequence: 0, inside: false, ..CALL });
        let page = page(&[job]);
        assert!(page.starts_with("the job goes on without rank 1; nobody waits in the world's barrier\n"), "{page}");
        let rows: Vec<&str> = page.lines().filter(|line| line.contains("    0      10")).collect();
        assert!(rows[0].ends_with("  running             8  in barrier 8 of group 0 for 2.50 s"), "{page}");
        assert!(rows[1].ends_with("  killed by signal 9 (SIGKILL)"), "{page}");
        assert!(rows[2].ends_with("  was in shrink of group 0, begun 2.50 s ago"), "{page}");
        assert!(page.ends_with("\n\nepoch 1: rank 1, killed by signal 9 (SIGKILL)\n"), "{page}");
    }

    fn held_lock() -> Object {
        Object {
            kind: "lock",
            name: "a".to_owned(),
            node: 0,
            home: Some(0),
            tenure: None,
            holder: Some(1),
            token: Some(7),
            held_ns: Some(1_500_000_000),
            held_at_least: true,
            waiting: vec![0],
            value: None,
            holder_node: None,
            waiting_nodes: vec![],
            shared: None,
        }
    }

    #[test]
    fn objects_have_a_table_of_their_own() {
        let mut job = job(&[8, 8], &[]);
        let counter = Object {
            kind: "counter",
            name: "of what is done".to_owned(),
            tenure: Some("held"),
            holder: None,
            token: None,
            held_ns: None,
            waiting: vec![],
            value: Some(42),
            ..held_lock()
        };
        let free =
            Object { home: None, held_at_least: false, held_ns: Some(5_000), waiting: vec![1, 0], ..held_lock() };
        job.objects = vec![held_lock(), free, counter];
        let page = page(&[job]);
        let rows: Vec<&str> = page.lines().skip_while(|line| !line.starts_with("object ")).collect();
        assert_eq!(
            rows,
            [
                "object           kind     node  home  tenure   holder          token          held  waiting, value",
                "a                lock        0     0  -             1              7      ≥ 1.50 s  rank 0",
                "a                lock        0     -  -             1              7       5.00 µs  ranks 1, 0",
                "of what is done  counter     0     0  held          -              -             -  is 42",
            ]
        );
    }

    #[test]
    fn what_ranks_share_is_said_after_who_waits() {
        let none = Object {
            tenure: Some("waiting"),
            holder: None,
            token: None,
            held_ns: None,
            waiting: vec![],
            ..held_lock()
        };
        let taken = vec![Taken { rank: 0, permits: 2 }, Taken { rank: 5, permits: 1 }];
        let cases = [
            (None, vec![1, 0], "nodes 1, 0 at its home"),
            (Some(Shared::Readers { writer: None, readers: vec![], waiting: vec![] }), vec![], ""),
            (
                Some(Shared::Readers { writer: Some(1), readers: vec![0, 2], waiting: vec![3] }),
                vec![1],
                "read by ranks 0, 2; then by rank 3; node 1 at its home",
            ),
            (Some(Shared::Permits { permits: 4, taken: vec![], waiting: None }), vec![], "0 of 4 permits"),
            (
                Some(Shared::Permits { permits: 3, taken, waiting: Some(Taken { rank: 2, permits: 3 }) }),
                vec![],
                "3 of 3 permits: 2 by rank 0, 1 by rank 5; rank 2 waits until it has 3",
            ),
            (Some(Shared::Lease { holder: Some(4), waiting: vec![2, 1] }), vec![], "ranks 2, 1"),
            (Some(Shared::Written { token: 9, value: 42, rank: Some(3) }), vec![], "is 42, by rank 3"),
            (Some(Shared::Written { token: 9, value: 42, rank: None }), vec![], "is 42"),
        ];
        for (shared, waiting_nodes, text) in cases {
            let object = Object { shared, waiting_nodes, ..none.clone() };
            assert_eq!(object_end(&object), text);
            let (holder, token) = (holder_of(&object), token_of(&object));
            match object.shared {
                Some(Shared::Lease { .. }) => assert_eq!((holder, token), (Some(4), None)),
                Some(Shared::Written { .. }) => assert_eq!((holder, token), (None, Some(9))),
                _ => assert_eq!((holder, token), (None, None)),
            }
        }
    }

    #[test]
    fn many_are_named_in_part() {
        let summary = |arrivals: &[u64]| summary(&job(arrivals, &[]));
        assert_eq!(
            summary(&[2, 1, 1]),
            "ranks 1 (pid 101, running) and 2 (pid 102, running) hold up 1 rank for 3.00 s"
        );
        let many = summary(&[2, 1, 1, 1, 1, 1, 1]);
        assert!(many.ends_with("4 (pid 104, running) and 2 more hold up 1 rank for 3.00 s"), "{many}");
    }

    #[test]
    fn what_is_left_of_a_job_is_called_that() {
        let states = [(0, State::Left), (1, State::Stopped)];
        let mut left = job(&[8, 7], &states);
        lose_rank_1(&mut left);
        // Rank 1 lives, and the others have given it up, and left.
        assert!(page(&[left]).starts_with("nobody is left\njob 0000000000001234: 2 ranks on 1 node, 7 barriers "));
        let mut part = job(&[8, 7], &states[..1]);
        part.size = (3, 2);
        let page_of_part = page(&[part]);
        assert!(page_of_part.contains(": 2 of 3 ranks, 1 of 2 nodes seen here, 7 barriers"), "{page_of_part}");
        let mut last = job(&[8], &[(0, State::Dead)]);
        last.size = (2, 2);
        assert_eq!(summary(&last), "nobody is left here");
    }

    #[test]
    fn other_jobs_say_what_they_do() {
        assert_eq!(summary(&job(&[2, 2], &[])), "nobody waits in the world's barrier");
        assert_eq!(
            summary(&job(&[2, 2], &[(1, State::Dead)])),
            "rank 1 (pid 101, dead) may hold up the others, who are no further"
        );
        let joining = summary(&job(&[0, 0, 0], &[(1, State::Absent), (2, State::Absent)]));
        assert_eq!(joining, "ranks 1 and 2 have not joined yet");
    }

    #[test]
    fn spans_are_short() {
        let text = |seconds: f64| span_text(Duration::from_secs_f64(seconds));
        assert_eq!([text(12.34), text(75.0), text(7260.0)], ["12.3 s", "1 min 15 s", "2 h 1 min"]);
    }

    #[test]
    fn json_has_a_job_on_a_line() {
        let mut job = job(&[8, 7], &[(1, State::Stopped)]);
        lose_rank_1(&mut job);
        job.ranks[0].call = Some(CALL);
        job.objects = vec![held_lock()];
        let line = json_lines(&[job]);
        let expected = concat!(
            r#"{"inspect":"0000000000001234","summary":"rank 1 (pid 101, stopped) holds up 1 rank for 3.00 s","nodes":1,"#,
            r#""completed":7,"missing":[1],"ranks":["#,
            r#"{"rank":0,"node":0,"pid":100,"state":"running","barriers":8,"waits":true,"waits_ns":3000000000,"#,
            r#""call":{"name":"barrier","group":0,"sequence":8,"inside":true,"began_ns":2500000000},"end":null},"#,
            r#"{"rank":1,"node":0,"pid":101,"state":"stopped","barriers":7,"waits":false,"waits_ns":null,"call":null,"#,
            r#""end":"killed by signal 9 (SIGKILL)"}],"#,
            r#""epochs":[{"epoch":1,"unit":"rank 1","cause":"killed by signal 9 (SIGKILL)"}],"#,
            r#""objects":[{"kind":"lock","name":"a","node":0,"home":0,"tenure":null,"holder":1,"token":7,"#,
            r#""held_ns":1500000000,"held_at_least":true,"waiting":[0],"value":null,"#,
            r#""holder_node":null,"waiting_nodes":[],"shared":null}]}"#,
            "\n"
        );
        assert_eq!(line, expected);
    }
}
