//! The plate of the heat example: what is hot and what is cold, how one thread sweeps it, and how it is drawn.

use std::error::Error;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

/// What a solver gives back.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    pub field: Vec<f64>,
    pub sweeps: usize,
    /// The last sweep's largest change.
    pub change: f64,
}

/// Solves the equation by one thread in its own memory: what every job must give, bit for bit.
pub fn solve_serial(size: usize, sweeps: usize, tolerance: f64) -> Solution {
    let is_held: Vec<bool> = (0..size).flat_map(|row| held_row(size, row)).collect();
    let mut field = initial_field(size);
    let mut swept = field.clone();
    let mut change = f64::INFINITY;
    for sweep in 1..=sweeps {
        change = 0.0;
        for at in (0..field.len()).filter(|at| !is_held[*at]) {
            swept[at] = mean(field[at - size], field[at + size], field[at - 1], field[at + 1]);
            change = larger(change, (swept[at] - field[at]).abs());
        }
        std::mem::swap(&mut field, &mut swept);
        if change <= tolerance {
            return Solution { field, sweeps: sweep, change };
        }
    }
    Solution { field, sweeps, change }
}

/// A cell after a sweep. The order of the sum is part of it: all solvers must round alike.
pub fn mean(up: f64, down: f64, left: f64, right: f64) -> f64 {
    0.25 * ((up + down) + (left + right))
}

/// As `f64::max` of numbers, which takes several times as long because it looks for NaN.
pub fn larger(a: f64, b: f64) -> f64 {
    if b > a { b } else { a }
}

/// The plate before the first sweep.
pub fn initial_field(size: usize) -> Vec<f64> {
    let cell = |at| held_temperature(size, at / size, at % size).unwrap_or(0.12);
    (0..size * size).map(cell).collect()
}

/// Which cells of a row keep their temperature.
pub fn held_row(size: usize, row: usize) -> impl Iterator<Item = bool> {
    (0..size).map(move |column| held_temperature(size, row, column).is_some())
}

/// Discs of constant temperature: centre, radius (the plate's side is 1), temperature from 0 to 1.
const DISCS: [(f64, f64, f64, f64); 6] = [
    (0.30, 0.34, 0.050, 1.00),
    (0.70, 0.27, 0.030, 0.85),
    (0.57, 0.50, 0.065, 0.00),
    (0.22, 0.70, 0.035, 0.00),
    (0.44, 0.74, 0.030, 0.92),
    (0.80, 0.66, 0.060, 0.72),
];

/// The temperature of a cell that keeps it: in a disc, on the edges (a flame along the lower one).
fn held_temperature(size: usize, row: usize, column: usize) -> Option<f64> {
    let (x, y) = (column as f64 / (size - 1) as f64, row as f64 / (size - 1) as f64);
    let is_edge = row == 0 || column == 0 || row == size - 1 || column == size - 1;
    if is_edge {
        let flame = (std::f64::consts::PI * x).sin() * (0.8 + 0.2 * (8.0 * std::f64::consts::PI * x).cos());
        return Some(if row == size - 1 { flame } else { 0.0 });
    }
    let disc = DISCS.iter().find(|(centre_x, centre_y, radius, _)| (x - centre_x).hypot(y - centre_y) <= *radius);
    disc.map(|(.., temperature)| *temperature)
}

/// Colours of temperatures 0, 1/8, … 1: from black over violet and orange to pale yellow.
const STOPS: [[u8; 3]; 9] = [
    [0, 0, 4],
    [31, 12, 72],
    [85, 15, 109],
    [136, 34, 106],
    [186, 54, 85],
    [227, 89, 51],
    [249, 140, 10],
    [249, 201, 50],
    [252, 255, 164],
];

/// Isotherms between temperatures 0 and 1.
const ISOTHERMS: f64 = 12.0;

fn colour(temperature: f64, is_on_isotherm: bool) -> [u8; 3] {
    let at = temperature.clamp(0.0, 1.0) * (STOPS.len() - 1) as f64;
    let stop = (0..STOPS.len() - 1).rev().find(|stop| *stop as f64 <= at).unwrap_or(0);
    let mix = |channel: usize| {
        let (low, high) = (f64::from(STOPS[stop][channel]), f64::from(STOPS[stop + 1][channel]));
        let shade = low + (high - low) * (at - stop as f64);
        if is_on_isotherm { shade + 0.22 * (255.0 - shade) } else { shade }
    };
    #[allow(clippy::cast_possible_truncation, reason = "a mix of bytes fits a byte, and `as` saturates")]
    [0, 1, 2].map(|channel| mix(channel).round() as u8)
}

/// Whether an isotherm passes between this cell and the one to its right or below it.
fn is_on_isotherm(field: &[f64], size: usize, at: usize) -> bool {
    let level = |at: usize| (field[at] * ISOTHERMS).floor();
    let is_last = at % size == size - 1 || at / size == size - 1;
    !is_last && (level(at) != level(at + 1) || level(at) != level(at + size))
}

/// Draws the field with its isotherms, a pixel for each cell.
pub fn write_png(path: &Path, size: usize, field: &[f64]) -> Result<(), Box<dyn Error + Send + Sync>> {
    let side = u32::try_from(size)?;
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(path)?), side, side);
    encoder.set_color(png::ColorType::Rgb);
    let pixels: Vec<u8> = (0..field.len()).flat_map(|at| colour(field[at], is_on_isotherm(field, size, at))).collect();
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pixels)?;
    Ok(writer.finish()?)
}
