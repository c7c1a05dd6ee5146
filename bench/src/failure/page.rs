//! Times of detection as a page for people, or as JSON.

use std::fmt::Write;

use super::Report;
use crate::page::{machine, ns};

/// The whole page.
pub fn render(reports: &[Report]) -> String {
    let mut page = format!("\n  machine    {}\n", machine());
    let tables = [
        ("error", "From a fault until every survivor has its error"),
        ("lock", "From the death of a lock's holder until the next one has it"),
    ];
    for (until, title) in tables {
        let of_table: Vec<&Report> = reports.iter().filter(|report| report.until == until).collect();
        if !of_table.is_empty() {
            let _ = writeln!(page, "\n{title}\n");
            table(&mut page, &of_table);
        }
    }
    page.push('\n');
    page
}

fn table(page: &mut String, reports: &[&Report]) {
    let _ = write!(page, "  {:<18}{:<20}{:>8}", "fault", "job", "faults");
    for column in ["min", "p50", "p90", "p99", "max"] {
        let _ = write!(page, "{column:>10}");
    }
    page.push('\n');
    for report in reports {
        let job = match report.nodes {
            1 => format!("{} ranks, 1 node", report.ranks),
            nodes => format!("{} ranks, {nodes} nodes", report.ranks),
        };
        let _ = write!(page, "  {:<18}{job:<20}", report.kind);
        if let Some(why) = &report.not_run {
            let _ = writeln!(page, "  not run: {why}");
            continue;
        }
        let _ = write!(page, "{:>8}", report.faults);
        for figure in [report.min_ns, report.p50_ns, report.p90_ns, report.p99_ns, report.max_ns] {
            let _ = write!(page, "{:>10}", figure.map_or("-".to_owned(), |figure| ns(figure as f64)));
        }
        page.push('\n');
    }
}

/// One JSON object a line for each kind.
pub fn json_lines(reports: &[Report]) -> String {
    let line = |report| serde_json::to_string(report).expect("plain values") + "\n";
    reports.iter().map(line).collect()
}
