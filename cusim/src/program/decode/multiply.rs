//! Products and what is built of them: `mul`, `mad`, `mul24`, `mad24`, `sad`, `dp4a`, `dp2a` (PTX ISA,
//! "Integer Arithmetic Instructions"), and arithmetic with carry ("Extended-Precision Integer Arithmetic").

use super::super::op::{Carry, D3, Lanes, Op, W3, Wide};
use super::super::simd::{each2, each3};
use super::{Context, Form, Result};
use crate::ptx::ast::Operand;

/// 16-bit results keep their upper halves clear.
const LOW: u32 = 0xffff;

/// Some bits of a word, as a number.
pub(super) fn part(word: u64, first: u32, bits: u32, signed: bool) -> i128 {
    let high = word << (64 - bits - first);
    let unused = 64 - bits;
    if signed {
        (high as i64 >> unused).into()
    } else {
        (high >> unused).into()
    }
}

impl Context<'_> {
    pub(super) fn multiply(&mut self, form: &Form<'_>) -> Result<Op> {
        if form.has("sat") {
            return self.multiply_saturated(form);
        }
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
                let f: fn(&Lanes, &Lanes) -> Wide = if signed {
                    each2!(|a, b| (i64::from(a as i32) * i64::from(b as i32)) as u64)
                } else {
                    each2!(|a, b| u64::from(a) * u64::from(b))
                };
                return Ok(Op::Widen2(f, d, a, b));
            }
            let c = self.d(&o[3])?;
            let f: fn(&Lanes, &Lanes, &Wide) -> Wide = if signed {
                each3!(
                    |a, b, c| ((i64::from(a as i32) * i64::from(b as i32)) as u64).wrapping_add(c)
                )
            } else {
                each3!(|a, b, c| (u64::from(a) * u64::from(b)).wrapping_add(c))
            };
            return Ok(Op::Widen2Add(f, d, a, b, c));
        }
        if long {
            let f: D3 = match (form.has("hi"), signed) {
                (false, _) => each3!(|a, b, c| a.wrapping_mul(b).wrapping_add(c)),
                (true, false) => {
                    each3!(
                        |a, b, c| (((u128::from(a) * u128::from(b)) >> 64) as u64).wrapping_add(c)
                    )
                }
                (true, true) => each3!(|a, b, c| {
                    let product = i128::from(a as i64) * i128::from(b as i64);
                    ((product >> 64) as u64).wrapping_add(c)
                }),
            };
            let (d, a, b) = (self.dest_d(&o[0])?, self.d(&o[1])?, self.d(&o[2])?);
            let zero = Operand::Int(0);
            let c = self.d(o.get(3).unwrap_or(&zero))?;
            return Ok(Op::D3(f, d, a, b, c));
        }
        let f: W3 = match (ty, form.has("wide"), form.has("hi")) {
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
                each3!(|a, b, c| (((a & LOW) * (b & LOW)) >> 16).wrapping_add(c) & LOW)
            }
            ("s16", false, true) => each3!(|a, b, c| {
                let product = i32::from(a as i16) * i32::from(b as i16);
                ((product >> 16) as u32).wrapping_add(c) & LOW
            }),
            (_, false, false) => each3!(|a, b, c| a.wrapping_mul(b).wrapping_add(c)),
            ("u32", false, true) => {
                each3!(|a, b, c| (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c))
            }
            ("s32", false, true) => each3!(|a, b, c| {
                let product = i64::from(a as i32) * i64::from(b as i32);
                ((product >> 32) as u32).wrapping_add(c)
            }),
            _ => return form.unknown(),
        };
        let (d, a, b) = (self.dest_w(&o[0])?, self.w(&o[1])?, self.w(&o[2])?);
        let zero = Operand::Int(0);
        let c = self.w(o.get(3).unwrap_or(&zero))?;
        Ok(Op::W3(f, d, a, b, c))
    }

    /// `mad.hi.sat.s32`
    fn multiply_saturated(&mut self, form: &Form<'_>) -> Result<Op> {
        self.scalar(form, |s| {
            let product = i64::from(s[0] as i32) * i64::from(s[1] as i32);
            let sum = ((product >> 32) as i32).saturating_add(s[2] as i32);
            u64::from(sum as u32)
        })
    }

    /// `mul24`, `mad24`: of the low 24 bits.
    pub(super) fn multiply24(&mut self, form: &Form<'_>) -> Result<Op> {
        let (signed, high, sat) = (form.ty() == "s32", form.has("hi"), form.has("sat"));
        self.scalar(form, move |s| {
            let product = part(s[0], 0, 24, signed) * part(s[1], 0, 24, signed);
            let word = if high { product >> 16 } else { product } as u32;
            let sum = if sat {
                (word as i32).saturating_add(s[2] as i32) as u32
            } else {
                word.wrapping_add(s[2] as u32)
            };
            sum.into()
        })
    }

    /// `sad`: c + |a - b|.
    pub(super) fn absolute_difference(&mut self, form: &Form<'_>) -> Result<Op> {
        let bits: u32 = form.ty()[1..].parse().unwrap_or(64);
        let signed = form.ty().starts_with('s');
        self.scalar(form, move |s| {
            let difference = part(s[0], 0, bits, signed) - part(s[1], 0, bits, signed);
            let sum = s[2].wrapping_add(difference.unsigned_abs() as u64);
            sum & u64::MAX >> (64 - bits)
        })
    }

    /// `dp4a` and `dp2a`: a sum of products of bytes with bytes or halves.
    pub(super) fn dot_product(&mut self, form: &Form<'_>) -> Result<Op> {
        let (high, types) = match (form.opcode, &form.modifiers[..]) {
            ("dp4a", types) => (false, types),
            (_, ["lo", types @ ..]) => (false, types),
            (_, ["hi", types @ ..]) => (true, types),
            _ => return form.unknown(),
        };
        let [a_type @ ("u32" | "s32"), b_type @ ("u32" | "s32")] = types else {
            return form.unknown();
        };
        let (a_signed, b_signed) = (*a_type == "s32", *b_type == "s32");
        let parts = if form.opcode == "dp4a" { 4 } else { 2 };
        let first = if high { 16 } else { 0 };
        self.scalar(form, move |s| {
            let products = (0..parts).map(|at| {
                let a = part(s[0], 32 / parts * at, 32 / parts, a_signed);
                a * part(s[1], first + 8 * at, 8, b_signed)
            });
            u64::from((s[2] as u32).wrapping_add(products.sum::<i128>() as u32))
        })
    }

    /// `add.cc`, `addc`, `sub.cc`, `subc`, `mad.cc`, `madc`. The flag is the carry of the adder, of a subtraction that of
    /// a + ~b + 1, which is set where nothing was borrowed: so ptxas compiles them for every architecture, and the compiler's own
    /// division of 128 bits reads it with `addc`. The ISA (9.7.2) calls it carry or borrow and does not say how they mix.
    pub(super) fn carried(&mut self, form: &Form<'_>) -> Result<Op> {
        let wide = form.ty().ends_with("64");
        let reads = form.opcode.ends_with('c');
        let high = form.has("hi");
        let signed = form.ty().starts_with('s');
        let f: fn(&[u64; 3], bool) -> (u64, bool) = match (form.opcode, wide, high, signed) {
            ("add" | "addc", false, ..) => |s, carry| add_carry(s[0], s[1], carry, 32),
            ("add" | "addc", true, ..) => |s, carry| add_carry(s[0], s[1], carry, 64),
            ("sub", false, ..) => |s, _| add_carry(s[0], !s[1] & 0xffff_ffff, true, 32),
            ("sub", true, ..) => |s, _| add_carry(s[0], !s[1], true, 64),
            ("subc", false, ..) => |s, carry| add_carry(s[0], !s[1] & 0xffff_ffff, carry, 32),
            ("subc", true, ..) => |s, carry| add_carry(s[0], !s[1], carry, 64),
            (_, false, false, _) => {
                |s, carry| add_carry(s[0].wrapping_mul(s[1]) & 0xffff_ffff, s[2], carry, 32)
            }
            (_, true, false, _) => |s, carry| add_carry(s[0].wrapping_mul(s[1]), s[2], carry, 64),
            (_, false, true, false) => |s, carry| add_carry((s[0] * s[1]) >> 32, s[2], carry, 32),
            (_, false, true, true) => |s, carry| {
                let product = i64::from(s[0] as i32) * i64::from(s[1] as i32);
                add_carry((product >> 32) as u64 & 0xffff_ffff, s[2], carry, 32)
            },
            (_, true, true, false) => |s, carry| {
                let product = u128::from(s[0]) * u128::from(s[1]);
                add_carry((product >> 64) as u64, s[2], carry, 64)
            },
            (_, true, true, true) => |s, carry| {
                let product = i128::from(s[0] as i64) * i128::from(s[1] as i64);
                add_carry((product >> 64) as u64, s[2], carry, 64)
            },
        };
        let sources = form.operands()[1..].iter();
        let sources = sources.map(|operand| self.any(operand, wide));
        let sources = sources.collect::<Result<Vec<_>>>()?;
        let carry = Carry {
            f,
            reads,
            dest: self.dest(form.operand(0)?)?,
            sources,
            writes: form.has("cc"),
        };
        Ok(Op::Carry(Box::new(carry)))
    }
}

fn add_carry(a: u64, b: u64, carry: bool, bits: u32) -> (u64, bool) {
    let sum = u128::from(a) + u128::from(b) + u128::from(carry);
    let result = if bits == 32 {
        sum as u64 & 0xffff_ffff
    } else {
        sum as u64
    };
    (result, sum >> bits != 0)
}
