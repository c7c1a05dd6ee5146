//! Random numbers that a seed repeats, everywhere and for ever.
//!
//! Only integer arithmetic and the operations that IEEE 754 defines to the last bit, so that a run is the same on every
//! machine.

/// A small seeded generator (xorshift64*), so that a schedule is the same on every platform and with every version of
/// every dependency.
#[derive(Clone, Debug)]
pub struct Seeded(u64);

impl Seeded {
    /// A generator for a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, which is not 0.
    #[allow(clippy::cast_possible_truncation, reason = "below a bound that is a usize")]
    pub fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound as u64) as usize
    }

    /// Whether something happens whose chance is this many in a million.
    pub fn happens(&mut self, per_million: u32) -> bool {
        per_million > 0 && self.below(1_000_000) < per_million as usize
    }

    /// A number above 0 and at most 1.
    #[allow(clippy::cast_precision_loss, reason = "53 bits are left, which a double holds")]
    pub fn fraction(&mut self) -> f64 {
        ((self.number() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// Exponentially distributed, with a mean of 1.
    pub fn exponential(&mut self) -> f64 {
        -logarithm(self.fraction())
    }
}

/// The natural logarithm of a number above 0 and at most 1, to nine digits: `m · 2^e`, and the series of `artanh` for
/// `m`.
fn logarithm(number: f64) -> f64 {
    let (mut mantissa, mut exponent) = (number, 0.0);
    while mantissa < 0.75 {
        mantissa *= 2.0;
        exponent -= 1.0;
    }
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let series = [13.0, 11.0, 9.0, 7.0, 5.0, 3.0].iter().fold(1.0 / 15.0, |sum, odd| sum * square + 1.0 / odd);
    2.0 * s * (series * square + 1.0) + exponent * std::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_one() {
        let mut random = Seeded::new(1);
        for _ in 0..10_000 {
            let number = random.fraction();
            assert!((logarithm(number) - number.ln()).abs() < 1e-9, "ln {number}");
        }
        assert!(logarithm(1.0).abs() < 1e-12);
    }

    #[test]
    fn exponential_numbers_have_their_mean() {
        let mut random = Seeded::new(2);
        let mean = (0..100_000).map(|_| random.exponential()).sum::<f64>() / 100_000.0;
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
    }
}
