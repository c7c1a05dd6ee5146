//! What a simulation found, as a page for people: a line for each radix, and how the best one grows with the nodes.

use std::fmt::Write;

use super::Scenario;
use super::study::RadixReport;
use crate::page::ns;

/// Width of the longest bar.
const BAR: usize = 40;

/// The table of radixes.
pub fn radixes(scenario: &Scenario, reports: &[RadixReport]) -> String {
    let mut page = String::new();
    let costs = &scenario.costs;
    let _ = writeln!(
        page,
        "\nBarrier of {} nodes × {} ranks, simulated; seed {}",
        scenario.nodes, scenario.ranks_per_node, scenario.seed
    );
    let _ = writeln!(
        page,
        "  messages  latency {}, overhead {}, gap {}, jitter {}; arrivals' skew {}",
        ns(costs.latency_ns as f64),
        ns(costs.overhead_ns as f64),
        ns(costs.gap_ns as f64),
        super::distribution(costs.jitter),
        super::distribution(scenario.skew)
    );
    let _ = writeln!(
        page,
        "  times     from the last arrival to a rank's exit, over all ranks and {} barriers\n",
        scenario.barriers
    );
    let _ = writeln!(page, "  radix  rounds  messages  memory/node       mean        p50        max    formula");
    for report in reports {
        let _ = writeln!(
            page,
            "  {:>5}  {:>6}  {:>8.1}  {:>11}  {:>9}  {:>9}  {:>9}  {:>9}{}",
            report.radix,
            report.rounds,
            report.messages_per_node,
            bytes(report.bytes_per_node),
            ns(report.latency_ns_mean),
            ns(report.latency_ns_p50 as f64),
            ns(report.latency_ns_max as f64),
            ns(report.model_ns),
            if report.is_best { "  best" } else { "" }
        );
    }
    page
}

/// How the best radix's latency grows with the nodes.
pub fn growth(sizes: &[Vec<RadixReport>]) -> String {
    let best: Vec<&RadixReport> = sizes.iter().filter_map(|reports| best(reports)).collect();
    let most = best.iter().map(|report| report.latency_ns_mean).fold(1.0, f64::max);
    let mut page = String::from("\n    nodes  radix       mean\n");
    for report in best {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a length in characters")]
        let length = (report.latency_ns_mean / most * BAR as f64).round() as usize;
        let _ = writeln!(
            page,
            "  {:>7}  {:>5}  {:>9}  {}",
            report.nodes,
            report.radix,
            ns(report.latency_ns_mean),
            "█".repeat(length)
        );
    }
    page
}

/// The best of a size.
pub fn best(reports: &[RadixReport]) -> Option<&RadixReport> {
    reports.iter().find(|report| report.is_best)
}

fn bytes(bytes: usize) -> String {
    match bytes {
        bytes if bytes < 10_240 => format!("{bytes} B"),
        bytes => format!("{:.1} KiB", bytes as f64 / 1024.0),
    }
}

/// One line of JSON for each radix.
///
/// # Panics
///
/// Never: a report has only numbers and texts.
pub fn json_lines(reports: &[RadixReport]) -> String {
    reports.iter().map(|report| serde_json::to_string(report).expect("numbers and texts") + "\n").collect()
}
