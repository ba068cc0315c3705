//! `mov`, `cvta`, `isspacep`, `mapa` (PTX ISA, "Data Movement and Conversion").

use super::super::op::{Initial, Op, Reg, SetTo, Wide};
use super::super::simd::{each1, each2, mask2};
use super::super::window;
use super::operand::window_of;
use super::{Context, Form, Result};
use crate::ptx::ast::Operand;

impl Context<'_> {
    pub(super) fn mov(&mut self, form: &Form<'_>) -> Result<Op> {
        let [ty] = form.modifiers[..] else {
            return form.unknown();
        };
        let (to, from) = (form.operand(0)?, form.operand(1)?);
        match (to, from) {
            (Operand::Vector(parts), _) => return self.split(form, parts, from),
            (_, Operand::Vector(parts)) => return self.join(form, to, parts),
            _ => {}
        }
        if ty == "pred" {
            let d = self
                .dest_p(to)?
                .ok_or("the destination must be a predicate")?;
            return match from {
                Operand::Int(0) => Ok(Op::P2(|_, _| 0, d, (d, false), (d, false))),
                Operand::Int(_) => Ok(Op::P2(|_, _| u32::MAX, d, (d, false), (d, false))),
                _ => {
                    let a = self.pred(from)?;
                    Ok(Op::P2(|a, _| a, d, a, a))
                }
            };
        }
        if let Operand::Special(name) = from
            && (name.starts_with("%clock") || name.starts_with("%globaltimer"))
        {
            return Ok(Op::Clock(self.dest(to)?));
        }
        match self.dest(to)? {
            Reg::W(d) => Ok(Op::W1(|a| *a, d, self.w(from)?)),
            Reg::D(d) => match from {
                // Special registers have 32 bits, whatever they are moved to.
                Operand::Special(_) => {
                    let a = self.w(from)?;
                    Ok(Op::Widen(each1!(|a| u64::from(a)), d, a))
                }
                _ => Ok(Op::D1(|a| *a, d, self.d(from)?)),
            },
        }
    }

    /// `mov.b64 {lo, hi}, d` and the like.
    fn split(&mut self, form: &Form<'_>, parts: &[Operand], from: &Operand) -> Result<Op> {
        let (wide, bits) = self.parts(form, parts)?;
        let source = self.any(from, wide)?;
        let parts = parts.iter().map(|part| self.dest_or_sink(part));
        Ok(Op::Split(parts.collect::<Result<_>>()?, bits, source))
    }

    /// `mov.b64 d, {lo, hi}` and the like.
    fn join(&mut self, form: &Form<'_>, to: &Operand, parts: &[Operand]) -> Result<Op> {
        let (_, bits) = self.parts(form, parts)?;
        let dest = self.dest(to)?;
        if let (Reg::D(d), [lo, hi]) = (dest, parts) {
            let (lo, hi) = (self.w(lo)?, self.w(hi)?);
            let f: fn(&[u32; 32], &[u32; 32]) -> Wide =
                each2!(|lo, hi| u64::from(hi) << 32 | u64::from(lo));
            return Ok(Op::Widen2(f, d, lo, hi));
        }
        let parts = parts.iter().map(|part| self.w(part).map(Reg::W));
        Ok(Op::Join(dest, bits, parts.collect::<Result<_>>()?))
    }

    /// Whether a vector `mov` is of 64 bits, and the bits of each part.
    fn parts(&self, form: &Form<'_>, parts: &[Operand]) -> Result<(bool, u32)> {
        let bits: u32 = match form.ty() {
            "b64" | "u64" | "s64" | "f64" => 64,
            "b32" | "u32" | "s32" | "f32" => 32,
            "b16" | "u16" | "s16" => 16,
            _ => return form.unknown(),
        };
        match parts.len() {
            2 | 4 => Ok((bits == 64, bits / parts.len() as u32)),
            _ => form.unknown(),
        }
    }

    /// Windows of generic addressing are where `window` says.
    pub(super) fn cvta(&mut self, form: &Form<'_>) -> Result<Op> {
        let to = form.has("to");
        let space = form.modifiers.iter().copied().find_map(window_of);
        let Some(base) = space else {
            return form.unknown();
        };
        match (form.ty(), to) {
            ("u64", false) => {
                let d = self.dest_d(form.operand(0)?)?;
                let a = self.d(form.operand(1)?)?;
                let base = self.constant_d(Initial::Value(base));
                Ok(Op::D2(each2!(|a, base| a.wrapping_add(base)), d, a, base))
            }
            ("u64", true) => {
                let d = self.dest_d(form.operand(0)?)?;
                let a = self.d(form.operand(1)?)?;
                let base = self.constant_d(Initial::Value(base));
                Ok(Op::D2(each2!(|a, base| a.wrapping_sub(base)), d, a, base))
            }
            _ => form.unknown(),
        }
    }

    pub(super) fn isspacep(&mut self, form: &Form<'_>) -> Result<Op> {
        let to = SetTo {
            dest: self.dest_p(form.operand(0)?)?,
            value: None,
            complement: None,
            combine: None,
        };
        let a = self.d(form.operand(1)?)?;
        let test: fn(&Wide, &Wide) -> u32 = match form.ty() {
            "shared" | "shared::cta" | "shared::cluster" => {
                mask2!(|a, _b| in_window(a, window::SHARED))
            }
            "local" => mask2!(|a, _b| in_window(a, window::LOCAL)),
            "param" | "param::entry" => mask2!(|a, _b| in_window(a, window::PARAM)),
            // Parameters of a kernel are in the window of global memory.
            "global" => {
                mask2!(|a, _b| a >= crate::memory::GLOBAL_BASE || in_window(a, window::PARAM))
            }
            // Constant variables lie in global memory.
            "const" => mask2!(|_a, _b| false),
            _ => return form.unknown(),
        };
        Ok(Op::SetD(test, a, a, to))
    }
}

fn in_window(address: u64, base: u64) -> bool {
    address.wrapping_sub(base) < window::SIZE
}
