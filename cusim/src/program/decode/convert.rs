//! `cvt` (PTX ISA, "Data Movement and Conversion Instructions: cvt", "cvt.pack").

use super::super::lanes::{
    bf16_bits, d, f, f16_bits, f32_of_bf16, f32_of_f16, ftz_bits, odd, out, out_ftz,
};
use super::super::op::{Op, Reg, Scalar, W1, W2};
use super::super::rounding::{Format, Rounding};
use super::super::simd::{each1, each2};
use super::{Context, Form, Result};
use crate::ptx::ast::Operand;

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

/// What happens to a float after rounding.
#[derive(Clone, Copy)]
struct After {
    ftz: bool,
    sat: bool,
    relu: bool,
    satfinite: bool,
}

impl Context<'_> {
    pub(super) fn cvt(&mut self, form: &Form<'_>) -> Result<Op> {
        let [.., to, from] = form.modifiers[..] else {
            return form.unknown();
        };
        if form.has("pack") {
            return self.pack_integers(form);
        }
        if matches!(to, "f16x2" | "bf16x2") {
            return self.pack(form, to, from);
        }
        // Sources wider than their type are read in part.
        let wide = from.ends_with("64") || self.register_bits(form.operand(1)?) == Some(64);
        let a = self.any(form.operand(1)?, wide)?;
        let dest = self.dest(form.operand(0)?)?;
        if let Some(op) = fast(form, to, from, dest, a) {
            return Ok(op);
        }
        let dest_bits = self.register_bits(form.operand(0)?).unwrap_or(64);
        let function = match (integer_named(from), integer_named(to)) {
            (Some(from), Some(to)) => {
                let sat = form.has("sat");
                let f: Scalar = Box::new(move |s| int_to_int(s[0], from, to, sat, dest_bits));
                f
            }
            (Some(from), None) => int_to_float(form, from, to)?,
            (None, Some(to)) => float_to_int(form, from, to, dest_bits)?,
            (None, None) => float_to_float(form, from, to)?,
        };
        Ok(Op::Scalar(function, dest, vec![a]))
    }

    /// `cvt.rn.f16x2.f32 d, hi, lo`
    fn pack(&mut self, form: &Form<'_>, to: &str, from: &str) -> Result<Op> {
        if from != "f32" {
            return form.unknown();
        }
        let o = form.operands();
        let [_, hi, lo] = o else {
            return form.unknown();
        };
        let d = self.dest_w(&o[0])?;
        let (hi, lo) = (self.w(hi)?, self.w(lo)?);
        let plain = form.modifiers.len() == 3 && form.has("rn");
        let function: Option<W2> = match (to, plain) {
            ("f16x2", true) => Some(each2!(|a, b| f16_bits(f(a)) << 16 | f16_bits(f(b)))),
            ("bf16x2", true) => Some(each2!(|a, b| bf16_bits(f(a)) << 16 | bf16_bits(f(b)))),
            _ => None,
        };
        if let Some(function) = function {
            return Ok(Op::W2(function, d, hi, lo));
        }
        let encode = encoder(form, to)?;
        let f = move |s: &[u64; 4]| {
            let half = |bits: u64| encode(f(bits as u32).into());
            half(s[0]) << 16 | half(s[1])
        };
        Ok(Op::Scalar(
            Box::new(f),
            Reg::W(d),
            vec![Reg::W(hi), Reg::W(lo)],
        ))
    }

    /// `cvt.pack.sat`: two s32 saturated to narrow integers, above the bits of a third operand.
    fn pack_integers(&mut self, form: &Form<'_>) -> Result<Op> {
        let ["pack", "sat", to, "s32", ref third @ ..] = form.modifiers[..] else {
            return form.unknown();
        };
        let bits: u32 = match (to, third) {
            ("u16" | "s16", []) => 16,
            ("u8" | "s8", ["b32"]) => 8,
            ("u4" | "s4", ["b32"]) => 4,
            ("u2" | "s2", ["b32"]) => 2,
            _ => return form.unknown(),
        };
        let integer = Integer {
            bits,
            signed: to.starts_with('s'),
        };
        self.scalar(form, move |s| {
            let (low, high) = range(integer);
            let mask = (1u64 << bits) - 1;
            let narrow = |x: u64| i128::from(x as i32).clamp(low, high) as u64 & mask;
            // The third operand moves up to make room for both.
            let above = if bits == 16 { 0 } else { s[2] << (2 * bits) };
            (above | narrow(s[0]) << bits | narrow(s[1])) & 0xffff_ffff
        })
    }
}

/// Conversions that stand in inner loops.
fn fast(form: &Form<'_>, to: &str, from: &str, d: Reg, a: Reg) -> Option<Op> {
    // Everything but a plain conversion, perhaps with `.rn`, goes lane by lane.
    if form.modifiers.len() != 2 && !(form.modifiers.len() == 3 && form.has("rn")) {
        return None;
    }
    let function: W1 = match (to, from, d, a) {
        ("f32", "f16", Reg::W(_), Reg::W(_)) => each1!(|a| out(f32_of_f16(a & 0xffff))),
        ("f32", "bf16", Reg::W(_), Reg::W(_)) => each1!(|a| out(f32_of_bf16(a & 0xffff))),
        ("f16", "f32", Reg::W(_), Reg::W(_)) => each1!(|a| f16_bits(f(a))),
        ("bf16", "f32", Reg::W(_), Reg::W(_)) => each1!(|a| bf16_bits(f(a))),
        ("f32", "s32", Reg::W(_), Reg::W(_)) => each1!(|a| (a as i32 as f32).to_bits()),
        ("f32", "u32", Reg::W(_), Reg::W(_)) => each1!(|a| (a as f32).to_bits()),
        ("s32" | "u32", "u16", Reg::W(_), Reg::W(_)) => each1!(|a| a & 0xffff),
        ("s32", "s16", Reg::W(_), Reg::W(_)) => each1!(|a| i32::from(a as i16) as u32),
        ("s32" | "u32", "s32" | "u32", Reg::W(_), Reg::W(_)) => |a| *a,
        _ => return fast_wide(to, from, d, a),
    };
    match (d, a) {
        (Reg::W(d), Reg::W(a)) => Some(Op::W1(function, d, a)),
        _ => None,
    }
}

fn fast_wide(to: &str, from: &str, d: Reg, a: Reg) -> Option<Op> {
    Some(match (to, from, d, a) {
        ("s64", "s32", Reg::D(d), Reg::W(a)) => {
            Op::Widen(each1!(|a| i64::from(a as i32) as u64), d, a)
        }
        ("u64" | "s64", "u32", Reg::D(d), Reg::W(a)) => Op::Widen(each1!(|a| u64::from(a)), d, a),
        ("u32" | "s32", "u64" | "s64", Reg::W(d), Reg::D(a)) => {
            Op::Narrow(each1!(|a| a as u32), d, a)
        }
        ("f64", "f32", Reg::D(d), Reg::W(a)) => Op::Widen(each1!(|a| quiet(f(a).into())), d, a),
        ("f32", "f64", Reg::W(d), Reg::D(a)) => {
            Op::Narrow(each1!(|a| out(super::super::lanes::d(a) as f32)), d, a)
        }
        _ => return None,
    })
}

/// Bits of an f64, NaN made canonical.
fn quiet(x: f64) -> u64 {
    if x.is_nan() {
        0x7fff_ffff_ffff_ffff
    } else {
        x.to_bits()
    }
}

fn integer_rounding(form: &Form<'_>) -> Option<ToInteger> {
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
    let value = if sat { value.clamp(low, high) } else { value };
    int_bits(value, to, dest_bits)
}

fn int_to_float(form: &Form<'_>, from: Integer, to: &str) -> Result<Scalar> {
    if to == "f64" {
        let rounding = form.rounding().unwrap_or(Rounding::Nearest);
        let sat = form.has("sat");
        return Ok(Box::new(move |s| {
            let value = int_value(s[0], from);
            let value = if sat { value.clamp(0, 1) } else { value };
            let near = value as f64;
            let lost = (value - near as i128) as f64;
            Format::F64.direct(near.to_bits(), lost, rounding)
        }));
    }
    let encode = encoder(form, to)?;
    // Beyond 53 bits the value is rounded to odd, so that the destination's own rounding is the only one.
    Ok(Box::new(move |s| {
        let value = int_value(s[0], from);
        let near = value as f64;
        encode(odd(near, (value - near as i128) as f64))
    }))
}

/// NaN becomes 0, or the sign bit alone where one of the types has 64 bits.
fn nan_to(from: &str, to: Integer) -> i128 {
    if from == "f64" || to.bits == 64 {
        1 << (to.bits - 1)
    } else {
        0
    }
}

fn float_to_int(form: &Form<'_>, from: &str, to: Integer, dest_bits: u32) -> Result<Scalar> {
    let rounding = integer_rounding(form).ok_or("the rounding is missing")?;
    let (decode, nan) = (decoder(form, from)?, nan_to(from, to));
    let (low, high) = range(to);
    Ok(Box::new(move |s| {
        let x = decode(s[0]);
        let value = if x.is_nan() {
            nan
        } else {
            (round(x, rounding) as i128).clamp(low, high)
        };
        int_bits(value, to, dest_bits)
    }))
}

fn float_to_float(form: &Form<'_>, from: &str, to: &str) -> Result<Scalar> {
    let (decode, encode) = (decoder(form, from)?, encoder(form, to)?);
    Ok(match integer_rounding(form) {
        Some(rounding) => Box::new(move |s| encode(round(decode(s[0]), rounding))),
        None => Box::new(move |s| encode(decode(s[0]))),
    })
}

/// Reads a float of this type.
fn decoder(form: &Form<'_>, ty: &str) -> Result<fn(u64) -> f64> {
    Ok(match (ty, form.has("ftz")) {
        ("f16", _) => |a| f32_of_f16(a as u32 & 0xffff).into(),
        ("bf16", _) => |a| f32_of_bf16(a as u32 & 0xffff).into(),
        ("f32", false) => |a| f(a as u32).into(),
        ("f32", true) => |a| f(ftz_bits(a as u32)).into(),
        ("f64", _) => d,
        _ => return form.unknown(),
    })
}

/// Writes a float of this type, as the modifiers say.
fn encoder(form: &Form<'_>, ty: &str) -> Result<impl Fn(f64) -> u64 + Send + Sync + use<>> {
    let Some(format) = Format::named(ty) else {
        return form.unknown();
    };
    let rounding = form.rounding().unwrap_or(Rounding::Nearest);
    let after = After {
        ftz: form.has("ftz"),
        sat: form.has("sat"),
        relu: form.has("relu"),
        satfinite: form.has("satfinite"),
    };
    Ok(move |x: f64| {
        let x = match after {
            // NaN becomes +0.
            After { sat: true, .. } if x > 0.0 => x.min(1.0),
            After { sat: true, .. } => 0.0,
            // -0 becomes +0.
            After { relu: true, .. } if x <= 0.0 => 0.0,
            _ => x,
        };
        let bits = format.encode(x, rounding);
        match format {
            _ if after.satfinite && x.is_finite() && !format.decode(bits).is_finite() => {
                format.encode(x, Rounding::Zero)
            }
            _ if after.satfinite && x.is_infinite() => {
                format.encode(f64::MAX.copysign(x), Rounding::Zero)
            }
            Format::F32 if after.ftz => out_ftz(f(bits as u32)).into(),
            _ => bits,
        }
    })
}

impl Context<'_> {
    /// The bits of a register's type; `None` for what is no register.
    fn register_bits(&self, operand: &Operand) -> Option<u32> {
        use crate::ptx::ast::Type;
        let Operand::Register(reg) = operand else {
            return None;
        };
        Some(match self.body.registers[reg.0 as usize].ty {
            Type::Pred => 1,
            Type::B8 | Type::U8 | Type::S8 => 8,
            Type::B16 | Type::U16 | Type::S16 | Type::F16 | Type::Bf16 => 16,
            Type::B64 | Type::U64 | Type::S64 | Type::F64 => 64,
            _ => 32,
        })
    }
}
