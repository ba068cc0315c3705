//! `setp`, `testp`, `selp` and predicate logic (PTX ISA, "Comparison and Selection").

use super::super::lanes::{d, f, f32_of_bf16, f32_of_f16, ftz};
use super::super::op::{Lanes, Op, SetTo, Wide, mask2};
use super::{Context, Form, Result};
use crate::ptx::ast::Operand;

type CompareW = fn(&Lanes, &Lanes) -> u32;
type CompareD = fn(&Wide, &Wide) -> u32;

/// Comparisons by name for values that `$read` makes of bits.
macro_rules! integer_compare {
    ($name:expr, $read:expr) => {
        match $name {
            "eq" => mask2!(|a, b| $read(a) == $read(b)),
            "ne" => mask2!(|a, b| $read(a) != $read(b)),
            "lt" | "lo" => mask2!(|a, b| $read(a) < $read(b)),
            "le" | "ls" => mask2!(|a, b| $read(a) <= $read(b)),
            "gt" | "hi" => mask2!(|a, b| $read(a) > $read(b)),
            "ge" | "hs" => mask2!(|a, b| $read(a) >= $read(b)),
            _ => return None,
        }
    };
}

/// The same for floats, with the unordered forms: those hold when an operand is NaN.
macro_rules! float_compare {
    ($name:expr, $read:expr) => {
        match $name {
            "eq" => mask2!(|a, b| $read(a) == $read(b)),
            "ne" => mask2!(|a, b| $read(a) < $read(b) || $read(a) > $read(b)),
            "lt" => mask2!(|a, b| $read(a) < $read(b)),
            "le" => mask2!(|a, b| $read(a) <= $read(b)),
            "gt" => mask2!(|a, b| $read(a) > $read(b)),
            "ge" => mask2!(|a, b| $read(a) >= $read(b)),
            "equ" => mask2!(|a, b| !($read(a) < $read(b) || $read(a) > $read(b))),
            "neu" => mask2!(|a, b| $read(a) != $read(b)),
            "ltu" => mask2!(|a, b| !($read(a) >= $read(b))),
            "leu" => mask2!(|a, b| !($read(a) > $read(b))),
            "gtu" => mask2!(|a, b| !($read(a) <= $read(b))),
            "geu" => mask2!(|a, b| !($read(a) < $read(b))),
            "num" => mask2!(|a, b| !$read(a).is_nan() && !$read(b).is_nan()),
            "nan" => mask2!(|a, b| $read(a).is_nan() || $read(b).is_nan()),
            _ => return None,
        }
    };
}

fn compare_w(name: &str, ty: &str, flush: bool) -> Option<CompareW> {
    Some(match (ty, flush) {
        ("u32" | "b32", _) => integer_compare!(name, |x: u32| x),
        ("s32", _) => integer_compare!(name, |x: u32| x as i32),
        ("u16" | "b16", _) => integer_compare!(name, |x: u32| x as u16),
        ("s16", _) => integer_compare!(name, |x: u32| x as i16),
        ("f32", false) => float_compare!(name, f),
        ("f32", true) => float_compare!(name, ftz),
        ("f16", false) => float_compare!(name, |x: u32| f32_of_f16(x & 0xffff)),
        ("bf16", _) => float_compare!(name, |x: u32| f32_of_bf16(x & 0xffff)),
        _ => return None,
    })
}

fn compare_d(name: &str, ty: &str) -> Option<CompareD> {
    Some(match ty {
        "u64" | "b64" => integer_compare!(name, |x: u64| x),
        "s64" => integer_compare!(name, |x: u64| x as i64),
        "f64" => float_compare!(name, d),
        _ => return None,
    })
}

impl Context<'_> {
    pub(super) fn setp(&mut self, form: &Form<'_>) -> Result<Op> {
        let Some((&name, rest)) = form.modifiers.split_first() else {
            return form.unknown();
        };
        let combine = rest
            .iter()
            .copied()
            .find(|m| matches!(*m, "and" | "or" | "xor"));
        form.only(&[name, form.ty(), "ftz", "and", "or", "xor"])?;
        let (dest, complement) = match form.operand(0)? {
            Operand::Pair(p, q) => (self.dest_p(p)?, self.dest_p(q)?),
            operand => (self.dest_p(operand)?, None),
        };
        let combine = match combine {
            None => None,
            Some(logic) => {
                let (slot, negated) = self.pred(form.operand(3)?)?;
                let f: fn(u32, u32) -> u32 = match logic {
                    "and" => |a, b| a & b,
                    "or" => |a, b| a | b,
                    _ => |a, b| a ^ b,
                };
                Some((f, slot, negated))
            }
        };
        let to = SetTo {
            dest,
            complement,
            combine,
        };
        let (a, b) = (form.operand(1)?, form.operand(2)?);
        if let Some(compare) = compare_d(name, form.ty()) {
            return Ok(Op::SetD(compare, self.d(a)?, self.d(b)?, to));
        }
        match compare_w(name, form.ty(), form.has("ftz")) {
            Some(compare) => Ok(Op::SetW(compare, self.w(a)?, self.w(b)?, to)),
            None => form.unknown(),
        }
    }

    pub(super) fn testp(&mut self, form: &Form<'_>) -> Result<Op> {
        let to = SetTo {
            dest: self.dest_p(form.operand(0)?)?,
            complement: None,
            combine: None,
        };
        let a = form.operand(1)?;
        if form.ty() == "f32" {
            let test: CompareW = match form.modifiers[0] {
                "finite" => mask2!(|a, _b| f(a).is_finite()),
                "infinite" => mask2!(|a, _b| f(a).is_infinite()),
                "number" => mask2!(|a, _b| !f(a).is_nan()),
                "notanumber" => mask2!(|a, _b| f(a).is_nan()),
                "normal" => mask2!(|a, _b| f(a).is_normal()),
                "subnormal" => mask2!(|a, _b| f(a).is_subnormal()),
                _ => return form.unknown(),
            };
            let a = self.w(a)?;
            return Ok(Op::SetW(test, a, a, to));
        }
        let test: CompareD = match (form.ty(), form.modifiers[0]) {
            ("f64", "finite") => mask2!(|a, _b| d(a).is_finite()),
            ("f64", "infinite") => mask2!(|a, _b| d(a).is_infinite()),
            ("f64", "number") => mask2!(|a, _b| !d(a).is_nan()),
            ("f64", "notanumber") => mask2!(|a, _b| d(a).is_nan()),
            ("f64", "normal") => mask2!(|a, _b| d(a).is_normal()),
            ("f64", "subnormal") => mask2!(|a, _b| d(a).is_subnormal()),
            _ => return form.unknown(),
        };
        let a = self.d(a)?;
        Ok(Op::SetD(test, a, a, to))
    }

    pub(super) fn selp(&mut self, form: &Form<'_>) -> Result<Op> {
        let (a, b) = (form.operand(1)?, form.operand(2)?);
        let p = self.pred(form.operand(3)?)?;
        match form.ty() {
            "b64" | "u64" | "s64" | "f64" => Ok(Op::SelectD(
                self.dest_d(form.operand(0)?)?,
                self.d(a)?,
                self.d(b)?,
                p,
            )),
            "b16" | "u16" | "s16" | "b32" | "u32" | "s32" | "f32" | "f16" | "bf16" => Ok(
                Op::SelectW(self.dest_w(form.operand(0)?)?, self.w(a)?, self.w(b)?, p),
            ),
            _ => form.unknown(),
        }
    }

    pub(super) fn predicate_logic(&mut self, form: &Form<'_>) -> Result<Op> {
        let d = self
            .dest_p(form.operand(0)?)?
            .ok_or("the destination must be a predicate")?;
        let plain = |(slot, negated): (u32, bool)| match negated {
            false => Ok(slot),
            true => Err("a negated operand cannot be executed here".to_owned()),
        };
        let a = plain(self.pred(form.operand(1)?)?)?;
        if form.opcode == "not" {
            return Ok(Op::P2(|a, _| !a, d, a, a));
        }
        let b = plain(self.pred(form.operand(2)?)?)?;
        let f: fn(u32, u32) -> u32 = match form.opcode {
            "and" => |a, b| a & b,
            "or" => |a, b| a | b,
            _ => |a, b| a ^ b,
        };
        Ok(Op::P2(f, d, a, b))
    }
}
