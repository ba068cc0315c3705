//! Integer arithmetic, logic, shifts and bit fields (PTX ISA, "Integer Arithmetic", "Logic and Shift").

use super::super::op::{Lanes, Op, Reg, Wide, each1, each2, each3};
use super::{Context, Form, Result};

/// 16-bit results keep their upper halves clear.
const LOW: u32 = 0xffff;

impl Context<'_> {
    pub(super) fn integer(&mut self, form: &Form<'_>) -> Result<Op> {
        if form.opcode == "mul" || form.opcode == "mad" {
            return self.multiply(form);
        }
        form.only(&[
            "u16", "s16", "b16", "u32", "s32", "b32", "u64", "s64", "b64", "lo", "l", "r", "wrap",
            "clamp", "shiftamt", "f4e", "b4e", "rc8", "ecl", "ecr", "rc16", "sat",
        ])?;
        if form.has("sat") && !(matches!(form.opcode, "add" | "sub") && form.ty() == "s32") {
            return form.unknown();
        }
        match form.opcode {
            "shl" | "shr" => self.shift(form),
            "bfe" | "bfi" => self.bit_field(form),
            "clz" | "popc" | "bfind" => self.count_bits(form),
            "lop3" | "shf" | "prmt" => self.funnel(form),
            _ => match form.ty() {
                "u64" | "s64" | "b64" => self.wide(form),
                "u16" | "s16" | "b16" => self.short(form),
                _ => self.word(form),
            },
        }
    }

    fn word(&mut self, form: &Form<'_>) -> Result<Op> {
        let signed = form.ty() == "s32";
        let d = self.dest_w(form.operand(0)?)?;
        let a = self.w(form.operand(1)?)?;
        let unary: Option<fn(&mut Lanes, &Lanes)> = match form.opcode {
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
        let f: fn(&mut Lanes, &Lanes, &Lanes) = match (form.opcode, signed) {
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
        let unary: Option<fn(&mut Wide, &Wide)> = match form.opcode {
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
        let f: fn(&mut Wide, &Wide, &Wide) = match (form.opcode, signed) {
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
        let unary: Option<fn(&mut Lanes, &Lanes)> = match form.opcode {
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
        let f: fn(&mut Lanes, &Lanes, &Lanes) = match (form.opcode, signed) {
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

    fn multiply(&mut self, form: &Form<'_>) -> Result<Op> {
        form.only(&["lo", "hi", "wide", "u16", "s16", "u32", "s32", "u64", "s64"])?;
        let add = form.opcode == "mad";
        let ty = form.ty();
        let signed = ty.starts_with('s');
        let (o, long) = (form.operands(), matches!(ty, "u64" | "s64"));
        if o.len() != if add { 4 } else { 3 } {
            return form.unknown();
        }
        if form.has("wide") && matches!(ty, "u32" | "s32") {
            let (d, a, b) = (self.dest_d(&o[0])?, self.w(&o[1])?, self.w(&o[2])?);
            if !add {
                let f: fn(&mut Wide, &Lanes, &Lanes) = if signed {
                    each2!(|a, b| (i64::from(a as i32) * i64::from(b as i32)) as u64)
                } else {
                    each2!(|a, b| u64::from(a) * u64::from(b))
                };
                return Ok(Op::Widen2(f, d, a, b));
            }
            let c = self.d(&o[3])?;
            let f: fn(&mut Wide, &Lanes, &Lanes, &Wide) = if signed {
                each3!(
                    |a, b, c| ((i64::from(a as i32) * i64::from(b as i32)) as u64).wrapping_add(c)
                )
            } else {
                each3!(|a, b, c| (u64::from(a) * u64::from(b)).wrapping_add(c))
            };
            return Ok(Op::Widen2Add(f, d, a, b, c));
        }
        if long {
            let f: fn(&mut Wide, &Wide, &Wide, &Wide) = match (form.has("hi"), signed) {
                (false, _) => each3!(|a, b, c| a.wrapping_mul(b).wrapping_add(c)),
                (true, false) => {
                    each3!(|a, b, c| ((u128::from(a) * u128::from(b) >> 64) as u64).wrapping_add(c))
                }
                (true, true) => each3!(|a, b, c| {
                    let product = i128::from(a as i64) * i128::from(b as i64);
                    ((product >> 64) as u64).wrapping_add(c)
                }),
            };
            let (d, a, b) = (self.dest_d(&o[0])?, self.d(&o[1])?, self.d(&o[2])?);
            let zero = crate::ptx::ast::Operand::Int(0);
            let c = self.d(o.get(3).unwrap_or(&zero))?;
            return Ok(Op::D3(f, d, a, b, c));
        }
        let f: fn(&mut Lanes, &Lanes, &Lanes, &Lanes) = match (ty, form.has("wide"), form.has("hi"))
        {
            ("u16", true, _) => {
                each3!(|a, b, c| (a & LOW).wrapping_mul(b & LOW).wrapping_add(c))
            }
            ("s16", true, _) => each3!(|a, b, c| {
                (i32::from(a as i16) * i32::from(b as i16)).wrapping_add(c as i32) as u32
            }),
            ("u16" | "s16", false, false) => {
                each3!(|a, b, c| a.wrapping_mul(b).wrapping_add(c) & LOW)
            }
            ("u16", false, true) => {
                each3!(|a, b, c| ((a & LOW) * (b & LOW) >> 16).wrapping_add(c) & LOW)
            }
            ("s16", false, true) => each3!(|a, b, c| {
                let product = i32::from(a as i16) * i32::from(b as i16);
                ((product >> 16) as u32).wrapping_add(c) & LOW
            }),
            (_, false, false) => each3!(|a, b, c| a.wrapping_mul(b).wrapping_add(c)),
            ("u32", false, true) => {
                each3!(|a, b, c| ((u64::from(a) * u64::from(b) >> 32) as u32).wrapping_add(c))
            }
            ("s32", false, true) => each3!(|a, b, c| {
                let product = i64::from(a as i32) * i64::from(b as i32);
                ((product >> 32) as u32).wrapping_add(c)
            }),
            _ => return form.unknown(),
        };
        let (d, a, b) = (self.dest_w(&o[0])?, self.w(&o[1])?, self.w(&o[2])?);
        let zero = crate::ptx::ast::Operand::Int(0);
        let c = self.w(o.get(3).unwrap_or(&zero))?;
        Ok(Op::W3(f, d, a, b, c))
    }

    /// Counts past the width give 0, or the sign.
    fn shift(&mut self, form: &Form<'_>) -> Result<Op> {
        let count = self.w(form.operand(2)?)?;
        let left = form.opcode == "shl";
        if matches!(form.ty(), "b64" | "u64" | "s64") {
            let f: fn(&mut Wide, &Wide, &Lanes) = match (left, form.ty()) {
                (true, _) => each2!(|a, n| if n < 64 { a << n } else { 0 }),
                (false, "s64") => each2!(|a, n| (a as i64 >> n.min(63)) as u64),
                (false, _) => each2!(|a, n| if n < 64 { a >> n } else { 0 }),
            };
            let d = self.dest_d(form.operand(0)?)?;
            return Ok(Op::Shift64(f, d, self.d(form.operand(1)?)?, count));
        }
        let f: fn(&mut Lanes, &Lanes, &Lanes) = match (left, form.ty()) {
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

    fn count_bits(&mut self, form: &Form<'_>) -> Result<Op> {
        let d = self.dest_w(form.operand(0)?)?;
        let signed = form.ty().starts_with('s');
        let amount = form.has("shiftamt");
        if form.ty().ends_with("64") {
            let a = self.d(form.operand(1)?)?;
            let f: fn(&mut Lanes, &Wide) = match (form.opcode, signed, amount) {
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
        let f: fn(&mut Lanes, &Lanes) = match (form.opcode, signed, amount) {
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

    /// Position and length are taken from the low 8 bits.
    fn bit_field(&mut self, form: &Form<'_>) -> Result<Op> {
        let o = form.operands();
        let bits: u32 = if form.ty().ends_with("64") { 64 } else { 32 };
        let signed = form.ty().starts_with('s');
        let wide = bits == 64;
        let d = self.dest(form.operand(0)?)?;
        if form.opcode == "bfe" {
            let sources = vec![
                self.any(form.operand(1)?, wide)?,
                Reg::W(self.w(form.operand(2)?)?),
                Reg::W(self.w(form.operand(3)?)?),
            ];
            let f = move |s: &[u64; 4]| extract(s[0], s[1] as u8, s[2] as u8, bits, signed);
            return Ok(Op::Slow(Box::new(f), d, sources));
        }
        if o.len() != 5 {
            return form.unknown();
        }
        let sources = vec![
            self.any(&o[1], wide)?,
            self.any(&o[2], wide)?,
            Reg::W(self.w(&o[3])?),
            Reg::W(self.w(&o[4])?),
        ];
        let f = move |s: &[u64; 4]| insert(s[0], s[1], s[2] as u8, s[3] as u8, bits);
        Ok(Op::Slow(Box::new(f), d, sources))
    }

    fn funnel(&mut self, form: &Form<'_>) -> Result<Op> {
        let o = form.operands();
        let d = self.dest_w(form.operand(0)?)?;
        if form.opcode == "lop3" {
            let Some(crate::ptx::ast::Operand::Int(table)) = o.get(4) else {
                return form.unknown();
            };
            let table = *table as u8;
            let sources = [&o[1], &o[2], &o[3]].map(|o| self.w(o).map(Reg::W));
            let sources = sources.into_iter().collect::<Result<Vec<_>>>()?;
            let f =
                move |s: &[u64; 4]| u64::from(lop3(s[0] as u32, s[1] as u32, s[2] as u32, table));
            return Ok(Op::Slow(Box::new(f), Reg::W(d), sources));
        }
        let (a, b) = (self.w(form.operand(1)?)?, self.w(form.operand(2)?)?);
        let c = self.w(form.operand(3)?)?;
        let f: fn(&mut Lanes, &Lanes, &Lanes, &Lanes) = match form.opcode {
            "shf" if form.has("l") && form.has("wrap") => {
                each3!(|a, b, n| funnel_left(a, b, n & 31))
            }
            "shf" if form.has("l") && form.has("clamp") => {
                each3!(|a, b, n| funnel_left(a, b, n.min(32)))
            }
            "shf" if form.has("wrap") => each3!(|a, b, n| funnel_right(a, b, n & 31)),
            "shf" if form.has("clamp") => each3!(|a, b, n| funnel_right(a, b, n.min(32))),
            "prmt" if form.modifiers == ["b32"] => each3!(|a, b, c| permute(a, b, c)),
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

/// Any function of three bits: the table is indexed by a, b, c from high to low.
fn lop3(a: u32, b: u32, c: u32, table: u8) -> u32 {
    let mut result = 0;
    for (index, [x, y, z]) in [
        [0, 0, 0],
        [0, 0, 1],
        [0, 1, 0],
        [0, 1, 1],
        [1, 0, 0],
        [1, 0, 1],
        [1, 1, 0],
        [1, 1, 1],
    ]
    .into_iter()
    .enumerate()
    {
        if table >> index & 1 == 1 {
            let is = |value: u32, wanted: u32| if wanted == 1 { value } else { !value };
            result |= is(a, x) & is(b, y) & is(c, z);
        }
    }
    result
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
