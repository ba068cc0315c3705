//! `cvt` (PTX ISA, "Data Movement and Conversion Instructions: cvt").

use super::super::lanes::{bf16_bits, f16_bits, f32_of_bf16, f32_of_f16, ftz_bits, out, out_ftz};
use super::super::op::{Lanes, Op, Reg, each1, each2};
use super::{Context, Form, Result};

/// Rounding to an integer.
#[derive(Clone, Copy, PartialEq)]
enum ToInteger {
    Nearest,
    Zero,
    Down,
    Up,
}

/// A type of integers.
#[derive(Clone, Copy, PartialEq)]
struct Integer {
    bits: u32,
    signed: bool,
}

fn integer_named(ty: &str) -> Option<Integer> {
    let (sign, bits) = ty.split_at_checked(1)?;
    let bits = bits
        .parse()
        .ok()
        .filter(|bits| matches!(bits, 8 | 16 | 32 | 64))?;
    match sign {
        "s" | "u" => Some(Integer {
            bits,
            signed: sign == "s",
        }),
        _ => None,
    }
}

fn is_float(ty: &str) -> bool {
    matches!(ty, "f16" | "bf16" | "f32" | "f64")
}

impl Context<'_> {
    pub(super) fn cvt(&mut self, form: &Form<'_>) -> Result<Op> {
        let [.., to, from] = form.modifiers[..] else {
            return form.unknown();
        };
        form.only(&[
            to, from, "rn", "rz", "rni", "rzi", "rmi", "rpi", "ftz", "sat", "relu",
        ])?;
        if matches!(to, "f16x2" | "bf16x2") {
            return self.pack(form, to, from);
        }
        // Sources wider than their type are read in part.
        let wide = from.ends_with("64")
            || self.register_bits(form.operand(1)?) == 64
                && !matches!(form.operand(1)?, crate::ptx::ast::Operand::Int(_));
        let a = self.any(form.operand(1)?, wide)?;
        let d = self.dest(form.operand(0)?)?;
        if let Some(op) = fast(form, to, from, d, a) {
            return Ok(op);
        }
        let function: Box<dyn Fn(u64) -> u64 + Send + Sync> =
            match (integer_named(from), integer_named(to)) {
                (Some(from), Some(to)) => {
                    let sat = form.has("sat");
                    let dest_bits = self.register_bits(form.operand(0)?);
                    Box::new(move |a| int_to_int(a, from, to, sat, dest_bits))
                }
                (Some(from), None) if is_float(to) && !form.has("rz") => {
                    let encode = float_encoder(to, form)?;
                    Box::new(move |a| encode(int_to_f64(a, from)))
                }
                (None, Some(to)) if is_float(from) => {
                    let rounding = to_integer(form).ok_or("the rounding is missing")?;
                    let (decode, nan) = (float_decoder(from, form)?, nan_to(from, to));
                    let dest_bits = self.register_bits(form.operand(0)?);
                    Box::new(move |a| float_to_int(decode(a), to, rounding, nan, dest_bits))
                }
                (None, None) if is_float(from) && is_float(to) => {
                    if form.has("rz") {
                        return form.unknown();
                    }
                    let (decode, encode) = (float_decoder(from, form)?, float_encoder(to, form)?);
                    match to_integer(form) {
                        Some(rounding) => {
                            Box::new(move |a| encode((round(decode(a).0, rounding), None)))
                        }
                        None => Box::new(move |a| encode(decode(a))),
                    }
                }
                _ => return form.unknown(),
            };
        Ok(Op::Slow1(function, d, a))
    }

    /// `cvt.rn.f16x2.f32 d, hi, lo`
    fn pack(&mut self, form: &Form<'_>, to: &str, from: &str) -> Result<Op> {
        if from != "f32" || form.has("rz") || form.has("sat") {
            return form.unknown();
        }
        let d = self.dest_w(form.operand(0)?)?;
        let (hi, lo) = (self.w(form.operand(1)?)?, self.w(form.operand(2)?)?);
        let relu = form.has("relu");
        match (to, relu) {
            ("f16x2", false) => {
                let f: fn(&mut Lanes, &Lanes, &Lanes) =
                    each2!(|a, b| f16_bits(f32::from_bits(a)) << 16 | f16_bits(f32::from_bits(b)));
                Ok(Op::W2(f, d, hi, lo))
            }
            ("bf16x2", false) => {
                let f: fn(&mut Lanes, &Lanes, &Lanes) = each2!(|a, b| bf16_bits(f32::from_bits(a))
                    << 16
                    | bf16_bits(f32::from_bits(b)));
                Ok(Op::W2(f, d, hi, lo))
            }
            _ => form.unknown(),
        }
    }
}

/// Conversions that stand in inner loops.
fn fast(form: &Form<'_>, to: &str, from: &str, d: Reg, a: Reg) -> Option<Op> {
    if form.has("sat") || form.has("relu") || form.has("rz") || to_integer(form).is_some() {
        return None;
    }
    Some(match (to, from, d, a) {
        ("f32", "f16", Reg::W(d), Reg::W(a)) if !form.has("ftz") => {
            Op::W1(each1!(|a| out(f32_of_f16(a & 0xffff))), d, a)
        }
        ("f32", "bf16", Reg::W(d), Reg::W(a)) if !form.has("ftz") => {
            Op::W1(each1!(|a| out(f32_of_bf16(a & 0xffff))), d, a)
        }
        ("f16", "f32", Reg::W(d), Reg::W(a)) if !form.has("ftz") => {
            Op::W1(each1!(|a| f16_bits(f32::from_bits(a))), d, a)
        }
        ("bf16", "f32", Reg::W(d), Reg::W(a)) => {
            Op::W1(each1!(|a| bf16_bits(f32::from_bits(a))), d, a)
        }
        ("f32", "s32", Reg::W(d), Reg::W(a)) => {
            Op::W1(each1!(|a| (a as i32 as f32).to_bits()), d, a)
        }
        ("f32", "u32", Reg::W(d), Reg::W(a)) => Op::W1(each1!(|a| (a as f32).to_bits()), d, a),
        ("s64", "s32", Reg::D(d), Reg::W(a)) => {
            Op::Widen(each1!(|a| i64::from(a as i32) as u64), d, a)
        }
        ("u64" | "s64", "u32", Reg::D(d), Reg::W(a)) => Op::Widen(each1!(|a| u64::from(a)), d, a),
        ("u32" | "s32", "u64" | "s64", Reg::W(d), Reg::D(a)) => {
            Op::Narrow(each1!(|a| a as u32), d, a)
        }
        _ => return None,
    })
}

fn to_integer(form: &Form<'_>) -> Option<ToInteger> {
    let rounding = [
        ("rni", ToInteger::Nearest),
        ("rzi", ToInteger::Zero),
        ("rmi", ToInteger::Down),
        ("rpi", ToInteger::Up),
    ];
    rounding
        .into_iter()
        .find(|(name, _)| form.has(name))
        .map(|(_, rounding)| rounding)
}

fn round(x: f64, rounding: ToInteger) -> f64 {
    match rounding {
        ToInteger::Nearest => x.round_ties_even(),
        ToInteger::Zero => x.trunc(),
        ToInteger::Down => x.floor(),
        ToInteger::Up => x.ceil(),
    }
}

/// The value of the low bits.
fn int_value(a: u64, ty: Integer) -> i128 {
    let unused = 64 - ty.bits;
    if ty.signed {
        i128::from((a << unused) as i64 >> unused)
    } else {
        i128::from(a << unused >> unused)
    }
}

fn range(ty: Integer) -> (i128, i128) {
    if ty.signed {
        (-(1 << (ty.bits - 1)), (1 << (ty.bits - 1)) - 1)
    } else {
        (0, (1 << ty.bits) - 1)
    }
}

/// The bits of an integer result, extended to the width of its register by its own sign.
fn int_bits(value: i128, to: Integer, dest_bits: u32) -> u64 {
    let unused = 128 - to.bits;
    let bits = value << unused;
    let extended = if to.signed {
        bits >> unused
    } else {
        (bits as u128 >> unused) as i128
    } as u64;
    if dest_bits == 64 {
        extended
    } else {
        extended & ((1 << dest_bits.max(16)) - 1)
    }
}

fn int_to_int(a: u64, from: Integer, to: Integer, sat: bool, dest_bits: u32) -> u64 {
    let value = int_value(a, from);
    let (low, high) = range(to);
    int_bits(
        if sat { value.clamp(low, high) } else { value },
        to,
        dest_bits,
    )
}

/// An integer as f64: exact up to 53 bits, and rounded to odd above, so that the destination's own
/// rounding is the only one.
fn int_to_f64(a: u64, from: Integer) -> (f64, Option<i128>) {
    let value = int_value(a, from);
    (
        value as f64,
        (value.unsigned_abs() > 1 << 53).then_some(value),
    )
}

/// NaN becomes 0, or the sign bit alone where one of the types has 64 bits.
fn nan_to(from: &str, to: Integer) -> i128 {
    match (from == "f64" || to.bits == 64, to) {
        (false, _) => 0,
        (true, Integer { bits, .. }) => 1 << (bits - 1),
    }
}

fn float_to_int(
    (x, _): (f64, Option<i128>),
    to: Integer,
    rounding: ToInteger,
    nan: i128,
    dest_bits: u32,
) -> u64 {
    let (low, high) = range(to);
    let value = if x.is_nan() {
        nan
    } else {
        (round(x, rounding) as i128).clamp(low, high)
    };
    int_bits(value, to, dest_bits)
}

/// Reads a float of this type.
fn float_decoder(ty: &str, form: &Form<'_>) -> Result<fn(u64) -> (f64, Option<i128>)> {
    Ok(match (ty, form.has("ftz")) {
        ("f16", _) => |a| (f32_of_f16(a as u32 & 0xffff).into(), None),
        ("bf16", _) => |a| (f32_of_bf16(a as u32 & 0xffff).into(), None),
        ("f32", false) => |a| (f32::from_bits(a as u32).into(), None),
        ("f32", true) => |a| (f32::from_bits(ftz_bits(a as u32)).into(), None),
        ("f64", _) => |a| (f64::from_bits(a), None),
        _ => return form.unknown(),
    })
}

type Encoder = Box<dyn Fn((f64, Option<i128>)) -> u64 + Send + Sync>;

/// Writes a float of this type, rounded to nearest even; integers beyond f64 come exactly.
fn float_encoder(ty: &str, form: &Form<'_>) -> Result<Encoder> {
    let (ftz, sat, relu) = (form.has("ftz"), form.has("sat"), form.has("relu"));
    let clamp = move |x: f64| match (sat, relu) {
        (true, _) if x > 0.0 => x.min(1.0),
        (true, _) => 0.0,
        (_, true) if x < 0.0 => 0.0,
        _ => x,
    };
    let as_f32 = move |(x, exact): (f64, Option<i128>)| match exact {
        Some(value) => value as f32,
        None => clamp(x) as f32,
    };
    Ok(match ty {
        "f64" => Box::new(move |(x, _)| {
            let x = clamp(x);
            if x.is_nan() {
                0x7fff_ffff_ffff_ffff
            } else {
                x.to_bits()
            }
        }),
        "f32" if ftz => Box::new(move |x| out_ftz(as_f32(x)).into()),
        "f32" => Box::new(move |x| out(as_f32(x)).into()),
        // From f64 these go straight to 16 bits: rounding to f32 between would round twice.
        "f16" => Box::new(move |(x, _)| {
            let x = clamp(x);
            if x.is_nan() {
                0x7fff
            } else {
                half::f16::from_f64(x).to_bits().into()
            }
        }),
        "bf16" => Box::new(move |(x, _)| {
            let x = clamp(x);
            if x.is_nan() {
                0x7fff
            } else {
                half::bf16::from_f64(x).to_bits().into()
            }
        }),
        _ => return form.unknown(),
    })
}
