//! A contest as a page for people, or as JSON.

use std::fmt::Write;

use crate::contest::compare::Comparison;
use crate::contest::report::Report;
use crate::contest::{Contest, Object};
use crate::page::{bar, count, machine, ns};

/// The length of the longest bar, in characters.
const BAR: usize = 40;

/// The whole page, with histograms if they are wanted.
pub fn render(comparison: &Comparison, with_histograms: bool) -> String {
    let mut page = String::new();
    head(&mut page, comparison);
    table(&mut page, comparison);
    if with_histograms {
        for (report, label) in comparison.reports.iter().zip(&comparison.labels) {
            histogram(&mut page, label, "acquisitions", &report.acquire_histogram);
            histogram(&mut page, label, "handovers", &report.handover_histogram);
        }
    }
    foot(&mut page, comparison);
    page
}

/// One line of JSON for each report.
///
/// # Panics
///
/// Never: a report has only numbers and texts.
pub fn json_lines(reports: &[Report]) -> String {
    reports.iter().map(|report| serde_json::to_string(report).expect("numbers and texts") + "\n").collect()
}

fn head(page: &mut String, comparison: &Comparison) {
    let (contest, report) = (&comparison.contest, &comparison.reports[0]);
    let nodes = match contest.placement.nodes {
        1 => String::new(),
        nodes => format!("{nodes} nodes by {} and ", report.fabric),
    };
    let _ = writeln!(
        page,
        "\n{} among {} of {} processes on {nodes}{} CPUs{}",
        objects(contest),
        contest.busy,
        report.ranks,
        report.cpus,
        manner(contest),
    );
    let _ = writeln!(page, "  machine    {}", machine());
    if let Some(wait) = &report.wait {
        let _ = writeln!(page, "  waiting    {wait}");
    }
    if let Some(limit) = report.limit_ns {
        let what = match (contest.placement.nodes, report.fabric.as_str()) {
            (1, _) => "a cache line from CPU to CPU, one way",
            (_, "rdma") => "a round trip of raw RDMA writes",
            _ => "a round trip of 32 bytes by raw sockets that spin",
        };
        let _ = writeln!(page, "  limit      {} for {what}, in the same rounds", ns(limit));
    }
    page.push('\n');
}

fn objects(contest: &Contest) -> String {
    let (one, many) = match contest.object {
        Object::Lock => ("One lock", "locks"),
        Object::RwLock => ("One lock with readers", "locks with readers"),
        Object::Semaphore => ("One semaphore", "semaphores"),
        Object::Counter => ("One counter", "counters"),
        Object::Election => ("One election", "elections"),
    };
    if contest.objects == 1 { one.to_owned() } else { format!("{} {many}", contest.objects) }
}

fn manner(contest: &Contest) -> String {
    let mut manner = String::new();
    match contest.object {
        Object::RwLock => {
            let _ = write!(manner, ", {} % readers", contest.readers * 100.0);
        }
        Object::Semaphore => {
            let _ = write!(manner, ", {} permits", contest.permits);
        }
        Object::Lock | Object::Counter | Object::Election => {}
    }
    for (time, what) in [(contest.hold_ns, "held"), (contest.think_ns, "left alone")] {
        if time > 0 {
            let _ = write!(manner, ", {what} for {}", ns(time as f64));
        }
    }
    manner
}

fn table(page: &mut String, comparison: &Comparison) {
    let width = comparison.labels.iter().map(|label| label.len()).max().unwrap_or(0).max(8);
    let _ = writeln!(page, "  {:width$}{:>40}{:>20}", "", "acquire", "handover");
    let _ = write!(page, "  {:width$}", "");
    for title in ["p50", "p99", "p99.9", "max", "p50", "p99", "pair", "a second"] {
        let _ = write!(page, "{title:>10}");
    }
    page.push_str("    Jain\n");
    let absent = || "-".to_owned();
    for (report, label) in comparison.reports.iter().zip(&comparison.labels) {
        let _ = write!(page, "  {label:width$}");
        for figure in [report.acquire_p50_ns, report.acquire_p99_ns, report.acquire_p999_ns, report.acquire_max_ns] {
            let _ = write!(page, "{:>10}", ns(figure));
        }
        for figure in [report.handover_p50_ns, report.handover_p99_ns, report.pair_ns] {
            let _ = write!(page, "{:>10}", figure.map_or_else(absent, ns));
        }
        let _ = writeln!(page, "{:>10}{:>8.3}{}", count(report.throughput_per_s), report.jain, comparison_of(report));
    }
    for skipped in &comparison.skipped {
        let _ = writeln!(page, "  skipped: {skipped}");
    }
}

/// A row for each doubling of the time, with a bar of how many took so long.
fn histogram(page: &mut String, label: &str, what: &str, buckets: &[(u64, u64)]) {
    let rows = doublings(buckets);
    let (all, most) = (rows.iter().map(|row| row.1).sum::<u64>(), rows.iter().map(|row| row.1).max().unwrap_or(0));
    if most == 0 {
        return;
    }
    let _ =
        writeln!(page, "\n  {what} of {label} (each row: up to the time on its left; the share of all on the right)");
    for (bound, number) in rows {
        let length = (number as f64 / most as f64 * BAR as f64 * 8.0).ceil();
        let share = number as f64 * 100.0 / all as f64;
        let _ = writeln!(page, "  {:>9} │{:<BAR$} {share:>7.3} %{number:>11}", ns(bound as f64), bar(length));
    }
}

/// The same buckets, of each doubling one, from the first to the last.
fn doublings(buckets: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut rows: Vec<(u64, u64)> = Vec::new();
    for (bound, number) in buckets {
        let bound = bound.next_power_of_two();
        while rows.last().is_some_and(|last| last.0 < bound) {
            rows.push((rows[rows.len() - 1].0 * 2, 0));
        }
        match rows.last_mut() {
            Some(last) => last.1 += number,
            None => rows.push((bound, *number)),
        }
    }
    rows
}

/// What Phalanx takes of a rival's times, and how much more it does.
fn comparison_of(report: &Report) -> String {
    let mut text = String::new();
    if report.system == "phalanx" || report.phalanx_throughput_ratio.is_none() {
        return text;
    }
    let ratios = [
        (report.phalanx_pair_ratio, "of its pair"),
        (report.phalanx_handover_p50_ratio, "of its handover"),
        (report.phalanx_throughput_ratio, "times as many"),
    ];
    for (ratio, what) in ratios {
        if let Some(ratio) = ratio {
            let _ = write!(text, "{} {ratio:.3} {what}", if text.is_empty() { "   Phalanx:" } else { "," });
        }
    }
    text
}

fn foot(page: &mut String, comparison: &Comparison) {
    let report = &comparison.reports[0];
    page.push('\n');
    for (report, label) in comparison.reports.iter().zip(&comparison.labels).filter(|(report, _)| report.overlaps > 0) {
        let _ = writeln!(page, "  {label}: {} possessions began before the last had ended", report.overlaps);
    }
    let _ = writeln!(
        page,
        "  A handover is from when an owner begins to give back until the next has it that was waiting. Pair: acquire and\n  release by the only busy rank, no clock between. Clock read in each acquisition: {}. Rounds: {}, {} s each.\n  Figures are medians over rounds, max over all. Commit {}.\n",
        ns(report.clock_overhead_ns),
        report.rounds,
        report.seconds,
        report.commit,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_has_a_row_for_each_doubling_between_its_ends_and_counts_all() {
        assert_eq!(doublings(&[(16, 2), (20, 3), (32, 1), (200, 4)]), [(16, 2), (32, 4), (64, 0), (128, 0), (256, 4)]);
        let mut page = String::new();
        histogram(&mut page, "Phalanx", "handovers", &[(16, 2), (20, 3), (27, 1), (64, 2)]);
        let rows: Vec<&str> = page.lines().skip(2).collect();
        assert!(page.contains("handovers of Phalanx") && rows.len() == 3, "{page}");
        let bars: Vec<usize> = rows.iter().map(|row| row.matches('█').count()).collect();
        assert_eq!(bars, [BAR / 2, BAR, BAR / 2], "{page}");
        assert!(rows[1].contains("32.0 ns") && rows[1].contains("50.000 %"), "{page}");
        histogram(&mut page, "a rival", "handovers", &[]);
        assert!(!page.contains("a rival"), "of nothing there is none: {page}");
    }
}
