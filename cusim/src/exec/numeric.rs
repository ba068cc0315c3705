//! Approximate instructions moved within their bounds, and the check for numbers that are no longer finite.

use super::arithmetic;
use super::cta::Env;
use super::product::{Operands, for_accumulators};
use super::warp::{Warp, lanes_of};
use crate::fault::{Fault, FaultKind};
use crate::program::lanes::{f32_of_bf16, f32_of_f16};
use crate::program::op::{Approximate, Bound, Decoded, FloatOperand, FloatType, Mma, Numeric, Reg};

type Outcome<T> = Result<T, Box<Fault>>;

impl FloatType {
    /// Numbers in a register.
    fn count(self) -> usize {
        match self {
            Self::F16x2 | Self::Bf16x2 => 2,
            _ => 1,
        }
    }

    /// One of the numbers in a register.
    fn read(self, bits: u64, at: usize) -> f64 {
        let half = (bits >> (16 * at)) as u32 & 0xffff;
        match self {
            Self::F16 | Self::F16x2 => f32_of_f16(half).into(),
            Self::Bf16 | Self::Bf16x2 => f32_of_bf16(half).into(),
            Self::F32 => f32::from_bits(bits as u32).into(),
            Self::F64 => f64::from_bits(bits),
        }
    }

    /// Puts a number in the place of one in a register, rounded to nearest.
    fn write(self, bits: u64, at: usize, value: f64) -> u64 {
        let half = match self {
            Self::F16 | Self::F16x2 => half::f16::from_f64(value).to_bits(),
            Self::Bf16 | Self::Bf16x2 => half::bf16::from_f64(value).to_bits(),
            Self::F32 => return (value as f32).to_bits().into(),
            Self::F64 => return value.to_bits(),
        };
        bits & !(0xffff << (16 * at)) | u64::from(half) << (16 * at)
    }

    /// The distance of a normal number to the next.
    fn ulp(self, value: f64) -> f64 {
        let (bits, smallest) = match self {
            Self::F16 | Self::F16x2 => (10, -14),
            Self::Bf16 | Self::Bf16x2 => (7, -126),
            Self::F32 => (23, -126),
            Self::F64 => (52, -1022),
        };
        let exponent = (value.abs().log2().floor() as i32).max(smallest);
        f64::from(exponent - bits).exp2()
    }

    /// Whether the number is normal: subnormal results may be flushed, which is not for the perturbation to
    /// decide.
    fn is_normal(self, value: f64) -> bool {
        let smallest: f64 = match self {
            Self::F16 | Self::F16x2 => -14.0,
            Self::Bf16 | Self::Bf16x2 | Self::F32 => -126.0,
            Self::F64 => -1022.0,
        };
        value.is_finite() && value.abs() >= smallest.exp2()
    }
}

fn bits(warp: &Warp, operand: FloatOperand) -> [u64; 32] {
    match operand.reg {
        Reg::W(slot) => warp.w[slot as usize].map(u64::from),
        Reg::D(slot) => warp.d[slot as usize],
    }
}

/// Executes a floating-point instruction under the perturbation and the check, as far as they are on.
pub(super) fn execute(
    warp: &mut Warp,
    env: &Env<'_>,
    decoded: &Decoded,
    numeric: &Numeric,
    pc: usize,
    mask: u32,
) -> Outcome<()> {
    let sources: Vec<[u64; 32]> = numeric
        .sources
        .iter()
        .map(|&source| bits(warp, source))
        .collect();
    arithmetic::execute(warp, &decoded.op, mask);
    let options = env.config.options;
    if let (true, Some(approximate)) = (options.perturb, &numeric.approximate) {
        perturb(warp, numeric, approximate, &sources, options.seed, mask);
    }
    if !options.checks.arithmetic {
        return Ok(());
    }
    let results = bits(warp, numeric.dest);
    let born = lanes_of(mask).find_map(|lane| {
        let at = (0..numeric.dest.ty.count()).find(|&at| {
            // The numbers of a pair are apart, unless the operands are not pairs.
            let finite = |(operand, bits): (&FloatOperand, &[u64; 32])| {
                let ty = operand.ty;
                let own = if ty.count() == 2 { at..at + 1 } else { 0..1 };
                own.into_iter()
                    .all(|at| ty.read(bits[lane], at).is_finite())
            };
            let result = numeric.dest.ty.read(results[lane], at);
            !result.is_finite() && numeric.sources.iter().zip(&sources).all(finite)
        })?;
        Some((lane, at))
    });
    let Some((lane, at)) = born else {
        return Ok(());
    };
    let result = numeric.dest.ty.read(results[lane], at);
    let inputs = numeric.sources.iter().zip(&sources).map(|(operand, bits)| {
        let at = at.min(operand.ty.count() - 1);
        format!("{:e}", operand.ty.read(bits[lane], at))
    });
    let inputs: Vec<String> = inputs.collect();
    Err(born_fault(
        env,
        warp,
        pc,
        1 << lane,
        result,
        &inputs.join(", "),
    ))
}

#[cold]
fn born_fault(
    env: &Env<'_>,
    warp: &Warp,
    pc: usize,
    lanes: u32,
    result: f64,
    inputs: &str,
) -> Box<Fault> {
    let what = if result.is_nan() {
        "a NaN is born from finite numbers"
    } else {
        "an infinity is born from finite numbers"
    };
    let mut fault = env.fault(FaultKind::Arithmetic, what, warp.index, pc, lanes);
    if inputs.is_empty() {
        fault.notes.push(format!("the result is {result}"));
    } else {
        fault
            .notes
            .push(format!("the result of {inputs} is {result}"));
    }
    fault
}

/// Replaces results by others within the bound, always the same for the same operands and seed.
fn perturb(
    warp: &mut Warp,
    numeric: &Numeric,
    approximate: &Approximate,
    sources: &[[u64; 32]],
    seed: u64,
    mask: u32,
) {
    let dest = numeric.dest;
    let mut results = bits(warp, dest);
    for lane in lanes_of(mask) {
        for at in 0..dest.ty.count() {
            let mut operands = [0.0; 2];
            let mut hash = seed ^ at as u64;
            for ((value, source), bits) in operands.iter_mut().zip(&numeric.sources).zip(sources) {
                *value = source.ty.read(bits[lane], at);
                if numeric.flushes && !source.ty.is_normal(*value) && value.is_finite() {
                    *value *= 0.0;
                }
                hash = mix(hash ^ value.to_bits());
            }
            let rounded = dest.ty.read(results[lane], at);
            let exact = (approximate.function)(operands[0], operands[1]);
            if !dest.ty.is_normal(rounded) || !dest.ty.is_normal(exact) {
                continue;
            }
            let width = approximate.bound.width(exact, operands[0], dest.ty);
            // What rounding adds afterwards is within the bound too, even where steps are wider than at the
            // exact result.
            let room = width - dest.ty.ulp(exact.abs() + width) / 2.0;
            let share = (hash >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
            let moved = exact + share * room.max(0.0);
            if dest.ty.is_normal(moved) && room > 0.0 {
                results[lane] = dest.ty.write(results[lane], at, moved);
            }
        }
    }
    arithmetic::put(warp, dest.reg, &results, mask);
}

impl Bound {
    /// How far from `exact`, the result of `operand`, hardware may be.
    fn width(self, exact: f64, operand: f64, ty: FloatType) -> f64 {
        let power = |exponent: f64| exponent.exp2();
        match self {
            Self::Ulps(ulps) => ulps * ty.ulp(exact),
            Self::Relative(part) => part * exact.abs(),
            Self::Absolute(width) => width,
            // Absolute near one, where the logarithm is small, relative elsewhere.
            Self::Logarithm if operand > 0.5 && operand < 2.0 => power(-22.0),
            Self::Logarithm => power(-22.0) * exact.abs(),
            // Within a turn of zero, and within fifty.
            Self::Angle if operand.abs() <= std::f64::consts::TAU => power(-20.5),
            Self::Angle => power(-14.7),
        }
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(z: u64) -> u64 {
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// An element of a product of matrices that is not finite although its row, its column and what they are
/// added to are; `operands` are those from before the product.
pub(super) fn check_product(
    warp: &Warp,
    env: &Env<'_>,
    mma: &Mma,
    operands: &Operands,
    pc: usize,
) -> Outcome<()> {
    let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
    let mut born = None;
    for lane in 0..32 {
        for_accumulators(mma.half[0], lane, |reg, shift, row, column| {
            let bits = warp.w[mma.d[reg] as usize][lane];
            let result = if mma.half[0] {
                f32_of_f16(bits >> shift & 0xffff)
            } else {
                f32::from_bits(bits)
            };
            let (a, b) = (&operands.a[row], &operands.b[column]);
            let was_finite = finite(a) && finite(b) && operands.c[row][column].is_finite();
            if !result.is_finite() && was_finite && born.is_none() {
                born = Some((lane, result, row, column));
            }
        });
    }
    let Some((lane, result, row, column)) = born else {
        return Ok(());
    };
    let inputs = format!("row {row} of a and column {column} of b");
    Err(born_fault(env, warp, pc, 1 << lane, result.into(), &inputs))
}
