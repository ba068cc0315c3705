//! RoPE frequencies as fixed-point fractions of a turn.
//!
//! The kernel multiplies the fraction by the position modulo 2^64, so an error in the fraction is
//! multiplied by the position too. At position 2^31 an f64 frequency of 1 radian, good to 2^-53, would
//! give an angle good to 2^-22 only, less than f32 can hold; hence double-double arithmetic here. What
//! remains is the rounding to 2^-64 of a turn: 4e-10 radians at position 2^31.

use super::MAX_PAIRS;
use super::double::DoubleDouble;
use super::frequencies::InvFreq;

/// Turns per position of every pair, 0.64 fixed point rounded to nearest: `radians / 2π mod 1`.
pub(crate) fn turns(frequencies: &InvFreq) -> [u64; MAX_PAIRS] {
    let mut turns = [0; MAX_PAIRS];
    for (turn, &radians) in turns.iter_mut().zip(frequencies.exact()) {
        *turn = radians.mul(TURNS_PER_RADIAN).fraction();
    }
    turns
}

/// `1 / 2π`.
pub(crate) const TURNS_PER_RADIAN: DoubleDouble = DoubleDouble {
    hi: 0.159_154_943_091_895_35,
    lo: -9.839_338_337_591_243e-18,
};

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
            let turns = turns(&InvFreq::powers(base, scale, pairs));
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
        let turns = turns(&InvFreq::powers(10_000.0, 1.0, 64));
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
                turns(&InvFreq::powers(base, scale, MAX_PAIRS));
            }
        }
    }
}
