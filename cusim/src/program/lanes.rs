//! Arithmetic of one lane: the rules of the PTX ISA that Rust's own operators do not have.

use half::{bf16, f16};

/// The NaN that f32 instructions produce (PTX ISA, "Floating Point Comparisons" and the notes of each
/// instruction): positive with all fraction bits set.
pub(crate) const NAN_F32: u32 = 0x7fff_ffff;

pub(crate) fn f(bits: u32) -> f32 {
    f32::from_bits(bits)
}

pub(crate) fn d(bits: u64) -> f64 {
    f64::from_bits(bits)
}

/// Bits of a result, NaN made canonical.
#[inline]
pub(crate) fn out(x: f32) -> u32 {
    if x.is_nan() { NAN_F32 } else { x.to_bits() }
}

/// Bits of a result of an `.ftz` instruction: subnormals become zeros of their sign.
#[inline]
pub(crate) fn out_ftz(x: f32) -> u32 {
    if x.is_nan() {
        NAN_F32
    } else {
        ftz_bits(x.to_bits())
    }
}

#[inline]
pub(crate) fn ftz_bits(bits: u32) -> u32 {
    if bits & 0x7f80_0000 == 0 {
        bits & 0x8000_0000
    } else {
        bits
    }
}

/// An operand of an `.ftz` instruction.
#[inline]
pub(crate) fn ftz(bits: u32) -> f32 {
    f32::from_bits(ftz_bits(bits))
}

/// `.sat`: clamped to [0, 1], NaN to +0.
#[inline]
pub(crate) fn saturate(x: f32) -> f32 {
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}

/// a * b + c rounded once, in operations that vectorise. The product of two f32 is exact in f64; the
/// sum is rounded to odd there, which has room enough that rounding again to f32 is as rounding once
/// (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
#[inline]
pub(crate) fn fma(a: f32, b: f32, c: f32) -> f32 {
    let (p, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = p + c;
    let back = sum - p;
    let error = (p - (sum - back)) + (c - back);
    let bits = sum.to_bits();
    // NaN errors (from infinities) compare false twice and change nothing.
    let inexact = error > 0.0 || error < 0.0;
    let towards = if (error > 0.0) == (sum > 0.0) {
        1
    } else {
        u64::MAX
    };
    let odd = if inexact && bits & 1 == 0 {
        bits.wrapping_add(towards)
    } else {
        bits
    };
    f64::from_bits(odd) as f32
}

/// The smaller, a number before NaN, -0 before +0.
#[inline]
pub(crate) fn min_f32(a: f32, b: f32) -> f32 {
    if a.is_nan() {
        b
    } else if b.is_nan() || a < b || (a == b && a.is_sign_negative()) {
        a
    } else {
        b
    }
}

/// The larger, a number before NaN, +0 before -0.
#[inline]
pub(crate) fn max_f32(a: f32, b: f32) -> f32 {
    if a.is_nan() {
        b
    } else if b.is_nan() || a > b || (a == b && a.is_sign_positive()) {
        a
    } else {
        b
    }
}

/// 2^x in f64 with a relative error below 2^-45: rounded to f32 it is what a correctly rounded
/// function gives but for one argument in a million. Straight code, so that it vectorises.
#[inline]
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

/// f32 to f16, to nearest even.
#[inline]
pub(crate) fn f16_bits(x: f32) -> u32 {
    if x.is_nan() {
        0x7fff
    } else {
        f16::from_f32(x).to_bits().into()
    }
}

/// f32 to bf16, to nearest even.
#[inline]
pub(crate) fn bf16_bits(x: f32) -> u32 {
    if x.is_nan() {
        0x7fff
    } else {
        bf16::from_f32(x).to_bits().into()
    }
}

/// f16 to f32 in operations that vectorise; exact.
#[inline]
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
#[inline]
pub(crate) fn f32_of_bf16(bits: u32) -> f32 {
    f32::from_bits(bits << 16)
}

#[cfg(test)]
mod tests {
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
        fn fma_rounds_once(a in any_f32(), b in any_f32(), c in any_f32()) {
            let (got, want) = (fma(a, b, c), a.mul_add(b, c));
            prop_assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                "{a:e} * {b:e} + {c:e}: {got:e}, {want:e}");
        }

        #[test]
        fn fma_rounds_once_where_it_cancels(a: u32, b: u32, ulps in -4i32..4) {
            let (a, b) = (f32::from_bits(a & 0xff_ffff | 0x3f00_0000), f32::from_bits(b & 0xff_ffff | 0x3f00_0000));
            let c = -f32::from_bits(((a * b).to_bits() as i32 + ulps) as u32);
            prop_assert_eq!(fma(a, b, c).to_bits(), a.mul_add(b, c).to_bits());
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
