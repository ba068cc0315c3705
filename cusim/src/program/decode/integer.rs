//! Integer arithmetic and bitwise logic (PTX ISA, "Integer Arithmetic Instructions", "Logic and Shift
//! Instructions").

use super::super::op::{D1, D2, Op, W1, W2};
use super::super::simd::{each1, each2};
use super::{Context, Form, Result};

/// 16-bit results keep their upper halves clear.
const LOW: u32 = 0xffff;

impl Context<'_> {
    pub(super) fn integer(&mut self, form: &Form<'_>) -> Result<Op> {
        match form.ty() {
            "u64" | "s64" | "b64" => self.wide(form),
            "u16" | "s16" | "b16" => self.short(form),
            "u16x2" | "s16x2" => self.pair(form),
            _ => self.word(form),
        }
    }

    /// Two of 16 bits at once.
    fn pair(&mut self, form: &Form<'_>) -> Result<Op> {
        let d = self.dest_w(form.operand(0)?)?;
        let (a, b) = (self.w(form.operand(1)?)?, self.w(form.operand(2)?)?);
        let f: W2 = match (form.opcode, form.ty(), form.has("relu")) {
            ("add", _, false) => each2!(|a, b| halves(a, b, |a, b| a.wrapping_add(b))),
            ("min", "u16x2", false) => each2!(|a, b| halves(a, b, |a, b| a.min(b))),
            ("max", "u16x2", false) => each2!(|a, b| halves(a, b, |a, b| a.max(b))),
            ("min", "s16x2", false) => {
                each2!(|a, b| halves(a, b, |a, b| (a as i16).min(b as i16) as u16))
            }
            ("max", "s16x2", false) => {
                each2!(|a, b| halves(a, b, |a, b| (a as i16).max(b as i16) as u16))
            }
            ("min", "s16x2", true) => {
                each2!(|a, b| halves(a, b, |a, b| (a as i16).min(b as i16).max(0) as u16))
            }
            ("max", "s16x2", true) => {
                each2!(|a, b| halves(a, b, |a, b| (a as i16).max(b as i16).max(0) as u16))
            }
            _ => return form.unknown(),
        };
        Ok(Op::W2(f, d, a, b))
    }

    fn word(&mut self, form: &Form<'_>) -> Result<Op> {
        let signed = form.ty() == "s32";
        let d = self.dest_w(form.operand(0)?)?;
        let a = self.w(form.operand(1)?)?;
        let unary: Option<W1> = match form.opcode {
            "neg" => Some(each1!(|a| a.wrapping_neg())),
            "abs" => Some(each1!(|a| (a as i32).wrapping_abs() as u32)),
            "not" => Some(each1!(|a| !a)),
            "cnot" => Some(each1!(|a| u32::from(a == 0))),
            "brev" => Some(each1!(|a| a.reverse_bits())),
            _ => None,
        };
        if let Some(f) = unary {
            return Ok(Op::W1(f, d, a));
        }
        let b = self.w(form.operand(2)?)?;
        let f: W2 = match (form.opcode, signed) {
            ("add", _) if form.has("sat") => {
                each2!(|a, b| (a as i32).saturating_add(b as i32) as u32)
            }
            ("sub", _) if form.has("sat") => {
                each2!(|a, b| (a as i32).saturating_sub(b as i32) as u32)
            }
            ("add", _) => each2!(|a, b| a.wrapping_add(b)),
            ("sub", _) => each2!(|a, b| a.wrapping_sub(b)),
            ("and", _) => each2!(|a, b| a & b),
            ("or", _) => each2!(|a, b| a | b),
            ("xor", _) => each2!(|a, b| a ^ b),
            ("min", true) if form.has("relu") => {
                each2!(|a, b| (a as i32).min(b as i32).max(0) as u32)
            }
            ("max", true) if form.has("relu") => {
                each2!(|a, b| (a as i32).max(b as i32).max(0) as u32)
            }
            ("min", true) => each2!(|a, b| (a as i32).min(b as i32) as u32),
            ("min", false) => each2!(|a, b| a.min(b)),
            ("max", true) => each2!(|a, b| (a as i32).max(b as i32) as u32),
            ("max", false) => each2!(|a, b| a.max(b)),
            // Division by zero gives an unspecified value: all ones, as the hardware has it.
            ("div", true) => each2!(|a, b| match b {
                0 => u32::MAX,
                _ => (a as i32).wrapping_div(b as i32) as u32,
            }),
            ("div", false) => each2!(|a, b| a.checked_div(b).unwrap_or(u32::MAX)),
            ("rem", true) => each2!(|a, b| match b {
                0 => a,
                _ => (a as i32).wrapping_rem(b as i32) as u32,
            }),
            ("rem", false) => each2!(|a, b| a.checked_rem(b).unwrap_or(a)),
            _ => return form.unknown(),
        };
        Ok(Op::W2(f, d, a, b))
    }

    fn wide(&mut self, form: &Form<'_>) -> Result<Op> {
        let signed = form.ty() == "s64";
        let d = self.dest_d(form.operand(0)?)?;
        let a = self.d(form.operand(1)?)?;
        let unary: Option<D1> = match form.opcode {
            "neg" => Some(each1!(|a| a.wrapping_neg())),
            "abs" => Some(each1!(|a| (a as i64).wrapping_abs() as u64)),
            "not" => Some(each1!(|a| !a)),
            "cnot" => Some(each1!(|a| u64::from(a == 0))),
            "brev" => Some(each1!(|a| a.reverse_bits())),
            _ => None,
        };
        if let Some(f) = unary {
            return Ok(Op::D1(f, d, a));
        }
        let b = self.d(form.operand(2)?)?;
        let f: D2 = match (form.opcode, signed) {
            ("add", _) => each2!(|a, b| a.wrapping_add(b)),
            ("sub", _) => each2!(|a, b| a.wrapping_sub(b)),
            ("and", _) => each2!(|a, b| a & b),
            ("or", _) => each2!(|a, b| a | b),
            ("xor", _) => each2!(|a, b| a ^ b),
            ("min", true) => each2!(|a, b| (a as i64).min(b as i64) as u64),
            ("min", false) => each2!(|a, b| a.min(b)),
            ("max", true) => each2!(|a, b| (a as i64).max(b as i64) as u64),
            ("max", false) => each2!(|a, b| a.max(b)),
            ("div", true) => each2!(|a, b| match b {
                0 => u64::MAX,
                _ => (a as i64).wrapping_div(b as i64) as u64,
            }),
            ("div", false) => each2!(|a, b| a.checked_div(b).unwrap_or(u64::MAX)),
            ("rem", true) => each2!(|a, b| match b {
                0 => a,
                _ => (a as i64).wrapping_rem(b as i64) as u64,
            }),
            ("rem", false) => each2!(|a, b| a.checked_rem(b).unwrap_or(a)),
            _ => return form.unknown(),
        };
        Ok(Op::D2(f, d, a, b))
    }

    fn short(&mut self, form: &Form<'_>) -> Result<Op> {
        let signed = form.ty() == "s16";
        let d = self.dest_w(form.operand(0)?)?;
        let a = self.w(form.operand(1)?)?;
        let unary: Option<W1> = match form.opcode {
            "neg" => Some(each1!(|a| a.wrapping_neg() & LOW)),
            "abs" => Some(each1!(|a| u32::from((a as i16).wrapping_abs() as u16))),
            "not" => Some(each1!(|a| !a & LOW)),
            "cnot" => Some(each1!(|a| u32::from(a & LOW == 0))),
            _ => None,
        };
        if let Some(f) = unary {
            return Ok(Op::W1(f, d, a));
        }
        let b = self.w(form.operand(2)?)?;
        let f: W2 = match (form.opcode, signed) {
            ("add", _) => each2!(|a, b| a.wrapping_add(b) & LOW),
            ("sub", _) => each2!(|a, b| a.wrapping_sub(b) & LOW),
            ("and", _) => each2!(|a, b| a & b & LOW),
            ("or", _) => each2!(|a, b| (a | b) & LOW),
            ("xor", _) => each2!(|a, b| (a ^ b) & LOW),
            ("min", true) => each2!(|a, b| u32::from((a as i16).min(b as i16) as u16)),
            ("min", false) => each2!(|a, b| (a & LOW).min(b & LOW)),
            ("max", true) => each2!(|a, b| u32::from((a as i16).max(b as i16) as u16)),
            ("max", false) => each2!(|a, b| (a & LOW).max(b & LOW)),
            ("div", true) => each2!(|a, b| match b as i16 {
                0 => LOW,
                b => u32::from((a as i16).wrapping_div(b) as u16),
            }),
            ("div", false) => each2!(|a, b| (a & LOW).checked_div(b & LOW).unwrap_or(LOW)),
            ("rem", true) => each2!(|a, b| match b as i16 {
                0 => a & LOW,
                b => u32::from((a as i16).wrapping_rem(b) as u16),
            }),
            ("rem", false) => each2!(|a, b| (a & LOW).checked_rem(b & LOW).unwrap_or(a & LOW)),
            _ => return form.unknown(),
        };
        Ok(Op::W2(f, d, a, b))
    }
}

/// A function of the lower and of the upper halves.
#[inline(always)]
fn halves(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    let low = f(a as u16, b as u16);
    let high = f((a >> 16) as u16, (b >> 16) as u16);
    u32::from(high) << 16 | u32::from(low)
}
