//! Latency over nodes as a picture: a line for each radix, nodes on a logarithmic axis.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::study::RadixReport;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 90.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Told apart also by those who see fewer colours.
const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#7f7f7f"];

/// Where things stand in the picture.
struct Axes {
    least_nodes: f64,
    most_nodes: f64,
    most_us: f64,
}

impl Axes {
    fn x(&self, nodes: usize) -> f64 {
        let span = (self.most_nodes.log2() - self.least_nodes.log2()).max(1.0);
        LEFT + ((nodes as f64).log2() - self.least_nodes.log2()) / span * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, us: f64) -> f64 {
        HEIGHT - BOTTOM - us / self.most_us * (HEIGHT - TOP - BOTTOM)
    }
}

/// The picture of [`over_nodes`](super::study::over_nodes).
pub fn picture(sizes: &[Vec<RadixReport>]) -> String {
    let all = || sizes.iter().flatten();
    let axes = Axes {
        least_nodes: all().map(|report| report.nodes).min().unwrap_or(1) as f64,
        most_nodes: all().map(|report| report.nodes).max().unwrap_or(1) as f64,
        most_us: round_up(all().map(|report| report.latency_ns_mean / 1000.0).fold(0.001, f64::max)),
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    if let Some(report) = all().last() {
        let _ = writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"22\" font-size=\"14\">Simulated barrier, {} ranks a node: latency {} ns, overhead \
             {} ns, jitter {}</text>",
            report.ranks_per_node, report.network_latency_ns, report.overhead_ns, report.jitter
        );
    }
    scales(&mut svg, &axes, sizes);
    let mut lines: BTreeMap<usize, Vec<(usize, f64)>> = BTreeMap::new();
    for report in all() {
        lines.entry(report.radix).or_default().push((report.nodes, report.latency_ns_mean / 1000.0));
    }
    for (number, (radix, points)) in lines.iter().enumerate() {
        line(&mut svg, &axes, COLOURS[number % COLOURS.len()], number, *radix, points);
    }
    svg.push_str("</svg>\n");
    svg
}

fn scales(svg: &mut String, axes: &Axes, sizes: &[Vec<RadixReport>]) {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    for step in 0..=5 {
        let us = axes.most_us * f64::from(step) / 5.0;
        let y = axes.y(us);
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#dddddd\"/><text x=\"{}\" y=\"{:.1}\" \
             text-anchor=\"end\">{us:.1}</text>",
            LEFT - 8.0,
            y + 4.0
        );
    }
    for report in sizes.iter().filter_map(|reports| reports.first()) {
        let x = axes.x(report.nodes);
        let _ = writeln!(
            svg,
            "<path d=\"M{x:.1} {bottom}v5\" stroke=\"#000000\"/><text x=\"{x:.1}\" y=\"{}\" \
             text-anchor=\"middle\">{}</text>",
            bottom + 18.0,
            report.nodes
        );
    }
    let _ = writeln!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">nodes</text>", WIDTH / 2.0, HEIGHT - 12.0);
    let _ = writeln!(svg, "<text x=\"12\" y=\"{}\">µs</text>", TOP - 4.0);
}

fn line(svg: &mut String, axes: &Axes, colour: &str, number: usize, radix: usize, points: &[(usize, f64)]) {
    let place = |(nodes, us): &(usize, f64)| format!("{:.1},{:.1}", axes.x(*nodes), axes.y(*us));
    let places: Vec<String> = points.iter().map(place).collect();
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
        places.join(" ")
    );
    for (nodes, us) in points {
        let (x, y) = (axes.x(*nodes), axes.y(*us));
        let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
    }
    let y = TOP + 10.0 + number as f64 * 18.0;
    let _ = writeln!(svg, "<text x=\"{}\" y=\"{y}\" fill=\"{colour}\">radix {radix}</text>", WIDTH - RIGHT + 14.0);
}

/// To a round number: 1, 2 or 5 and noughts.
fn round_up(number: f64) -> f64 {
    let unit = 10f64.powf(number.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * unit).find(|round| *round >= number).unwrap_or(number)
}
