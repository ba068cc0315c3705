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

use std::ops::Range;

use super::MmaMode;
use super::warp::Warp;
use crate::program::lanes::{NAN_F32, f16_bits, f32_of_bf16, f32_of_f16};
use crate::program::op::{Element, Lanes, Mma};
use crate::program::rounding::{Format, Rounding};

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
    let operands = Operands::of(warp, mma);
    let model = Model::of(mode, mma.element);
    let smallest = |half: bool| if half { F16_SMALLEST } else { F32_SMALLEST };
    let of_operands = smallest(mma.element == Element::F16);
    let of_sums = smallest(mma.half[0] && mma.half[1]);
    let vector = |elements: &[f32]| Vector::of(&elements[..operands.k], of_operands);
    let a = operands.a.map(|row| vector(&row));
    let b = operands.b.map(|column| vector(&column));
    let mut result = [[0; 32]; 4];
    (0..32).for_each(|lane| {
        for_accumulators(mma.half[0], lane, |reg, shift, row, column| {
            let mut sum = operands.c[row][column];
            for start in (0..operands.k).step_by(model.block) {
                let block = start..(start + model.block).min(operands.k);
                let total = model.sum(&a[row], &b[column], block, (sum, of_sums));
                sum = if mma.half[0] {
                    total.to_f16()
                } else {
                    total.to_f32()
                };
            }
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

/// A row of a or a column of b, taken apart.
struct Vector {
    values: [f32; LONGEST],
    parts: [(i64, i32); LONGEST],
    is_finite: bool,
}

impl Vector {
    fn of(elements: &[f32], smallest: i32) -> Self {
        let mut values = [0.0; LONGEST];
        values[..elements.len()].copy_from_slice(elements);
        Self {
            values,
            parts: values.map(|value| parts(value, smallest)),
            is_finite: values.iter().all(|value| value.is_finite()),
        }
    }
}

/// How many products are summed at once, and how exactly.
#[derive(Debug, Clone, Copy)]
struct Model {
    block: usize,
    fraction_bits: i32,
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
fn parts(value: f32, smallest: i32) -> (i64, i32) {
    let bits = value.to_bits();
    let exponent = (bits >> 23 & 0xff) as i32;
    let fraction = i64::from(bits & 0x7f_ffff);
    let magnitude = if exponent == 0 {
        fraction
    } else {
        fraction | 1 << 23
    };
    let exponent = exponent.max(1) - 127;
    // A subnormal number of a shorter format has zeros where it is shifted out, if it is not zero itself.
    let magnitude = magnitude >> (smallest - exponent).clamp(0, 63);
    let signed = if value.is_sign_negative() {
        -magnitude
    } else {
        magnitude
    };
    (signed, exponent.max(smallest))
}

impl Model {
    fn of(mode: MmaMode, element: Element) -> Self {
        let (block, fraction_bits) = match mode {
            MmaMode::Hopper => (16, 25),
            MmaMode::Fast | MmaMode::Ampere => (8, 24),
        };
        let block = if element == Element::Tf32 {
            block / 2
        } else {
            block
        };
        Self {
            block,
            fraction_bits,
        }
    }

    /// The sum of a block of the products of a and b and of c, which comes with the smallest exponent of its
    /// format.
    fn sum(self, a: &Vector, b: &Vector, block: Range<usize>, (c, smallest): (f32, i32)) -> Total {
        if !(a.is_finite && b.is_finite && c.is_finite())
            && let Some(special) = special(&a.values[block.clone()], &b.values[block.clone()], c)
        {
            return special;
        }
        // Significands have 23 bits behind the point, products 46.
        let mut products = [(0, i32::MIN); LONGEST];
        let pairs = a.parts[block.clone()].iter().zip(&b.parts[block]);
        for (product, ((a, a_exponent), (b, b_exponent))) in products.iter_mut().zip(pairs) {
            *product = (a * b, a_exponent + b_exponent);
        }
        let (c, exponent) = parts(c, smallest);
        let mut largest = if c == 0 { i32::MIN } else { exponent };
        for &(product, exponent) in &products {
            if product != 0 {
                largest = largest.max(exponent);
            }
        }
        if largest == i32::MIN {
            return Total::Finite(0, 0);
        }
        // Division cuts towards zero.
        let cut = |significand: i64, shift: i32| match shift {
            0.. => significand << shift,
            -62.. => significand / (1 << -shift),
            _ => 0,
        };
        let mut sum = cut(c, self.fraction_bits - 23 + exponent - largest);
        for (product, exponent) in products {
            if product != 0 {
                sum += cut(product, self.fraction_bits - 46 + exponent - largest);
            }
        }
        Total::Finite(sum, largest - self.fraction_bits)
    }
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
        let value = kept as f64 * (f64::from(unit)).exp2();
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
                let value = sum as f64 * f64::from(exponent).exp2();
                f32_of_f16(Format::F16.encode(value, Rounding::Nearest) as u32)
            }
        }
    }
}

fn infinity(negative: bool) -> f32 {
    if negative {
        f32::NEG_INFINITY
    } else {
        f32::INFINITY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AMPERE: Model = Model {
        block: 8,
        fraction_bits: 24,
    };
    const HOPPER: Model = Model {
        block: 16,
        fraction_bits: 25,
    };

    #[test]
    fn small_terms_are_cut_at_the_largest() {
        let two = |exponent: i32| (f64::from(exponent)).exp2() as f32;
        // 2^-24 is the last bit of Ampere behind 1, 2^-25 of Hopper.
        let one_and = |model: Model, small: i32| {
            let (a, b) = ([1.0, two(small / 2)], [1.0, two(small - small / 2)]);
            sum(model, &a, &b, 0.0)
        };
        assert_eq!(one_and(AMPERE, -24), Total::Finite((1 << 24) + 1, -24));
        assert_eq!(one_and(AMPERE, -25), Total::Finite(1 << 24, -24));
        assert_eq!(one_and(HOPPER, -25), Total::Finite((1 << 25) + 1, -25));
        assert_eq!(one_and(HOPPER, -26), Total::Finite(1 << 25, -25));
        // Many of them add up before they are cut to f32, unlike in sums that round each time.
        let a = [1.0, two(-12), two(-12), two(-12), two(-12)];
        assert_eq!(sum(AMPERE, &a, &a, 0.0).to_f32(), 1.0 + 4.0 * two(-24));
        // Towards zero, for both signs.
        let down = [1.0, two(-12), 0.0];
        assert_eq!(sum(AMPERE, &down, &down, 0.0).to_f32(), 1.0);
        assert_eq!(
            sum(AMPERE, &down, &[-1.0, -two(-12), 0.0], 0.0).to_f32(),
            -1.0
        );
    }

    #[test]
    fn special_values_are_those_of_the_hardware() {
        let inf = f32::INFINITY;
        assert_eq!(sum(AMPERE, &[inf], &[0.0], 1.0), Total::Nan);
        assert_eq!(sum(AMPERE, &[inf], &[1.0], -inf), Total::Nan);
        assert_eq!(sum(AMPERE, &[inf], &[-1.0], 1.0), Total::Infinite(true));
        assert_eq!(
            sum(AMPERE, &[f32::NAN], &[1.0], 1.0).to_f32().to_bits(),
            NAN_F32
        );
        let zero = sum(AMPERE, &[-1.0, 1.0], &[1.0, 1.0], -0.0).to_f32();
        assert_eq!(zero.to_bits(), 0);
        let huge = sum(AMPERE, &[f32::MAX, f32::MAX], &[1.0, 1.0], 0.0);
        assert_eq!(huge.to_f32(), inf);
        let tiny = f32::from_bits(3);
        assert_eq!(
            sum(AMPERE, &[0.0], &[1.0], tiny).to_f32(),
            tiny,
            "subnormals stay"
        );
    }

    fn sum(model: Model, a: &[f32], b: &[f32], c: f32) -> Total {
        let vector = |elements| Vector::of(elements, F32_SMALLEST);
        model.sum(&vector(a), &vector(b), 0..a.len(), (c, F32_SMALLEST))
    }
}
