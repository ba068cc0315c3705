//! Element types of tensors.

use std::fmt;

use cudarc::driver::{DeviceRepr, ValidAsZeroBits};
use float8::{F8E4M3, F8E5M2};
use half::{bf16, f16};

/// The type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE 754 binary16.
    F16,
    /// bfloat16: the upper half of a binary32.
    BF16,
    /// IEEE 754 binary32.
    F32,
    /// FP8 E4M3: finite up to 448, NaN, no infinity ([arXiv 2209.05433](https://arxiv.org/abs/2209.05433)).
    F8E4M3,
    /// FP8 E5M2: finite up to 57344, infinities, NaN (the same source).
    F8E5M2,
    /// Integers from -128 to 127.
    I8,
}

impl DType {
    /// Every element type.
    pub const ALL: [DType; 6] = [
        DType::F16,
        DType::BF16,
        DType::F32,
        DType::F8E4M3,
        DType::F8E5M2,
        DType::I8,
    ];

    /// The types of [`Float`].
    pub const FLOATS: [DType; 3] = [DType::F16, DType::BF16, DType::F32];

    /// The types of [`Quantized`].
    pub const QUANTIZED: [DType; 3] = [DType::F8E4M3, DType::F8E5M2, DType::I8];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F16 | DType::BF16 => 2,
            DType::F32 => 4,
            DType::F8E4M3 | DType::F8E5M2 | DType::I8 => 1,
        }
    }

    /// The name used in kernel symbols: `f16`, `bf16`, `f32`, `e4m3`, `e5m2`, `i8`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::F32 => "f32",
            DType::F8E4M3 => "e4m3",
            DType::F8E5M2 => "e5m2",
            DType::I8 => "i8",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
    impl Sealed for f32 {}
    impl Sealed for float8::F8E4M3 {}
    impl Sealed for float8::F8E5M2 {}
    impl Sealed for i8 {}
}

/// A Rust type that tensors can hold: a [`Float`] or a [`Quantized`] one. Sealed: the kernels exist for these types
/// only.
pub trait Element:
    sealed::Sealed
    + DeviceRepr
    + ValidAsZeroBits
    + Copy
    + PartialEq
    + fmt::Debug
    + Send
    + Sync
    + 'static
{
    /// The run-time name of the type.
    const DTYPE: DType;

    /// Rounds to nearest, ties to even. [`Quantized`] types saturate at their largest finite values.
    fn from_f64(value: f64) -> Self;

    /// Exact.
    fn to_f64(self) -> f64;
}

/// Rounds to odd: what is no f32 becomes the one of its two neighbours whose last bit is set. Nothing else than a tie of a
/// 16-bit type becomes one, so that rounding the result to such a type is rounding `value` to it. (The conversions of
/// `half` from f64 ignore its low 32 bits, which may be all that tells a value from a tie.)
fn to_odd_f32(value: f64) -> f32 {
    let nearest = value as f32;
    if value.is_nan() || f64::from(nearest) == value {
        return nearest;
    }
    let is_past = f64::from(nearest).abs() > value.abs();
    f32::from_bits((nearest.to_bits() - u32::from(is_past)) | 1)
}

impl Element for f16 {
    const DTYPE: DType = DType::F16;

    fn from_f64(value: f64) -> Self {
        f16::from_f32(to_odd_f32(value))
    }

    fn to_f64(self) -> f64 {
        f16::to_f64(self)
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::BF16;

    fn from_f64(value: f64) -> Self {
        bf16::from_f32(to_odd_f32(value))
    }

    fn to_f64(self) -> f64 {
        bf16::to_f64(self)
    }
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;

    fn from_f64(value: f64) -> Self {
        value as f32
    }

    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Element for F8E4M3 {
    const DTYPE: DType = DType::F8E4M3;

    fn from_f64(value: f64) -> Self {
        F8E4M3::from_f64(value)
    }

    fn to_f64(self) -> f64 {
        F8E4M3::to_f64(&self)
    }
}

impl Element for F8E5M2 {
    const DTYPE: DType = DType::F8E5M2;

    fn from_f64(value: f64) -> Self {
        F8E5M2::from_f64(value)
    }

    fn to_f64(self) -> f64 {
        F8E5M2::to_f64(&self)
    }
}

/// NaN becomes 0.
impl Element for i8 {
    const DTYPE: DType = DType::I8;

    fn from_f64(value: f64) -> Self {
        value.round_ties_even() as i8
    }

    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}

/// A type that kernels compute with: [`half::f16`], [`half::bf16`] or [`f32`].
pub trait Float: Element {}

impl Float for f16 {}
impl Float for bf16 {}
impl Float for f32 {}

/// A type of one byte that values are stored in with a scale: [`float8::F8E4M3`], [`float8::F8E5M2`] or [`i8`].
pub trait Quantized: Element {
    /// The largest finite value.
    const MAX: f32;
}

impl Quantized for F8E4M3 {
    const MAX: f32 = 448.0;
}

impl Quantized for F8E5M2 {
    const MAX: f32 = 57344.0;
}

impl Quantized for i8 {
    const MAX: f32 = 127.0;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every finite value, and what lies between two of them.
    fn rounds_to_nearest<T: Quantized>(all: impl Iterator<Item = T>) {
        let mut values: Vec<f64> = all.map(T::to_f64).filter(|x| x.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        assert_eq!(values.last(), Some(&f64::from(T::MAX)));
        for pair in values.windows(2) {
            let (low, high) = (pair[0], pair[1]);
            assert_eq!(T::from_f64(low).to_f64(), low);
            let middle = (low + high) / 2.0;
            let above = T::from_f64(middle + (high - low) / 1024.0).to_f64();
            let below = T::from_f64(middle - (high - low) / 1024.0).to_f64();
            assert_eq!((below, above), (low, high));
        }
        for past in [f64::from(T::MAX) * 1.5, 1e300, f64::INFINITY] {
            assert_eq!(T::from_f64(past).to_f64(), f64::from(T::MAX), "{past}");
            assert_eq!(T::from_f64(-past).to_f64(), values[0], "-{past}");
        }
    }

    #[test]
    fn quantised_types_round_to_nearest_and_saturate() {
        rounds_to_nearest((0..=u8::MAX).map(F8E4M3::from_bits));
        rounds_to_nearest((0..=u8::MAX).map(F8E5M2::from_bits));
        rounds_to_nearest(i8::MIN..=i8::MAX);
    }

    #[test]
    fn ties_go_to_the_even_value() {
        // Steps of 1 from 8 to 16 in E4M3, of 2 from 8 to 16 in E5M2.
        assert_eq!(F8E4M3::from_f64(8.5).to_f64(), 8.0);
        assert_eq!(F8E4M3::from_f64(9.5).to_f64(), 10.0);
        assert_eq!(F8E5M2::from_f64(9.0).to_f64(), 8.0);
        assert_eq!(F8E5M2::from_f64(11.0).to_f64(), 12.0);
        assert_eq!(<i8 as Element>::from_f64(2.5), 2);
        assert_eq!(<i8 as Element>::from_f64(3.5), 4);
    }

    /// Ties between neighbours of one sign, and what is a last bit of f64 beside them. `count` values from 0 up, by their bits.
    fn rounds_beside_ties<T: Float>(count: u16, of_bits: fn(u16) -> T) {
        let rounded = |x: f64| T::from_f64(x).to_f64();
        for bits in 0..count - 1 {
            let (low, high) = (of_bits(bits).to_f64(), of_bits(bits + 1).to_f64());
            let tie = (low + high) / 2.0;
            let even = if bits % 2 == 0 { low } else { high };
            for sign in [1.0, -1.0] {
                assert_eq!(rounded(sign * low), sign * low);
                assert_eq!(rounded(sign * tie), sign * even);
                assert_eq!(rounded(sign * tie.next_up()), sign * high);
                assert_eq!(rounded(sign * tie.next_down()), sign * low);
            }
        }
        let max = of_bits(count - 1).to_f64();
        let past = max + (max - of_bits(count - 2).to_f64()) / 2.0;
        for sign in [1.0, -1.0] {
            assert_eq!(rounded(sign * past.next_down()), sign * max);
            for infinite in [past, 1e300, f64::INFINITY] {
                assert_eq!(rounded(sign * infinite), sign * f64::INFINITY);
            }
            for tiny in [0.0, f64::from_bits(1), 1e-300] {
                assert_eq!(rounded(sign * tiny).to_bits(), (sign * 0.0).to_bits());
            }
        }
        assert!(rounded(f64::NAN).is_nan());
    }

    #[test]
    fn sixteen_bits_are_rounded_once() {
        rounds_beside_ties(f16::INFINITY.to_bits(), f16::from_bits);
        rounds_beside_ties(bf16::INFINITY.to_bits(), bf16::from_bits);
    }

    #[test]
    fn nan_has_no_integer() {
        assert!(F8E4M3::from_f64(f64::NAN).to_f64().is_nan());
        assert!(F8E5M2::from_f64(f64::NAN).to_f64().is_nan());
        assert_eq!(<i8 as Element>::from_f64(f64::NAN), 0);
    }
}
