//! The operations' figures as a page for people, or as JSON.

use std::fmt::Write;

use phalanx::fabric::FabricKind;

use super::{Measured, Report, WINDOWS};
use crate::page::{count, machine, ns};

/// The whole page: latencies of one operation at a time, then rates by window.
pub fn render(measured: &Measured) -> String {
    let mut page = String::new();
    head(&mut page, measured);
    latencies(&mut page, measured);
    rates(&mut page, measured);
    if let Some(why) = &measured.skipped {
        let _ = writeln!(page, "\n  skipped: {why}");
    }
    page.push('\n');
    page
}

fn head(page: &mut String, measured: &Measured) {
    let _ = writeln!(page, "\nOperations on another node's words by {}", measured.fabric);
    let _ = writeln!(page, "  machine    {}", machine());
    let cpus: Vec<String> = measured.cpus.iter().map(ToString::to_string).collect();
    let _ = writeln!(page, "  nodes on   CPU {}", cpus.join(", "));
    if let Some(limit) = measured.reports.first().and_then(|report| report.limit_ns) {
        let what = match measured.fabric {
            FabricKind::Rdma => "a word there and back by raw RDMA writes",
            _ => "32 bytes there and back by raw sockets",
        };
        let _ = writeln!(page, "  limit      {} for {what}, in the same rounds", ns(limit));
    }
}

/// How a row is called.
fn title(report: &Report) -> String {
    let of = report.peer.map_or(report.system.to_owned(), |peer| format!("peer {peer}"));
    format!("{:<13} {of:<15}", report.operation)
}

fn latencies(page: &mut String, measured: &Measured) {
    let _ = write!(page, "\n  {:<29}", "latency, 1 outstanding");
    for column in ["min", "mean", "p50", "p90", "p99", "p99.9", "max", "to limit"] {
        let _ = write!(page, "{column:>10}");
    }
    page.push('\n');
    for report in measured.reports.iter().filter(|report| report.outstanding == 1) {
        let _ = write!(page, "  {}", title(report));
        let figures = [
            Some(report.min_ns),
            Some(report.mean_ns),
            Some(report.p50_ns),
            report.p90_ns,
            Some(report.p99_ns),
            Some(report.p999_ns),
            Some(report.max_ns),
        ];
        for figure in figures {
            let _ = write!(page, "{:>10}", figure.map_or("-".to_owned(), ns));
        }
        let _ = writeln!(page, "{:>10}", report.limit_ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2} ×")));
    }
}

fn rates(page: &mut String, measured: &Measured) {
    let _ = write!(page, "\n  {:<29}", "operations a second");
    for outstanding in WINDOWS {
        let _ = write!(page, "{outstanding:>10}");
    }
    page.push_str("   outstanding");
    for report in &measured.reports {
        let Some(rate) = report.rate_per_s else { continue };
        if report.outstanding == 1 {
            let _ = write!(page, "\n  {}", title(report));
        }
        let _ = write!(page, "{:>10}", count(rate));
    }
    page.push('\n');
}

/// One line of JSON for each result.
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
    fn counts_have_three_figures_and_a_unit() {
        assert_eq!(count(12.34), "12.3");
        assert_eq!(count(123_456.0), "123 k");
        assert_eq!(count(4_567_890.0), "4.57 M");
    }
}
