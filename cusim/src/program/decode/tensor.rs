//! `mma` and the moves of matrices between registers and shared memory (PTX ISA, "Warp Level Matrix
//! Multiply-Accumulate Instructions").

use super::super::op::{Element, LoadMatrix, Mma, Op, Slot, Space, StoreMatrix};
use super::{Context, Form, Result};
use crate::ptx::ast::Operand;

impl Context<'_> {
    pub(super) fn mma(&mut self, form: &Form<'_>) -> Result<Op> {
        let ["sync", "aligned", shape, "row", "col", ref types @ ..] = form.modifiers[..] else {
            return form.unknown();
        };
        let (saturate, types) = match types {
            ["satfinite", types @ ..] => (true, types),
            types => (false, types),
        };
        let [d, a, b, c] = types else {
            return form.unknown();
        };
        let element = match (*a, *b) {
            ("f16", "f16") => Element::F16,
            ("bf16", "bf16") => Element::Bf16,
            ("tf32", "tf32") => Element::Tf32,
            ("s8" | "u8", "s8" | "u8") => Element::Int8([*a == "s8", *b == "s8"]),
            _ => return form.unknown(),
        };
        // Elements of a row of `a` that one register holds.
        let packed = match element {
            Element::F16 | Element::Bf16 => 2,
            Element::Tf32 => 1,
            Element::Int8(_) => 4,
        };
        let k = match (shape, packed) {
            ("m16n8k4", 1) => 4,
            ("m16n8k8", 1 | 2) => 8,
            ("m16n8k16", 2 | 4) => 16,
            ("m16n8k32", 4) => 32,
            _ => return form.unknown(),
        };
        let half = [*d == "f16", *c == "f16"];
        let accumulators = half.map(|half| if half { 2 } else { 4 });
        let mma = Mma {
            d: self.matrix_dests(form.operand(0)?, accumulators[0])?,
            a: self.fragment(form.operand(1)?, 16 * k / 32 / packed)?,
            b: self.fragment(form.operand(2)?, 8 * k / 32 / packed)?,
            c: self.fragment(form.operand(3)?, accumulators[1])?,
            element,
            half,
            saturate,
        };
        Ok(Op::Mma(Box::new(mma)))
    }

    pub(super) fn load_matrix(&mut self, form: &Form<'_>) -> Result<Op> {
        let (count, space) = self.matrix_shape(form)?;
        let load = LoadMatrix {
            dests: self.matrix_dests(form.operand(0)?, count)?,
            space,
            address: self.address(form.operand(1)?)?,
            transposed: form.has("trans"),
        };
        Ok(Op::LoadMatrix(Box::new(load)))
    }

    pub(super) fn store_matrix(&mut self, form: &Form<'_>) -> Result<Op> {
        let (count, space) = self.matrix_shape(form)?;
        let store = StoreMatrix {
            sources: self.fragment(form.operand(1)?, count)?,
            space,
            address: self.address(form.operand(0)?)?,
            transposed: form.has("trans"),
        };
        Ok(Op::StoreMatrix(Box::new(store)))
    }

    /// `movmatrix`: a transposition in registers.
    pub(super) fn move_matrix(&mut self, form: &Form<'_>) -> Result<Op> {
        let d = self.dest_w(form.operand(0)?)?;
        Ok(Op::MoveMatrix(d, self.w(form.operand(1)?)?))
    }

    /// How many 8x8 matrices of 16-bit elements.
    fn matrix_shape(&self, form: &Form<'_>) -> Result<(usize, Space)> {
        let count = match (form.has("x1"), form.has("x2"), form.has("x4")) {
            (true, false, false) => 1,
            (false, true, false) => 2,
            (false, false, true) => 4,
            _ => return form.unknown(),
        };
        let named = form.has("shared") || form.has("shared::cta");
        Ok((count, if named { Space::Shared } else { Space::Generic }))
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
