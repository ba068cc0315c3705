//! `mma` and `ldmatrix` (PTX ISA, "Warp Level Matrix Multiply-Accumulate Instructions").

use super::super::op::{LoadMatrix, Mma, Op, Slot};
use super::{Context, Form, Result};
use crate::ptx::ast::Operand;

impl Context<'_> {
    pub(super) fn mma(&mut self, form: &Form<'_>) -> Result<Op> {
        let ["sync", "aligned", shape, "row", "col", d, a, b, c] = form.modifiers[..] else {
            return form.unknown();
        };
        let k = match shape {
            "m16n8k16" => 16,
            "m16n8k8" => 8,
            _ => return form.unknown(),
        };
        if a != b || c != d || !matches!((d, a), ("f32", "f16" | "bf16") | ("f16", "f16")) {
            return form.unknown();
        }
        let accumulators = if d == "f16" { 2 } else { 4 };
        let mma = Mma {
            d: self.matrix_dests(form.operand(0)?, accumulators)?,
            a: self.fragment(form.operand(1)?, k / 4)?,
            b: self.fragment(form.operand(2)?, k / 8)?,
            c: self.fragment(form.operand(3)?, accumulators)?,
            bf16: a == "bf16",
            half_accumulator: d == "f16",
        };
        Ok(Op::Mma(Box::new(mma)))
    }

    /// The shape may stand before or after the other modifiers.
    pub(super) fn ldmatrix(&mut self, form: &Form<'_>) -> Result<Op> {
        form.only(&[
            "sync",
            "aligned",
            "m8n8",
            "x1",
            "x2",
            "x4",
            "trans",
            "shared",
            "shared::cta",
            "b16",
        ])?;
        let count = match (form.has("x1"), form.has("x2"), form.has("x4")) {
            (true, false, false) => 1,
            (false, true, false) => 2,
            (false, false, true) => 4,
            _ => return form.unknown(),
        };
        let load = LoadMatrix {
            dests: self.matrix_dests(form.operand(0)?, count)?,
            address: self.address(form.operand(1)?)?,
            transposed: form.has("trans"),
        };
        Ok(Op::LoadMatrix(Box::new(load)))
    }

    fn matrix_dests(&self, operand: &Operand, count: usize) -> Result<Vec<Slot>> {
        let list = match operand {
            Operand::Vector(list) => list,
            operand => std::slice::from_ref(operand),
        };
        if list.len() != count {
            return Err(format!("the destination must have {count} registers"));
        }
        list.iter().map(|operand| self.dest_w(operand)).collect()
    }

    fn fragment(&mut self, operand: &Operand, count: usize) -> Result<Vec<Slot>> {
        let list = match operand {
            Operand::Vector(list) => list,
            operand => std::slice::from_ref(operand),
        };
        if list.len() != count {
            return Err(format!("the fragment must have {count} registers"));
        }
        list.iter().map(|operand| self.w(operand)).collect()
    }
}
