//! Arithmetic of one lane: the rules of the PTX ISA that Rust's own operators do not have.

/// The NaN that f32 instructions produce (PTX ISA, "Floating Point Comparisons" and the notes of each
/// instruction): positive with all fraction bits set.
pub(crate) const NAN_F32: u32 = 0x7fff_ffff;

#[inline(always)]
pub(crate) fn f(bits: u32) -> f32 {
    f32::from_bits(bits)
}

#[inline(always)]
pub(crate) fn d(bits: u64) -> f64 {
    f64::from_bits(bits)
}

/// Bits of a result, NaN made canonical.
#[inline(always)]
pub(crate) fn out(x: f32) -> u32 {
    if x.is_nan() { NAN_F32 } else { x.to_bits() }
}

/// Bits of a result of an `.ftz` instruction: subnormals become zeros of their sign.
#[inline(always)]
pub(crate) fn out_ftz(x: f32) -> u32 {
    if x.is_nan() {
        NAN_F32
    } else {
        ftz_bits(x.to_bits())
    }
}

#[inline(always)]
pub(crate) fn ftz_bits(bits: u32) -> u32 {
    if bits & 0x7f80_0000 == 0 {
        bits & 0x8000_0000
    } else {
        bits
    }
}

/// An operand of an `.ftz` instruction.
#[inline(always)]
pub(crate) fn ftz(bits: u32) -> f32 {
    f32::from_bits(ftz_bits(bits))
}

/// `.sat`: clamped to [0, 1], NaN to +0.
#[inline(always)]
pub(crate) fn saturate(x: f32) -> f32 {
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}

/// The smaller, a number before NaN, -0 before +0.
#[inline(always)]
pub(crate) fn min_f32(a: f32, b: f32) -> f32 {
    let smaller = if a < b { a } else { b };
    // Equal numbers differ at most in the sign of zero.
    let equal = f32::from_bits(a.to_bits() | b.to_bits());
    let smaller = if a == b { equal } else { smaller };
    let smaller = if b.is_nan() { a } else { smaller };
    if a.is_nan() { b } else { smaller }
}

/// The larger, a number before NaN, +0 before -0.
#[inline(always)]
pub(crate) fn max_f32(a: f32, b: f32) -> f32 {
    let larger = if a > b { a } else { b };
    let equal = f32::from_bits(a.to_bits() & b.to_bits());
    let larger = if a == b { equal } else { larger };
    let larger = if b.is_nan() { a } else { larger };
    if a.is_nan() { b } else { larger }
}

/// As [`min_f32`].
#[inline(always)]
pub(crate) fn min_f64(a: f64, b: f64) -> f64 {
    let smaller = if a < b { a } else { b };
    let equal = f64::from_bits(a.to_bits() | b.to_bits());
    let smaller = if a == b { equal } else { smaller };
    let smaller = if b.is_nan() { a } else { smaller };
    if a.is_nan() { b } else { smaller }
}

/// As [`max_f32`].
#[inline(always)]
pub(crate) fn max_f64(a: f64, b: f64) -> f64 {
    -min_f64(-a, -b)
}

/// 2^x in f64 with a relative error below 2^-45: rounded to f32 it is what a correctly rounded
/// function gives but for one argument in a million. Straight code, so that it vectorises.
#[inline(always)]
pub(crate) fn exp2(x: f32) -> f32 {
    const LN2: f64 = std::f64::consts::LN_2;
    let x = f64::from(x).clamp(-200.0, 200.0);
    // Adding and taking away 1.5 * 2^52 rounds to an integer.
    const ROUND: f64 = 6755399441055744.0;
    let shifted = x + ROUND;
    let n = shifted - ROUND;
    let r = (x - n) * LN2;
    let mut p = 1.0 / 479001600.0;
    for k in [
        39916800.0, 3628800.0, 362880.0, 40320.0, 5040.0, 720.0, 120.0, 24.0, 6.0, 2.0, 1.0,
    ] {
        p = p * r + 1.0 / k;
    }
    let fraction = p * r + 1.0;
    let scale = f64::from_bits((shifted.to_bits().wrapping_add(1023)) << 52);
    (fraction * scale) as f32
}

/// f32 to f16, to nearest even, in operations that vectorise.
#[inline(always)]
pub(crate) fn f16_bits(x: f32) -> u32 {
    let sign = x.to_bits() >> 16 & 0x8000;
    let magnitude = x.to_bits() & 0x7fff_ffff;
    // Rebias, and round at bit 13; a carry goes into the exponent, as far as infinity.
    let rounded = magnitude
        .wrapping_sub(0x3800_0000)
        .wrapping_add(0xfff + (magnitude >> 13 & 1))
        >> 13;
    // One half has the unit of f16's subnormals in its last place: adding it rounds there.
    let subnormal = (f32::from_bits(magnitude) + 0.5)
        .to_bits()
        .wrapping_sub(0x3f00_0000);
    let finite = if magnitude < 0x3880_0000 {
        subnormal
    } else {
        rounded
    };
    let number = sign
        | if magnitude >= 0x477f_f000 {
            0x7c00
        } else {
            finite
        };
    if magnitude > 0x7f80_0000 {
        0x7fff
    } else {
        number
    }
}

/// f32 to bf16, to nearest even, in operations that vectorise.
#[inline(always)]
pub(crate) fn bf16_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if x.is_nan() { 0x7fff } else { rounded }
}

/// p + c rounded to odd: rounding that to at most 51 bits is as rounding the exact sum once (Boldo and
/// Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
#[inline(always)]
pub(crate) fn sum_to_odd(p: f64, c: f64) -> f64 {
    let sum = p + c;
    let back = sum - p;
    let error = (p - (sum - back)) + (c - back);
    odd(sum, error)
}

/// A rounded number made odd when it is inexact; `error` is what was lost, or NaN for infinities.
#[inline(always)]
pub(crate) fn odd(rounded: f64, error: f64) -> f64 {
    let bits = rounded.to_bits();
    let inexact = error.abs() > 0.0;
    let towards = if (error > 0.0) == (rounded > 0.0) {
        1
    } else {
        u64::MAX
    };
    if inexact && bits & 1 == 0 {
        f64::from_bits(bits.wrapping_add(towards))
    } else {
        rounded
    }
}

/// f16 to f32 in operations that vectorise; exact.
#[inline(always)]
pub(crate) fn f32_of_f16(bits: u32) -> f32 {
    let magnitude = (bits & 0x7fff) << 13;
    // Rebiasing by a multiplication also normalises subnormals.
    let scaled = f32::from_bits(magnitude) * f32::from_bits(0x7780_0000);
    let special = if bits & 0x7c00 == 0x7c00 {
        0x7f80_0000
    } else {
        0
    };
    f32::from_bits(scaled.to_bits() | special | (bits & 0x8000) << 16)
}

/// bf16 to f32; exact.
#[inline(always)]
pub(crate) fn f32_of_bf16(bits: u32) -> f32 {
    f32::from_bits(bits << 16)
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};
    use proptest::prelude::*;

    use super::*;

    /// f32 of every kind, not only of every bit pattern.
    fn any_f32() -> impl Strategy<Value = f32> {
        prop_oneof![
            any::<u32>().prop_map(f32::from_bits),
            -4f32..4.0,
            Just(0.0),
            Just(-0.0)
        ]
    }

    proptest! {
        #[test]
        fn sums_to_odd_round_as_the_exact_sum(a in any_f32(), b in any_f32(), c in any_f32()) {
            let got = sum_to_odd(f64::from(a) * f64::from(b), c.into()) as f32;
            let want = a.mul_add(b, c);
            prop_assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                "{a:e} * {b:e} + {c:e}: {got:e}, {want:e}");
        }

        #[test]
        fn sums_to_odd_round_once_where_they_cancel(a: u32, b: u32, ulps in -4i32..4) {
            let (a, b) = (f32::from_bits(a & 0xff_ffff | 0x3f00_0000), f32::from_bits(b & 0xff_ffff | 0x3f00_0000));
            let c = -f32::from_bits(((a * b).to_bits() as i32 + ulps) as u32);
            let got = sum_to_odd(f64::from(a) * f64::from(b), c.into()) as f32;
            prop_assert_eq!(got.to_bits(), a.mul_add(b, c).to_bits());
        }

        #[test]
        fn narrowing_agrees_with_the_half_crate(x in any_f32()) {
            if !x.is_nan() {
                prop_assert_eq!(f16_bits(x), u32::from(f16::from_f32(x).to_bits()));
                prop_assert_eq!(bf16_bits(x), u32::from(bf16::from_f32(x).to_bits()));
            }
        }

        #[test]
        fn narrowing_agrees_in_the_range_of_f16(bits in 0x3300_0000u32..0x4780_2000, negative: bool) {
            let x = f32::from_bits(bits | u32::from(negative) << 31);
            prop_assert_eq!(f16_bits(x), u32::from(f16::from_f32(x).to_bits()));
        }

        #[test]
        fn exp2_is_within_an_ulp_of_the_library(x in -160f32..130.0) {
            let (got, want) = (exp2(x), f64::from(x).exp2() as f32);
            prop_assert!((got.to_bits() as i64 - want.to_bits() as i64).abs() <= 1, "{x}: {got:e}, {want:e}");
        }
    }

    #[test]
    fn exp2_of_integers_and_edges() {
        for n in -149..128 {
            assert_eq!(exp2(n as f32), (n as f64).exp2() as f32, "2^{n}");
        }
        assert_eq!(exp2(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp2(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp2(1e30), f32::INFINITY);
        assert!(exp2(f32::NAN).is_nan());
    }

    #[test]
    fn every_f16_converts_exactly() {
        for bits in 0..=u16::MAX {
            let want = f16::from_bits(bits).to_f32();
            let got = f32_of_f16(bits.into());
            assert!(
                got == want && got.is_sign_negative() == want.is_sign_negative()
                    || got.is_nan() && want.is_nan(),
                "{bits:#x}"
            );
        }
    }

    #[test]
    fn minimum_and_maximum_order_zeros_and_skip_nan() {
        assert!(min_f32(0.0, -0.0).is_sign_negative() && min_f32(-0.0, 0.0).is_sign_negative());
        assert!(max_f32(0.0, -0.0).is_sign_positive() && max_f32(-0.0, 0.0).is_sign_positive());
        assert_eq!((min_f32(f32::NAN, 1.0), max_f32(1.0, f32::NAN)), (1.0, 1.0));
        assert!(min_f32(f32::NAN, f32::NAN).is_nan());
    }
}
