//! RoPE frequencies as fixed-point fractions of a turn.
//!
//! The kernel multiplies the fraction by the position modulo 2^64, so an error in the fraction is
//! multiplied by the position too. At position 2^31 an f64 frequency of 1 radian, good to 2^-53, would
//! give an angle good to 2^-22 only, less than f32 can hold; hence double-double arithmetic here. What
//! remains is the rounding to 2^-64 of a turn: 4e-10 radians at position 2^31.

use super::MAX_PAIRS;

/// Turns per position of every pair, 0.64 fixed point rounded to nearest:
/// `scale * base^(-p / rotary_pairs) / 2π mod 1`.
pub(crate) fn turns(base: f64, scale: f64, rotary_pairs: usize) -> [u64; MAX_PAIRS] {
    let ratio = inverse_root(base, rotary_pairs);
    let mut frequency = TURNS_PER_RADIAN.times(scale);
    let mut turns = [0; MAX_PAIRS];
    for turn in turns.iter_mut().take(rotary_pairs) {
        *turn = frequency.fraction();
        frequency = frequency.mul(ratio);
    }
    turns
}

/// `1 / 2π`.
const TURNS_PER_RADIAN: DoubleDouble = DoubleDouble {
    hi: 0.159_154_943_091_895_35,
    lo: -9.839_338_337_591_243e-18,
};

/// `base^(-1/n)`, by one step of Newton's method from the f64 value.
fn inverse_root(base: f64, n: usize) -> DoubleDouble {
    let start = base.powf(-1.0 / n as f64);
    // With r = start * (1 + d), base * r^n is 1 where n * d = 1 - base * start^n, but for d^2.
    let residual = DoubleDouble::from(start).pow(n).times(base).plus(-1.0);
    let correction = -residual.hi / n as f64;
    DoubleDouble::sum(start, start * correction)
}

/// The unevaluated sum of two f64 that do not overlap: about 106 significant bits. T. J. Dekker, "A
/// floating-point technique for extending the available precision" (Numer. Math. 18, 1971).
#[derive(Debug, Clone, Copy)]
struct DoubleDouble {
    hi: f64,
    lo: f64,
}

impl From<f64> for DoubleDouble {
    fn from(hi: f64) -> Self {
        Self { hi, lo: 0.0 }
    }
}

impl DoubleDouble {
    /// `a + b`, exactly.
    fn sum(a: f64, b: f64) -> Self {
        let hi = a + b;
        let of_b = hi - a;
        let lo = (a - (hi - of_b)) + (b - of_b);
        Self { hi, lo }
    }

    /// `a * b`, exactly unless it over- or underflows. Fused multiply-add would be shorter, but is a
    /// slow library call on processors that are not known to have it.
    fn product(a: f64, b: f64) -> Self {
        let split = |x: f64| {
            let scaled = x * 134_217_729.0; // 2^27 + 1
            let hi = scaled - (scaled - x);
            (hi, x - hi)
        };
        let hi = a * b;
        let ((a_hi, a_lo), (b_hi, b_lo)) = (split(a), split(b));
        let lo = ((a_hi * b_hi - hi) + a_hi * b_lo + a_lo * b_hi) + a_lo * b_lo;
        Self { hi, lo }
    }

    fn plus(self, x: f64) -> Self {
        let sum = Self::sum(self.hi, x);
        Self::sum(sum.hi, sum.lo + self.lo)
    }

    fn times(self, x: f64) -> Self {
        let product = Self::product(self.hi, x);
        Self::sum(product.hi, product.lo + self.lo * x)
    }

    fn mul(self, other: Self) -> Self {
        let product = Self::product(self.hi, other.hi);
        let cross = self.hi * other.lo + self.lo * other.hi;
        Self::sum(product.hi, product.lo + cross)
    }

    fn pow(self, exponent: usize) -> Self {
        let bits = (0..usize::BITS - exponent.leading_zeros()).rev();
        bits.fold(Self::from(1.0), |power, bit| {
            let square = power.mul(power);
            if exponent >> bit & 1 == 1 {
                square.mul(self)
            } else {
                square
            }
        })
    }

    /// The fractional part, 0.64 fixed point rounded to nearest.
    fn fraction(self) -> u64 {
        // The remainder and multiplying by 2^64 are exact; so are whole and rest of each part.
        let scaled = |x: f64| x % 1.0 * 2f64.powi(64);
        let (hi, lo) = (scaled(self.hi), scaled(self.lo));
        let rest = hi.fract() + lo.fract();
        let whole = hi as i128 + lo as i128 + rest.round() as i128;
        whole as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with 120 decimal digits.
    #[test]
    fn turns_are_rounded_correctly() {
        type Case = (f64, f64, usize, &'static [(usize, u64)]);
        let cases: [Case; 6] = [
            (
                10_000.0,
                1.0,
                64,
                &[
                    (0, 0x28be_60db_9391_054a),
                    (1, 0x2348_55e5_5644_662f),
                    (32, 0x0068_4dc4_c179_c52c),
                    (63, 0x0001_3458_e2f5_9024),
                ],
            ),
            (
                500_000.0,
                1.0,
                64,
                &[
                    (1, 0x2130_c415_f351_4ea0),
                    (32, 0x000e_c033_4892_a2e2),
                    (63, 0x0000_068e_3fbd_e7a8),
                ],
            ),
            (
                1_000_000.0,
                0.125,
                128,
                &[
                    (0, 0x0517_cc1b_7272_20a9),
                    (1, 0x0492_66ed_0254_1734),
                    (64, 0x0001_4dc5_a8d1_85aa),
                    (127, 0x0000_005f_2f29_c486),
                ],
            ),
            (10_000.0, 1.0, 1, &[(0, 0x28be_60db_9391_054a)]),
            (
                0.5,
                3.0,
                4,
                &[
                    (0, 0x7a3b_2292_bab3_0fdf),
                    (1, 0x915b_a3f3_da55_5598),
                    (2, 0xacdc_58fa_7664_c6bf),
                    (3, 0xcd91_34e2_f1e0_9361),
                ],
            ),
            (
                10_000.0,
                -1.0,
                32,
                &[
                    (0, 0xd741_9f24_6c6e_fab6),
                    (1, 0xe172_51d6_24fd_4478),
                    (31, 0xfffe_9bed_1b00_51b4),
                ],
            ),
        ];
        for (base, scale, pairs, expected) in cases {
            let turns = turns(base, scale, pairs);
            for &(p, want) in expected {
                assert_eq!(
                    turns[p], want,
                    "base {base}, scale {scale}, pair {p} of {pairs}"
                );
            }
            assert!(turns[pairs..].iter().all(|&turn| turn == 0));
        }
    }

    /// The angle modulo a turn, against references computed with 120 decimal digits.
    #[test]
    fn angles_are_exact_to_f32_at_any_position() {
        // (position, pair, fraction of a turn) for base 10,000 and 64 pairs.
        let expected: [(u64, usize, u64); 16] = [
            (1_000, 0, 0x27aa_59b8_6e7c_ab00),
            (1_000, 1, 0xd28f_87d8_fb2f_2683),
            (1_000, 17, 0xc841_8d95_b2b7_ea40),
            (1_000, 63, 0x04b4_7b36_8f3b_0d41),
            (131_071, 0, 0x98f8_c646_7703_f8c9),
            (131_071, 1, 0x8882_56a3_7619_0bc3),
            (131_071, 17, 0x740d_08a9_f235_b460),
            (131_071, 63, 0x68b0_9192_3d52_c249),
            (1_000_000, 0, 0xf16e_786f_96fb_f8f4),
            (1_000_000, 1, 0x80aa_a795_302e_6df2),
            (1_000_000, 17, 0x4011_10c2_1e6b_0aff),
            (1_000_000, 63, 0x6101_4d1f_7eab_c5e0),
            (2_147_483_647, 0, 0xa10a_21c9_abf3_e5b0),
            (2_147_483_647, 1, 0x87d9_dd32_0638_0095),
            (2_147_483_647, 17, 0x0d95_c951_cd6c_000f),
            (2_147_483_647, 63, 0x7179_93b9_31a5_cfdc),
        ];
        let turns = turns(10_000.0, 1.0, 64);
        for (position, pair, want) in expected {
            let fraction = turns[pair].wrapping_mul(position);
            let error = fraction.wrapping_sub(want).cast_signed().unsigned_abs();
            // Half a unit of 2^-64 per position; f32 rounds an angle of an eighth of a turn to 2^-28.
            assert!(
                error <= position / 2 + 1,
                "position {position}, pair {pair}: off by {error} * 2^-64"
            );
        }
    }

    #[test]
    fn absurd_frequencies_do_not_panic() {
        for base in [f64::MIN_POSITIVE, 1e-300, 1e300, f64::MAX] {
            for scale in [f64::MIN, 0.0, f64::MAX] {
                turns(base, scale, MAX_PAIRS);
            }
        }
    }
}
