//! `setp`, `set`, `testp`, `selp`, `slct` and predicate logic (PTX ISA, "Comparison and Selection").

use super::super::lanes::{d, f, f32_of_bf16, f32_of_f16, ftz};
use super::super::op::{Combine, HalvesTo, Lanes, Op, Reg, SetHalves, SetTo, Wide};
use super::super::simd::mask2;
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
            "equ" => mask2!(|a, b| $read(a) == $read(b) || $read(a).is_nan() || $read(b).is_nan()),
            "neu" => mask2!(|a, b| $read(a) != $read(b)),
            "ltu" => mask2!(|a, b| $read(a) < $read(b) || $read(a).is_nan() || $read(b).is_nan()),
            "leu" => mask2!(|a, b| $read(a) <= $read(b) || $read(a).is_nan() || $read(b).is_nan()),
            "gtu" => mask2!(|a, b| $read(a) > $read(b) || $read(a).is_nan() || $read(b).is_nan()),
            "geu" => mask2!(|a, b| $read(a) >= $read(b) || $read(a).is_nan() || $read(b).is_nan()),
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
        ("f16", true) => float_compare!(name, flushed_f16),
        ("bf16", _) => float_compare!(name, |x: u32| f32_of_bf16(x & 0xffff)),
        _ => return None,
    })
}

/// f16 with subnormals as zeros.
#[inline(always)]
fn flushed_f16(x: u32) -> f32 {
    let kept = if x & 0x7c00 == 0 {
        x & 0x8000
    } else {
        x & 0xffff
    };
    f32_of_f16(kept)
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
        let (dest, complement) = match form.operand(0)? {
            Operand::Pair(p, q) => (self.dest_p(p)?, self.dest_p(q)?),
            operand => (self.dest_p(operand)?, None),
        };
        let Some((&name, rest)) = form.modifiers.split_first() else {
            return form.unknown();
        };
        let combine = self.combination(form, rest, 3)?;
        if form.ty().ends_with("x2") {
            return self.set_halves(
                form,
                name,
                HalvesTo::Predicates([dest, complement]),
                combine,
            );
        }
        let to = SetTo {
            dest,
            value: None,
            complement,
            combine,
        };
        self.compare(form, name, to)
    }

    /// `set`: a comparison whose result is a number.
    pub(super) fn set(&mut self, form: &Form<'_>) -> Result<Op> {
        let [name, ref rest @ .., to, _] = form.modifiers[..] else {
            return form.unknown();
        };
        let combine = self.combination(form, rest, 3)?;
        let holds = match to {
            "u32" | "s32" => u32::MAX,
            "f32" => 1f32.to_bits(),
            "u16" | "s16" => 0xffff,
            "f16" | "f16x2" => 0x3c00,
            "bf16" | "bf16x2" => 0x3f80,
            _ => return form.unknown(),
        };
        let dest = self.dest_w(form.operand(0)?)?;
        if form.ty().ends_with("x2") {
            // Masks, too, are of halves.
            return self.set_halves(form, name, HalvesTo::Word(dest, holds & 0xffff), combine);
        }
        let to = SetTo {
            dest: None,
            value: Some((dest, holds)),
            complement: None,
            combine,
        };
        self.compare(form, name, to)
    }

    /// The predicate, operand `at`, that a comparison is combined with.
    pub(super) fn combination(
        &self,
        form: &Form<'_>,
        modifiers: &[&str],
        at: usize,
    ) -> Result<Option<Combine>> {
        let logic = modifiers
            .iter()
            .find_map(|modifier| combine_function(modifier));
        match (logic, form.operands().get(at)) {
            (None, None) => Ok(None),
            (Some(f), Some(operand)) => {
                let (slot, negated) = self.pred(operand)?;
                Ok(Some((f, slot, negated)))
            }
            _ => form.unknown(),
        }
    }

    fn compare(&mut self, form: &Form<'_>, name: &str, to: SetTo) -> Result<Op> {
        let (a, b) = (form.operand(1)?, form.operand(2)?);
        if let Some(compare) = compare_d(name, form.ty()) {
            return Ok(Op::SetD(compare, self.d(a)?, self.d(b)?, to));
        }
        match compare_w(name, form.ty(), form.has("ftz")) {
            Some(compare) => Ok(Op::SetW(compare, self.w(a)?, self.w(b)?, to)),
            None => form.unknown(),
        }
    }

    /// `setp.f16x2 p|q`, `set.f16x2.f16x2`: of the low halves and of the high halves.
    fn set_halves(
        &mut self,
        form: &Form<'_>,
        name: &str,
        to: HalvesTo,
        combine: Option<Combine>,
    ) -> Result<Op> {
        let element = form.ty().trim_end_matches("x2");
        let Some(compare) = compare_w(name, element, form.has("ftz")) else {
            return form.unknown();
        };
        let sources = [self.w(form.operand(1)?)?, self.w(form.operand(2)?)?];
        Ok(Op::SetHalves(Box::new(SetHalves {
            compare,
            sources,
            to,
            combine,
        })))
    }

    pub(super) fn testp(&mut self, form: &Form<'_>) -> Result<Op> {
        let to = SetTo {
            dest: self.dest_p(form.operand(0)?)?,
            value: None,
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
                // Zeros count as normal.
                "normal" => mask2!(|a, _b| f(a).is_normal() || f(a) == 0.0),
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
            ("f64", "normal") => mask2!(|a, _b| d(a).is_normal() || d(a) == 0.0),
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

    /// `slct`: a where c is not negative, else b.
    pub(super) fn slct(&mut self, form: &Form<'_>) -> Result<Op> {
        let [.., ty, chooser @ ("s32" | "f32")] = form.modifiers[..] else {
            return form.unknown();
        };
        let is_float = chooser == "f32";
        let wide = ty.ends_with("64");
        let o = form.operands();
        let [_, a, b, c] = o else {
            return form.unknown();
        };
        let sources = vec![self.any(a, wide)?, self.any(b, wide)?, Reg::W(self.w(c)?)];
        let read = if form.has("ftz") { ftz } else { f };
        let f = move |s: &[u64; 4]| {
            let c = s[2] as u32;
            // -0 is not negative; NaN chooses b.
            let first = if is_float {
                read(c) >= 0.0
            } else {
                c as i32 >= 0
            };
            if first { s[0] } else { s[1] }
        };
        Ok(Op::Scalar(Box::new(f), self.dest(&o[0])?, sources))
    }

    pub(super) fn predicate_logic(&mut self, form: &Form<'_>) -> Result<Op> {
        let d = self
            .dest_p(form.operand(0)?)?
            .ok_or("the destination must be a predicate")?;
        let a = self.pred(form.operand(1)?)?;
        if form.opcode == "not" {
            return Ok(Op::P2(|a, _| !a, d, a, a));
        }
        let b = self.pred(form.operand(2)?)?;
        match combine_function(form.opcode) {
            Some(f) => Ok(Op::P2(f, d, a, b)),
            None => form.unknown(),
        }
    }
}

/// Logic of predicates by name.
fn combine_function(name: &str) -> Option<fn(u32, u32) -> u32> {
    Some(match name {
        "and" => |a, b| a & b,
        "or" => |a, b| a | b,
        "xor" => |a, b| a ^ b,
        _ => return None,
    })
}
