//! `mov`, `cvta`, `isspacep` (PTX ISA, "Data Movement and Conversion").

use super::super::op::{Lanes, Op, Reg, SetTo, Wide, each1, each2, mask2};
use super::super::window;
use super::{Context, Form, Result, window_of};
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
                Operand::Int(value) if *value != 0 => Ok(Op::P2(|_, _| u32::MAX, d, d, d)),
                Operand::Int(_) => Ok(Op::P2(|_, _| 0, d, d, d)),
                _ => match self.pred(from)? {
                    (a, false) => Ok(Op::P2(|a, _| a, d, a, a)),
                    (a, true) => Ok(Op::P2(|a, _| !a, d, a, a)),
                },
            };
        }
        if let Operand::Special(name) = from
            && (name.starts_with("%clock") || name.starts_with("%globaltimer"))
        {
            return Ok(Op::Clock(self.dest(to)?));
        }
        let copy: fn(&mut Lanes, &Lanes) = |d, a| *d = *a;
        match self.dest(to)? {
            Reg::W(d) => Ok(Op::W1(copy, d, self.w(from)?)),
            Reg::D(d) => match from {
                // Special registers have 32 bits, whatever they are moved to.
                Operand::Special(_) => {
                    let a = self.w(from)?;
                    Ok(Op::Widen(each1!(|a| u64::from(a)), d, a))
                }
                _ => Ok(Op::D1(|d: &mut Wide, a: &Wide| *d = *a, d, self.d(from)?)),
            },
        }
    }

    /// `mov.b64 {lo, hi}, d` and `mov.b32 {lo, hi}, w`.
    fn split(&mut self, form: &Form<'_>, parts: &[Operand], from: &Operand) -> Result<Op> {
        let [lo, hi] = parts else {
            return form.unknown();
        };
        let part = |operand: &Operand| match self.dest_or_sink(operand)? {
            None => Ok(None),
            Some(Reg::W(slot)) => Ok(Some(slot)),
            Some(Reg::D(_)) => form.unknown(),
        };
        let parts = [part(lo)?, part(hi)?];
        match form.ty() {
            "b64" => Ok(Op::Split64(parts, self.d(from)?)),
            "b32" => Ok(Op::Split32(parts, self.w(from)?)),
            _ => form.unknown(),
        }
    }

    /// `mov.b64 d, {lo, hi}` and `mov.b32 w, {lo, hi}`.
    fn join(&mut self, form: &Form<'_>, to: &Operand, parts: &[Operand]) -> Result<Op> {
        let [lo, hi] = parts else {
            return form.unknown();
        };
        let (lo, hi) = (self.w(lo)?, self.w(hi)?);
        match form.ty() {
            "b64" => {
                let f: fn(&mut Wide, &Lanes, &Lanes) =
                    each2!(|lo, hi| u64::from(hi) << 32 | u64::from(lo));
                Ok(Op::Widen2(f, self.dest_d(to)?, lo, hi))
            }
            "b32" => {
                let f: fn(&mut Lanes, &Lanes, &Lanes) = each2!(|lo, hi| hi << 16 | lo & 0xffff);
                Ok(Op::W2(f, self.dest_w(to)?, lo, hi))
            }
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
                let base = self.constant_d(super::super::op::Initial::Value(base));
                Ok(Op::D2(each2!(|a, base| a.wrapping_add(base)), d, a, base))
            }
            ("u64", true) => {
                let d = self.dest_d(form.operand(0)?)?;
                let a = self.d(form.operand(1)?)?;
                let base = self.constant_d(super::super::op::Initial::Value(base));
                Ok(Op::D2(each2!(|a, base| a.wrapping_sub(base)), d, a, base))
            }
            _ => form.unknown(),
        }
    }

    pub(super) fn isspacep(&mut self, form: &Form<'_>) -> Result<Op> {
        let to = SetTo {
            dest: self.dest_p(form.operand(0)?)?,
            complement: None,
            combine: None,
        };
        let a = self.d(form.operand(1)?)?;
        let test: fn(&Wide, &Wide) -> u32 = match form.ty() {
            "shared" | "shared::cta" => mask2!(|a, _b| in_window(a, window::SHARED)),
            "local" => mask2!(|a, _b| in_window(a, window::LOCAL)),
            "param" | "param::entry" => mask2!(|a, _b| in_window(a, window::PARAM)),
            "global" => mask2!(|a, _b| a >= crate::memory::GLOBAL_BASE),
            _ => return form.unknown(),
        };
        Ok(Op::SetD(test, a, a, to))
    }
}

fn in_window(address: u64, base: u64) -> bool {
    address.wrapping_sub(base) < window::SIZE
}
