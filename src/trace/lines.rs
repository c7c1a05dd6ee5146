//! The lines of a timeline: Chrome's Trace Event Format, as an array with an event on each line, so that a file that
//! breaks off at any line can still be read.
//!
//! A process of the format is a node, a thread a rank. Times are microseconds since the origin of the node's clock,
//! which its ranks share; the file's first lines say when that was, so that `phalanx trace merge` can set nodes against
//! each other. (Microseconds since 1970 would be too many for a viewer that reads them as floating point: it would
//! round to a quarter of a microsecond, longer than a barrier takes.)

use std::io::Write;

use super::lanes::Lanes;
use super::{Kind, Record, Remark, Settings, Unit};
use crate::clock::Clock;

/// Members and missing ranks that are named one by one.
const MOST_NAMED: usize = 64;
/// Between a rank's own track and those for its waits that cross others.
const LANE_STRIDE: usize = 1 << 20;

/// Turns one rank's events into lines.
#[derive(Debug)]
pub struct Lines {
    clock: Clock,
    rank: usize,
    node: usize,
    lanes: Lanes,
    /// Lanes that have been named.
    named: usize,
    /// Lines with an event of the rank's.
    written: u64,
    lost: u64,
}

impl Lines {
    /// Begins a file: what it is, and the tracks' names.
    pub fn begin(settings: &Settings, out: &mut Vec<u8>) -> Self {
        let Settings { rank, node, ranks, clock, origin_time_ns, .. } = settings;
        let (clock, rank, node) = (*clock, *rank, *node);
        let lines = Self { clock, rank, node, lanes: Lanes::default(), named: 1, written: 0, lost: 0 };
        out.extend_from_slice(b"[\n");
        // As text: a number of nanoseconds since 1970 does not survive a reader's floating point.
        let what = format!(r#""rank":{rank},"ranks":{ranks},"node":{node},"origin_time_ns":"{origin_time_ns}""#);
        lines.metadata(out, rank, "phalanx_trace", &what);
        lines.metadata(out, rank, "process_name", &format!(r#""name":"node {node}""#));
        lines.metadata(out, rank, "process_sort_index", &format!(r#""sort_index":{node}"#));
        lines.metadata(out, rank, "thread_name", &format!(r#""name":"rank {rank}""#));
        lines.metadata(out, rank, "thread_sort_index", &format!(r#""sort_index":{rank}"#));
        lines
    }

    /// Adds a record.
    pub fn record(&mut self, record: &Record, out: &mut Vec<u8>) {
        let Record { ticks, kind, group, sequence, argument } = *record;
        let args = format_args!(r#""group":{group},"sequence":{sequence}"#);
        match kind {
            Kind::Arrival => self.instant(out, "arrival", Scope::Rank, ticks, args),
            Kind::Release => self.wait(out, argument, ticks, args),
            Kind::Withdrawal => self.instant(out, "withdrawn", Scope::Rank, ticks, args),
            Kind::GroupLeft => self.instant(out, "group left", Scope::Rank, ticks, args),
        }
    }

    /// Adds a remark.
    pub fn remark(&mut self, ticks: u64, remark: &Remark, out: &mut Vec<u8>) {
        match remark {
            Remark::TimedOut { group, sequence, missing } => {
                let (count, named) = (missing.len(), list(missing));
                let args = format_args!(
                    r#""group":{group},"sequence":{sequence},"missing":[{named}],"missing_ranks":{count}"#
                );
                self.instant(out, "timed out", Scope::Rank, ticks, args);
            }
            Remark::GroupMade { group, ranks } => {
                let (size, named) = (ranks.len(), list(ranks));
                let args = format_args!(r#""group":{group},"size":{size},"ranks":[{named}]"#);
                self.instant(out, "group made", Scope::Rank, ticks, args);
            }
            Remark::Death { unit, cause, epoch } => {
                let (kind, number) = match unit {
                    Unit::Rank(rank) => ("rank", rank),
                    Unit::Node(node) => ("node", node),
                };
                let cause = escaped(cause);
                let args = format_args!(r#""{kind}":{number},"cause":"{cause}","epoch":{epoch}"#);
                self.instant(out, &format!("{kind} {number} failed"), Scope::Node, ticks, args);
            }
            Remark::Alarm { alarms, epoch } => {
                let args = format_args!(r#""alarms":{alarms},"epoch":{epoch}"#);
                self.instant(out, "alarm", Scope::Rank, ticks, args);
            }
        }
    }

    /// Notes how many events have been lost so far: a step in a counter where that has grown.
    pub fn lost(&mut self, ticks: u64, lost: u64, out: &mut Vec<u8>) {
        if lost == self.lost {
            return;
        }
        self.lost = lost;
        let (rank, node) = (self.rank, self.node);
        let ts = Microseconds(self.clock.since_origin_ns(ticks));
        line(
            out,
            format_args!(
                r#"{{"ph":"C","pid":{node},"tid":{rank},"ts":{ts},"name":"events lost by rank {rank}","args":{{"lost":{lost}}}}}"#
            ),
        );
    }

    /// Ends the file with the counts.
    pub fn end(&self, out: &mut Vec<u8>) {
        let what = format!(r#""rank":{},"written":{},"lost":{}"#, self.rank, self.written, self.lost);
        self.metadata(out, self.rank, "phalanx_trace_end", &what);
        // No comma behind the last.
        out.truncate(out.len() - 2);
        out.extend_from_slice(b"\n]\n");
    }

    fn wait(&mut self, out: &mut Vec<u8>, arrived: u64, passed: u64, args: std::fmt::Arguments<'_>) {
        // Of two CPUs' counters one may be ahead by a hair.
        let arrived = arrived.min(passed);
        let (start, end) = (self.clock.since_origin_ns(arrived), self.clock.since_origin_ns(passed));
        let lane = self.lanes.place(start, end);
        let (node, track) = (self.node, self.track(out, lane));
        let (ts, duration) = (Microseconds(start), Microseconds(end - start));
        line(
            out,
            format_args!(
                r#"{{"ph":"X","pid":{node},"tid":{track},"ts":{ts},"dur":{duration},"name":"barrier","args":{{{args}}}}}"#
            ),
        );
        self.written += 1;
    }

    /// A lane's track, named when it is first used.
    fn track(&mut self, out: &mut Vec<u8>, lane: usize) -> usize {
        let track = self.rank + lane * LANE_STRIDE;
        if lane >= self.named {
            self.named = lane + 1;
            let rank = self.rank;
            self.metadata(out, track, "thread_name", &format!(r#""name":"rank {rank}, overlapping waits {lane}""#));
            self.metadata(out, track, "thread_sort_index", &format!(r#""sort_index":{rank}"#));
        }
        track
    }

    fn instant(&mut self, out: &mut Vec<u8>, name: &str, scope: Scope, ticks: u64, args: std::fmt::Arguments<'_>) {
        let (rank, node, ts) = (self.rank, self.node, Microseconds(self.clock.since_origin_ns(ticks)));
        let scope = match scope {
            Scope::Rank => 't',
            Scope::Node => 'p',
        };
        line(
            out,
            format_args!(
                r#"{{"ph":"i","s":"{scope}","pid":{node},"tid":{rank},"ts":{ts},"name":"{name}","args":{{{args}}}}}"#
            ),
        );
        self.written += 1;
    }

    fn metadata(&self, out: &mut Vec<u8>, track: usize, name: &str, args: &str) {
        let node = self.node;
        line(out, format_args!(r#"{{"ph":"M","pid":{node},"tid":{track},"name":"{name}","args":{{{args}}}}}"#));
    }
}

/// How far a viewer draws an instant.
#[derive(Clone, Copy, Debug)]
enum Scope {
    Rank,
    Node,
}

fn line(out: &mut Vec<u8>, event: std::fmt::Arguments<'_>) {
    writeln!(out, "{event},").expect("a vector takes everything");
}

/// A time in nanoseconds, written in microseconds.
struct Microseconds(u64);

impl std::fmt::Display for Microseconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

fn list(ranks: &[usize]) -> String {
    ranks.iter().take(MOST_NAMED).map(usize::to_string).collect::<Vec<_>>().join(",")
}

/// A text between quotes of JSON.
fn escaped(text: &str) -> String {
    let escape = |character: char| match character {
        '"' | '\\' => format!("\\{character}"),
        '\0'..='\x1f' => format!("\\u{:04x}", u32::from(character)),
        _ => character.to_string(),
    };
    text.chars().map(escape).collect()
}
