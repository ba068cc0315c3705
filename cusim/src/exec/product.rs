//! Products of matrices as tensor cores compute them, after the model of Xie et al., "MMA-Sim: Bit-Accurate
//! Reference Model of Tensor Cores and Matrix Cores", arXiv 2511.10909, 2025.
//!
//! A block of products and the accumulator are summed at once: each is exact, is shifted to the largest
//! exponent of all and cut there to F bits behind the point, the sum is exact, and its magnitude is cut to the 24
//! bits of an f32 (or rounded to nearest for an f16). Ampere and Ada have F = 24 and blocks of 8 products (4 of
//! tf32), Hopper F = 25 and blocks of 16 (8 of tf32). Where k is larger than a block, the result of one is the
//! accumulator of the next.
//!
//! Subnormal numbers are not normalised before they are aligned: they have the smallest exponent of their format.
//! Where the result is f16, the accumulator between blocks is too. NaN is 0x7fffffff, in f16 0x7fff, and comes of
//! infinities of both signs and of their products with zero, as anywhere; sums too large for f32 are infinite although
//! they are cut.
//!
//! The authors' own program leaves open what exponent a term of zero has (in different versions of it -126 and far
//! below any other, which matters only to sums below 2^-126) and what sign a sum of zero has. Here zeros have no
//! exponent, a sum of zero is +0, and what is cut to zero keeps its sign.

use super::MmaMode;
use super::warp::Warp;
use crate::program::lanes::{NAN_F32, f16_bits, f32_of_bf16, f32_of_f16};
use crate::program::op::{Element, Lanes, Mma};
use crate::program::rounding::{Format, Rounding};
use crate::program::simd::{Loops, vectorized};

/// Rows of a and d, columns of b and d.
const ROWS: usize = 16;
const COLUMNS: usize = 8;
/// The largest k of floating-point forms.
const LONGEST: usize = 16;

/// The operands of an instruction by row and column; all elements are exact in f32.
pub(super) struct Operands {
    pub(super) a: [[f32; LONGEST]; ROWS],
    /// By column.
    pub(super) b: [[f32; LONGEST]; COLUMNS],
    pub(super) c: [[f32; COLUMNS]; ROWS],
    pub(super) k: usize,
}

impl Operands {
    /// The fragments of a floating-point form, put together (PTX ISA, "Matrix Fragments for mma.m16n8k16").
    pub(super) fn of(warp: &Warp, mma: &Mma) -> Self {
        let (packed, decode): (usize, fn(u32) -> f32) = match mma.element {
            Element::F16 => (2, f32_of_f16),
            Element::Bf16 => (2, f32_of_bf16),
            _ => (1, |bits| f32::from_bits(bits & !0x1fff)),
        };
        let element = |bits: u32, at: usize| match packed {
            1 => decode(bits),
            _ => decode(bits >> (16 * at) & 0xffff),
        };
        let mut operands = Self {
            a: [[0.0; LONGEST]; ROWS],
            b: [[0.0; LONGEST]; COLUMNS],
            c: [[0.0; COLUMNS]; ROWS],
            k: mma.b.len() * 4 * packed,
        };
        for lane in 0..32 {
            let (group, member) = (lane / 4, lane % 4);
            for at in 0..packed {
                for (reg, &slot) in mma.a.iter().enumerate() {
                    let k = (reg / 2 * 4 + member) * packed + at;
                    operands.a[group + reg % 2 * 8][k] = element(warp.w[slot as usize][lane], at);
                }
                for (reg, &slot) in mma.b.iter().enumerate() {
                    let k = (reg * 4 + member) * packed + at;
                    operands.b[group][k] = element(warp.w[slot as usize][lane], at);
                }
            }
            for_accumulators(mma.half[1], lane, |reg, shift, row, column| {
                let bits = warp.w[mma.c[reg] as usize][lane];
                operands.c[row][column] = if mma.half[1] {
                    f32_of_f16(bits >> shift & 0xffff)
                } else {
                    f32::from_bits(bits)
                };
            });
        }
        operands
    }
}

/// Calls `each` with register, bit, row and column of each element of c or d that a lane has.
#[inline(always)]
pub(super) fn for_accumulators(
    half: bool,
    lane: usize,
    mut each: impl FnMut(usize, u32, usize, usize),
) {
    for at in 0..4 {
        let (lower, odd) = (at / 2, at % 2);
        let (reg, shift) = if half {
            (lower, 16 * odd as u32)
        } else {
            (at, 0)
        };
        each(reg, shift, lane / 4 + 8 * lower, lane % 4 * 2 + odd);
    }
}

/// d = a b + c.
pub(super) fn multiply(warp: &Warp, mma: &Mma, mode: MmaMode) -> [Lanes; 4] {
    vectorized(Multiply {
        operands: Operands::of(warp, mma),
        mma,
        mode,
    })
}

struct Multiply<'a> {
    operands: Operands,
    mma: &'a Mma,
    mode: MmaMode,
}

impl Loops for Multiply<'_> {
    type Output = [Lanes; 4];

    #[inline(always)]
    fn call(self) -> [Lanes; 4] {
        let (block, fraction_bits) = match self.mode {
            MmaMode::Hopper => (16, 25),
            MmaMode::Fast | MmaMode::Ampere => (8, 24),
        };
        let block = if self.mma.element == Element::Tf32 {
            block / 2
        } else {
            block
        };
        match block.min(self.operands.k) {
            16 => self.run::<16>(fraction_bits),
            8 => self.run::<8>(fraction_bits),
            _ => self.run::<4>(fraction_bits),
        }
    }
}

impl Multiply<'_> {
    /// In blocks of `B` products.
    #[inline(always)]
    fn run<const B: usize>(self, fraction_bits: i32) -> [Lanes; 4] {
        let Self { operands, mma, .. } = self;
        let smallest = |half: bool| if half { F16_SMALLEST } else { F32_SMALLEST };
        let of_operands = smallest(mma.element == Element::F16);
        let of_sums = smallest(mma.half[0] && mma.half[1]);
        let mut b = [Vector::ZERO; COLUMNS];
        for (b, column) in b.iter_mut().zip(operands.b) {
            *b = Vector::of(column, of_operands);
        }
        let mut sums = operands.c;
        for (sums, row) in sums.iter_mut().zip(operands.a) {
            let a = Vector::of(row, of_operands);
            for (sum, b) in sums.iter_mut().zip(&b) {
                for start in (0..operands.k).step_by(B) {
                    let (a, b) = (a.block::<B>(start), b.block::<B>(start));
                    let total = add(fraction_bits, a, b, (*sum, of_sums));
                    *sum = if mma.half[0] {
                        total.to_f16()
                    } else {
                        total.to_f32()
                    };
                }
            }
        }
        let mut result = [[0; 32]; 4];
        (0..32).for_each(|lane| {
            for_accumulators(mma.half[0], lane, |reg, shift, row, column| {
                let sum = sums[row][column];
                let bits = if mma.half[0] {
                    f16_bits(sum)
                } else {
                    sum.to_bits()
                };
                result[reg][lane] |= bits << shift;
            });
        });
        result
    }
}

/// A row of a or a column of b, taken apart.
#[derive(Clone, Copy)]
struct Vector {
    values: [f32; LONGEST],
    /// With 10 bits behind the point, which is as many as any format has.
    significands: [i32; LONGEST],
    exponents: [i32; LONGEST],
}

/// So many elements of a [`Vector`].
struct Block<'a, const B: usize> {
    values: &'a [f32; B],
    significands: &'a [i32; B],
    exponents: &'a [i32; B],
}

impl Vector {
    const ZERO: Self = Self {
        values: [0.0; LONGEST],
        significands: [0; LONGEST],
        exponents: [0; LONGEST],
    };

    #[inline(always)]
    fn of(values: [f32; LONGEST], smallest: i32) -> Self {
        let mut vector = Self {
            values,
            ..Self::ZERO
        };
        for (at, &value) in values.iter().enumerate() {
            let (significand, exponent) = parts(value, smallest);
            // The last 13 bits are zeros.
            vector.significands[at] = significand >> 13;
            vector.exponents[at] = exponent;
        }
        vector
    }

    #[inline(always)]
    fn block<const B: usize>(&self, start: usize) -> Block<'_, B> {
        let chunk = start / B;
        Block {
            values: &self.values.as_chunks().0[chunk],
            significands: &self.significands.as_chunks().0[chunk],
            exponents: &self.exponents.as_chunks().0[chunk],
        }
    }
}

/// A sum before it is rounded.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Total {
    /// This integer times a power of two.
    Finite(i64, i32),
    Infinite(bool),
    Nan,
}

/// Exponents of subnormal numbers by format; bf16 and tf32 have those of f32.
const F16_SMALLEST: i32 = -14;
const F32_SMALLEST: i32 = -126;

/// A finite number as an integer with 23 bits behind the point, and its exponent: that of its leading bit, or
/// the smallest of its format, whose subnormal numbers are not normalised.
#[inline(always)]
fn parts(value: f32, smallest: i32) -> (i32, i32) {
    let bits = value.to_bits();
    let exponent = (bits >> 23 & 0xff) as i32;
    let fraction = (bits & 0x7f_ffff) as i32;
    let magnitude = if exponent == 0 {
        fraction
    } else {
        fraction | 1 << 23
    };
    let exponent = exponent.max(1) - 127;
    // A subnormal number of a shorter format has zeros where it is shifted out, if it is not zero itself.
    let magnitude = magnitude >> (smallest - exponent).clamp(0, 31);
    let signed = if value.is_sign_negative() {
        -magnitude
    } else {
        magnitude
    };
    (signed, exponent.max(smallest))
}

/// Less than the exponent of any term by more than a sum is wide: what has it is cut to nothing.
const NO_EXPONENT: i32 = -1000;

/// The sum of a block of the products of a and b and of c, which comes with the smallest exponent of its format.
#[inline(always)]
fn add<const B: usize>(
    fraction_bits: i32,
    a: Block<'_, B>,
    b: Block<'_, B>,
    (c, smallest): (f32, i32),
) -> Total {
    let mut products = [0; B];
    let mut exponents = [NO_EXPONENT; B];
    let mut largest = NO_EXPONENT;
    for at in 0..B {
        products[at] = a.significands[at] * b.significands[at];
        if products[at] != 0 {
            exponents[at] = a.exponents[at] + b.exponents[at];
        }
        largest = largest.max(exponents[at]);
    }
    // Infinities and NaN have an exponent of 128; the product with a small number or zero hides it.
    let is_finite = a.exponents.iter().chain(b.exponents).all(|&e| e < 128);
    if !(is_finite && c.is_finite())
        && let Some(special) = special(a.values, b.values, c)
    {
        return special;
    }
    let (c, exponent) = parts(c, smallest);
    if c != 0 {
        largest = largest.max(exponent);
    }
    if largest == NO_EXPONENT {
        return Total::Finite(0, 0);
    }
    // Of magnitudes, so that both signs are cut towards zero. Shifted up they have at most 27 bits, of 32.
    let cut = |significand: i32, digits: i32, exponent: i32| {
        let magnitude = significand.unsigned_abs() << (fraction_bits - digits);
        let magnitude = (magnitude >> (largest - exponent).min(31)) as i32;
        let sign = significand >> 31;
        i64::from((magnitude ^ sign) - sign)
    };
    let mut sum = cut(c, 23, exponent.min(largest));
    for at in 0..B {
        sum += cut(products[at], 20, exponents[at]);
    }
    Total::Finite(sum, largest - fraction_bits)
}

/// What NaN and infinities lead to.
fn special(a: &[f32], b: &[f32], c: f32) -> Option<Total> {
    let (mut positive, mut negative) = (false, false);
    // No product of two f32 is too large for an f64.
    let products = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b));
    for value in products.chain([c.into()]) {
        if value.is_nan() {
            return Some(Total::Nan);
        }
        positive |= value == f64::INFINITY;
        negative |= value == f64::NEG_INFINITY;
    }
    match (positive, negative) {
        (false, false) => None,
        (true, true) => Some(Total::Nan),
        _ => Some(Total::Infinite(negative)),
    }
}

impl Total {
    /// Cut towards zero; what is too large is an infinity.
    #[inline(always)]
    fn to_f32(self) -> f32 {
        let (sum, exponent) = match self {
            Self::Nan => return f32::from_bits(NAN_F32),
            Self::Infinite(negative) => return infinity(negative),
            Self::Finite(0, _) => return 0.0,
            Self::Finite(sum, exponent) => (sum, exponent),
        };
        let magnitude = sum.unsigned_abs();
        let bits = 64 - magnitude.leading_zeros() as i32;
        // The unit of the last place: of 24 bits, and never below that of subnormals.
        let unit = (bits - 24 + exponent).max(-149);
        let kept = match unit - exponent {
            64.. => 0,
            shift @ 0.. => magnitude >> shift,
            shift => magnitude << -shift,
        };
        let value = kept as f64 * power(unit);
        let value = if value > f64::from(f32::MAX) {
            f32::INFINITY
        } else {
            value as f32
        };
        if sum < 0 { -value } else { value }
    }

    /// Rounded to nearest even.
    fn to_f16(self) -> f32 {
        match self {
            Self::Nan => f32::from_bits(NAN_F32),
            Self::Infinite(negative) => infinity(negative),
            // An integer of fewer than 53 bits.
            Self::Finite(sum, exponent) => {
                let value = sum as f64 * power(exponent);
                f32_of_f16(Format::F16.encode(value, Rounding::Nearest) as u32)
            }
        }
    }
}

/// 2 to the power of an exponent in the range of f64.
fn power(exponent: i32) -> f64 {
    f64::from_bits(((1023 + exponent) as u64) << 52)
}

fn infinity(negative: bool) -> f32 {
    if negative {
        f32::NEG_INFINITY
    } else {
        f32::INFINITY
    }
}

#[cfg(test)]
mod tests;
