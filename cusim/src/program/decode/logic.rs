//! Shifts, bit fields, bit counts, three-input logic and byte permutation (PTX ISA, "Logic and Shift
//! Instructions", "Integer Arithmetic Instructions", "prmt").

use super::super::op::{Lanes, Lop3Set, Op, Reg, SetTo, W1, W2, W3, Wide};
use super::super::simd::{each1, each2, each3};
use super::{Context, Form, Result};
use crate::ptx::ast::Operand;

/// 16-bit results keep their upper halves clear.
const LOW: u32 = 0xffff;

impl Context<'_> {
    /// Counts past the width give 0, or the sign.
    pub(super) fn shift(&mut self, form: &Form<'_>) -> Result<Op> {
        let count = self.w(form.operand(2)?)?;
        let left = form.opcode == "shl";
        if matches!(form.ty(), "b64" | "u64" | "s64") {
            let f: fn(&Wide, &Lanes) -> Wide = match (left, form.ty()) {
                (true, _) => each2!(|a, n| if n < 64 { a << n } else { 0 }),
                (false, "s64") => each2!(|a, n| (a as i64 >> n.min(63)) as u64),
                (false, _) => each2!(|a, n| if n < 64 { a >> n } else { 0 }),
            };
            let d = self.dest_d(form.operand(0)?)?;
            return Ok(Op::Shift64(f, d, self.d(form.operand(1)?)?, count));
        }
        let f: W2 = match (left, form.ty()) {
            (true, "b16") => each2!(|a, n| if n < 16 { a << n & LOW } else { 0 }),
            (true, _) => each2!(|a, n| if n < 32 { a << n } else { 0 }),
            (false, "s16") => each2!(|a, n| u32::from((i32::from(a as i16) >> n.min(31)) as u16)),
            (false, "u16" | "b16") => each2!(|a, n| if n < 16 { (a & LOW) >> n } else { 0 }),
            (false, "s32") => each2!(|a, n| (a as i32 >> n.min(31)) as u32),
            (false, _) => each2!(|a, n| if n < 32 { a >> n } else { 0 }),
        };
        let d = self.dest_w(form.operand(0)?)?;
        Ok(Op::W2(f, d, self.w(form.operand(1)?)?, count))
    }

    pub(super) fn count_bits(&mut self, form: &Form<'_>) -> Result<Op> {
        let d = self.dest_w(form.operand(0)?)?;
        let signed = form.ty().starts_with('s');
        let amount = form.has("shiftamt");
        if form.ty().ends_with("64") {
            let a = self.d(form.operand(1)?)?;
            let f: fn(&Wide) -> Lanes = match (form.opcode, signed, amount) {
                ("popc", ..) => each1!(|a| a.count_ones()),
                ("clz", ..) => each1!(|a| a.leading_zeros()),
                (_, false, false) => each1!(|a| 63u32.wrapping_sub(a.leading_zeros())),
                (_, false, true) => each1!(|a| if a == 0 { u32::MAX } else { a.leading_zeros() }),
                (_, true, false) => each1!(|a| {
                    63u32.wrapping_sub((a ^ (a as i64 >> 63) as u64).leading_zeros())
                }),
                (_, true, true) => each1!(|a| {
                    let a = a ^ (a as i64 >> 63) as u64;
                    if a == 0 { u32::MAX } else { a.leading_zeros() }
                }),
            };
            return Ok(Op::Narrow(f, d, a));
        }
        let a = self.w(form.operand(1)?)?;
        let f: W1 = match (form.opcode, signed, amount) {
            ("popc", ..) => each1!(|a| a.count_ones()),
            ("clz", ..) => each1!(|a| a.leading_zeros()),
            (_, false, false) => each1!(|a| 31u32.wrapping_sub(a.leading_zeros())),
            (_, false, true) => each1!(|a| if a == 0 { u32::MAX } else { a.leading_zeros() }),
            (_, true, false) => {
                each1!(|a| 31u32.wrapping_sub((a ^ (a as i32 >> 31) as u32).leading_zeros()))
            }
            (_, true, true) => each1!(|a| {
                let a = a ^ (a as i32 >> 31) as u32;
                if a == 0 { u32::MAX } else { a.leading_zeros() }
            }),
        };
        Ok(Op::W1(f, d, a))
    }

    /// `bfe` and `bfi`: position and length are taken from the low 8 bits.
    pub(super) fn bit_field(&mut self, form: &Form<'_>) -> Result<Op> {
        let o = form.operands();
        let wide = form.ty().ends_with("64");
        let signed = form.ty().starts_with('s');
        if o.len() != if form.opcode == "bfe" { 4 } else { 5 } {
            return form.unknown();
        }
        if form.opcode == "bfe" && !wide {
            let f: W3 = if signed {
                each3!(|a, p, n| extract32(a, p & 0xff, n & 0xff, true))
            } else {
                each3!(|a, p, n| extract32(a, p & 0xff, n & 0xff, false))
            };
            let d = self.dest_w(&o[0])?;
            return Ok(Op::W3(f, d, self.w(&o[1])?, self.w(&o[2])?, self.w(&o[3])?));
        }
        let d = self.dest(&o[0])?;
        let bits = if wide { 64 } else { 32 };
        let values = o.len() - 2;
        let mut sources = Vec::new();
        for (at, operand) in o.iter().enumerate().skip(1) {
            sources.push(if at < values {
                self.any(operand, wide)?
            } else {
                Reg::W(self.w(operand)?)
            });
        }
        let f: super::super::op::Scalar = if form.opcode == "bfe" {
            Box::new(move |s| extract(s[0], s[1] as u8, s[2] as u8, bits, signed))
        } else {
            Box::new(move |s| insert(s[0], s[1], s[2] as u8, s[3] as u8, bits))
        };
        Ok(Op::Scalar(f, d, sources))
    }

    /// `szext` and `bmsk`.
    pub(super) fn bit_mask(&mut self, form: &Form<'_>) -> Result<Op> {
        let clamp = form.has("clamp");
        let signed = form.ty() == "s32";
        let limit = move |n: u64| if clamp { n.min(32) } else { n & 31 } as u32;
        if form.opcode == "bmsk" {
            return self.scalar(form, move |s| {
                let (first, count) = (limit(s[0]), limit(s[1]));
                let ones = (1u64 << count) - 1;
                ones << first & 0xffff_ffff
            });
        }
        self.scalar(form, move |s| {
            let (a, n) = (s[0] as u32, limit(s[1]));
            let unused = 32 - n;
            let extended = match (n, signed) {
                (0, _) => 0,
                (_, true) => ((a << unused) as i32 >> unused) as u32,
                (_, false) => a << unused >> unused,
            };
            extended.into()
        })
    }

    /// `fns`: the position of the n-th set bit from a base, upwards or downwards.
    pub(super) fn find_nth(&mut self, form: &Form<'_>) -> Result<Op> {
        self.scalar(form, |s| {
            let (mask, base, offset) = (s[0] as u32, s[1] as u32, s[2] as i32);
            let is_set = |at: &u32| mask >> at & 1 == 1;
            let found = match offset {
                0 => Some(base).filter(|&at| at < 32 && is_set(&at)),
                1.. => (base..32).filter(is_set).nth(offset as usize - 1),
                _ => (0..=base.min(31))
                    .rev()
                    .filter(is_set)
                    .nth(offset.unsigned_abs() as usize - 1),
            };
            found.unwrap_or(u32::MAX).into()
        })
    }

    /// `lop3`, with a predicate or without.
    pub(super) fn lop3(&mut self, form: &Form<'_>) -> Result<Op> {
        let [d, a, b, c, Operand::Int(table), ..] = form.operands() else {
            return form.unknown();
        };
        let table = *table as u8;
        let sources = [self.w(a)?, self.w(b)?, self.w(c)?];
        if let ["b32"] = form.modifiers[..] {
            return Ok(Op::Lop3(table, self.dest_w(d)?, sources));
        }
        let (Operand::Pair(d, p), Some(combine)) = (d, self.combination(form, &form.modifiers, 5)?)
        else {
            return form.unknown();
        };
        let dest = self.dest_w_or_sink(d)?;
        let is_set = SetTo {
            dest: self.dest_p(p)?,
            value: None,
            complement: None,
            combine: Some(combine),
        };
        Ok(Op::Lop3Set(Box::new(Lop3Set {
            table,
            dest,
            sources,
            is_set,
        })))
    }

    pub(super) fn funnel(&mut self, form: &Form<'_>) -> Result<Op> {
        let d = self.dest_w(form.operand(0)?)?;
        let (a, b) = (self.w(form.operand(1)?)?, self.w(form.operand(2)?)?);
        let c = self.w(form.operand(3)?)?;
        let f: W3 = match form.opcode {
            "shf" if form.has("l") && form.has("wrap") => {
                each3!(|a, b, n| funnel_left(a, b, n & 31))
            }
            "shf" if form.has("l") && form.has("clamp") => {
                each3!(|a, b, n| funnel_left(a, b, n.min(32)))
            }
            "shf" if form.has("wrap") => each3!(|a, b, n| funnel_right(a, b, n & 31)),
            "shf" if form.has("clamp") => each3!(|a, b, n| funnel_right(a, b, n.min(32))),
            "prmt" => match form.modifiers[..] {
                ["b32"] => each3!(|a, b, c| permute(a, b, c)),
                ["b32", "f4e"] => each3!(|a, b, c| permute(
                    a,
                    b,
                    [0x3210, 0x4321, 0x5432, 0x6543][c as usize & 3]
                )),
                ["b32", "b4e"] => each3!(|a, b, c| permute(
                    a,
                    b,
                    [0x5670, 0x6701, 0x7012, 0x0123][c as usize & 3]
                )),
                ["b32", "rc8"] => each3!(|a, b, c| permute(a, b, (c & 3) * 0x1111)),
                ["b32", "ecl"] => each3!(|a, b, c| permute(
                    a,
                    b,
                    [0x3210, 0x3211, 0x3222, 0x3333][c as usize & 3]
                )),
                ["b32", "ecr"] => each3!(|a, b, c| permute(
                    a,
                    b,
                    [0x0000, 0x1110, 0x2210, 0x3210][c as usize & 3]
                )),
                ["b32", "rc16"] => each3!(|a, b, c| permute(
                    a,
                    b,
                    [0x1010, 0x3232, 0x1010, 0x3232][c as usize & 3]
                )),
                _ => return form.unknown(),
            },
            _ => return form.unknown(),
        };
        Ok(Op::W3(f, d, a, b, c))
    }
}

/// The upper word of {b, a} shifted left.
fn funnel_left(a: u32, b: u32, n: u32) -> u32 {
    let pair = u64::from(b) << 32 | u64::from(a);
    (pair << n >> 32) as u32
}

/// The lower word of {b, a} shifted right.
fn funnel_right(a: u32, b: u32, n: u32) -> u32 {
    let pair = u64::from(b) << 32 | u64::from(a);
    (pair >> n) as u32
}

/// `prmt` in its default mode: each selector picks a byte of {b, a}, or its replicated sign.
fn permute(a: u32, b: u32, selectors: u32) -> u32 {
    let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
    let mut result = [0; 4];
    for (at, byte) in result.iter_mut().enumerate() {
        let selector = selectors >> (4 * at) & 0xf;
        let chosen = bytes[selector as usize & 7];
        *byte = if selector & 8 == 0 {
            chosen
        } else {
            (chosen as i8 >> 7) as u8
        };
    }
    u32::from_le_bytes(result)
}

/// `bfe` of a word, in operations that vectorise; position and length are below 256.
#[inline(always)]
fn extract32(a: u32, position: u32, length: u32, signed: bool) -> u32 {
    let wide = if signed {
        i64::from(a as i32)
    } else {
        i64::from(a)
    };
    // Beyond the word come copies of its sign, or zeros.
    let shifted = wide >> position.min(63);
    let unused = 64 - length.min(64);
    let result = match (length, signed) {
        (0, _) => 0,
        (_, true) => shifted << (unused & 63) >> (unused & 63),
        (_, false) => ((shifted as u64) << (unused & 63) >> (unused & 63)) as i64,
    };
    result as u32
}

/// `bfe`: bits [position, position + length), sign-extended from the last bit inside the word.
fn extract(a: u64, position: u8, length: u8, bits: u32, signed: bool) -> u64 {
    let (position, length) = (u32::from(position), u32::from(length));
    let sign_at = (position + length).saturating_sub(1).min(bits - 1);
    let sign = signed && length > 0 && a >> sign_at & 1 == 1;
    let mut result = 0;
    for at in 0..bits {
        let bit = match at < length && position + at < bits {
            true => a >> (position + at) & 1 == 1,
            false => sign,
        };
        result |= u64::from(bit) << at;
    }
    result
}

/// `bfi`: `b` with bits [position, position + length) replaced by the low bits of `a`.
fn insert(a: u64, b: u64, position: u8, length: u8, bits: u32) -> u64 {
    let (position, length) = (u32::from(position), u32::from(length));
    let mut result = b;
    for at in 0..length {
        let to = position + at;
        if to < bits {
            result = result & !(1 << to) | (a >> at & 1) << to;
        }
    }
    result
}
