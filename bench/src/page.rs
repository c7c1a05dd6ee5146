//! A comparison as a page for people: the table, a picture of the distribution, and what stands behind the figures.

use std::fmt::Write;

use crate::compare::Comparison;
use crate::figures::Spread;
use crate::report::Report;

/// Width of the longest bar.
const BAR: usize = 48;
/// Rows of the picture.
const ROWS: usize = 16;

/// The whole page.
pub fn render(comparison: &Comparison) -> String {
    let mut page = String::new();
    head(&mut page, comparison);
    table(&mut page, comparison);
    picture(&mut page, &comparison.figures[0].waits);
    foot(&mut page, comparison);
    page
}

fn head(page: &mut String, comparison: &Comparison) {
    let (workload, report) = (&comparison.workload, &comparison.reports[0]);
    let ranks = if report.threads { "threads" } else { "processes" };
    let nodes = match workload.placement.nodes {
        1 => String::new(),
        nodes => format!("{nodes} nodes by {} and ", report.fabric),
    };
    let _ = writeln!(
        page,
        "\nBarrier of {} {ranks} on {nodes}{} CPUs, {} arrivals",
        workload.placement.ranks, report.cpus, report.arrival
    );
    let _ = writeln!(page, "  algorithm  {} ({})", comparison.choice.algorithm, comparison.choice.reason);
    let _ = writeln!(page, "  waiting    {}", report.wait.as_deref().unwrap_or("-"));
    let _ = writeln!(page, "  machine    {}", machine());
    let cpus: Vec<String> = workload.placement.cpus.iter().map(ToString::to_string).collect();
    let _ = writeln!(page, "  ranks on   CPU {}", cpus.join(", "));
    if let Some(limit) = report.limit_ns {
        let what = match report.fabric.as_str() {
            "rdma" => "a word by raw RDMA writes",
            _ if workload.placement.nodes == 1 => "a cache line",
            _ => "32 bytes by raw sockets",
        };
        let _ = writeln!(page, "  limit      {} for {what} from CPU to CPU, one way, in the same rounds", ns(limit));
    }
    page.push('\n');
}

fn table(page: &mut String, comparison: &Comparison) {
    let width = comparison.systems.iter().map(|system| system.label.len()).max().unwrap_or(0).max(8);
    let _ = write!(page, "  {:width$}", "");
    for title in ["min", "mean", "p50", "p90", "p99", "p99.9", "max"] {
        let _ = write!(page, "{title:>10}");
    }
    let several = comparison.reports.len() > 1;
    page.push_str(if several { "   Phalanx takes\n" } else { "\n" });
    for (report, system) in comparison.reports.iter().zip(&comparison.systems) {
        let _ = write!(page, "  {:width$}", system.label);
        let figures =
            [report.min_ns, report.mean_ns, report.p50_ns, report.p90_ns, report.p99_ns, report.p999_ns, report.max_ns];
        for figure in figures {
            let _ = write!(page, "{:>10}", ns(figure));
        }
        if several && report.system != "phalanx" {
            let _ = write!(
                page,
                "   {} of it (p50), {} (mean)",
                ratio(report.phalanx_p50_ratio),
                ratio(report.phalanx_mean_ratio)
            );
        }
        page.push('\n');
    }
    for skipped in &comparison.skipped {
        let _ = writeln!(page, "  skipped: {skipped}");
    }
}

fn ratio(ratio: f64) -> String {
    if ratio < 0.1 { format!("{ratio:.3}") } else { format!("{ratio:.2}") }
}

/// Phalanx's waits, a row for each step of a factor, from the shortest to the 99.99th percentile.
fn picture(page: &mut String, waits: &Spread) {
    let rows = buckets(waits);
    let most = rows.iter().map(|row| row.2).max().unwrap_or(1).max(1);
    let _ =
        writeln!(page, "\n  waits of Phalanx (each row: up to the time on its left; the share of all on the right)");
    for (_, upper, count) in rows {
        let length = (count as f64 / most as f64 * BAR as f64 * 8.0).round();
        let share = count as f64 * 100.0 / waits.count as f64;
        let _ = writeln!(page, "  {:>9} │{:<BAR$} {share:>6.2} %", ns(upper), bar(length));
    }
}

/// Rows of equal factors: lower bound, upper bound, count. The last row takes all that is longer.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounds are positive nanoseconds")]
fn buckets(waits: &Spread) -> Vec<(f64, f64, u64)> {
    let low = waits.min.max(1.0);
    let high = (waits.histogram.value_at_quantile(0.9999) as f64).max(low * 2.0);
    let factor = (high / low).powf(1.0 / (ROWS - 1) as f64);
    let mut rows = vec![(0.0, low, waits.histogram.count_between(0, low as u64))];
    let mut lower = low;
    for row in 1..ROWS {
        let upper = if row == ROWS - 1 { waits.max.max(high) } else { lower * factor };
        let count = match (lower as u64 + 1, upper as u64) {
            (from, to) if from <= to => waits.histogram.count_between(from, to),
            _ => 0,
        };
        rows.push((lower, upper, count));
        lower = upper;
    }
    rows
}

/// A bar of `eighths` eighths of a character.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a length in characters")]
pub(crate) fn bar(eighths: f64) -> String {
    let eighths = eighths as usize;
    let rest = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
    format!("{}{rest}", "█".repeat(eighths / 8))
}

fn foot(page: &mut String, comparison: &Comparison) {
    let report = &comparison.reports[0];
    page.push('\n');
    if let (Some(limit), Some(ratio)) = (report.limit_ns, report.limit_ratio) {
        let _ = writeln!(page, "  p50 is {ratio:.2} × the limit of {} (median over rounds)", ns(limit));
    }
    let _ = writeln!(
        page,
        "  last entry to last exit: {} (p50). Clock read in each wait: {}. Iterations a rank: {}; rounds: {}. Figures are\n  medians over rounds, min and max over all: a max far above the rest is a rank that lost its CPU. Commit {}.\n",
        ns(report.span_p50_ns),
        ns(report.clock_overhead_ns),
        report.iterations,
        report.rounds,
        report.commit,
    );
}

/// A time with three figures and its unit.
pub fn ns(ns: f64) -> String {
    let (value, unit) = match ns {
        ns if ns < 1e3 => (ns, "ns"),
        ns if ns < 1e6 => (ns / 1e3, "µs"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    match value {
        value if value < 10.0 => format!("{value:.2} {unit}"),
        value if value < 100.0 => format!("{value:.1} {unit}"),
        value => format!("{value:.0} {unit}"),
    }
}

/// A count with three figures.
pub fn count(number: f64) -> String {
    let (value, unit) = match number {
        number if number < 1e3 => (number, ""),
        number if number < 1e6 => (number / 1e3, " k"),
        number => (number / 1e6, " M"),
    };
    match value {
        value if value < 10.0 => format!("{value:.2}{unit}"),
        value if value < 100.0 => format!("{value:.1}{unit}"),
        value => format!("{value:.0}{unit}"),
    }
}

/// The machine in a line.
pub fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim().to_owned()))
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, Linux {}", kernel.trim())
}

/// One line of JSON for each report.
///
/// # Panics
///
/// Never: a report has only numbers and texts.
pub fn json_lines(reports: &[Report]) -> String {
    reports.iter().map(|report| serde_json::to_string(report).expect("numbers and texts") + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_figures_and_a_unit() {
        assert_eq!(ns(5.0), "5.00 ns");
        assert_eq!(ns(43.21), "43.2 ns");
        assert_eq!(ns(999.4), "999 ns");
        assert_eq!(ns(12_345.0), "12.3 µs");
        assert_eq!(ns(2.5e9), "2.50 s");
    }

    #[test]
    fn the_picture_shows_every_wait_once() {
        let waits = Spread::of((1..5000).map(|wait| f64::from(wait * 7))).unwrap();
        let shown: u64 = buckets(&waits).iter().map(|row| row.2).sum();
        // Buckets of the histogram that straddle two rows may count in both.
        assert!(shown >= waits.count && shown < waits.count + waits.count / 50, "{shown} of {}", waits.count);
        assert_eq!(bar(12.0), "█▌");
    }
}
