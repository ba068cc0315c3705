//! `mma` and the moves of matrices between registers and shared memory (PTX ISA, "Warp Level Matrix
//! Multiply-Accumulate Instructions").

use super::super::fragment::{Fragment, Shape, Side};
use super::super::op::{
    Element, FragmentAccess, Initial, LoadMatrix, Mma, Op, Slot, Space, StoreMatrix,
};
use super::memory::space_of;
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
        let packed = element.packed();
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
        Ok(Op::Mma(Box::new([mma])))
    }

    pub(super) fn wmma(&mut self, form: &Form<'_>) -> Result<Op> {
        let Some(shape) = form.modifiers.iter().find_map(|name| Shape::of(name)) else {
            return form.unknown();
        };
        match form.modifiers[0] {
            "mma" => self.wmma_product(form, shape),
            "load" => {
                let side = match form.modifiers[1] {
                    "a" => Side::A,
                    "b" => Side::B,
                    _ => Side::C,
                };
                let (fragment, is_f16) = fragment_in_memory(form, shape, side);
                let count = fragment.registers(is_f16);
                let slots = self.matrix_dests(form.operand(0)?, count)?;
                let access = self.fragment_access(form, 1, fragment, slots)?;
                Ok(Op::LoadFragment(Box::new(access)))
            }
            _ => {
                let (fragment, is_f16) = fragment_in_memory(form, shape, Side::C);
                let slots = self.fragment(form.operand(1)?, fragment.registers(is_f16))?;
                let access = self.fragment_access(form, 0, fragment, slots)?;
                Ok(Op::StoreFragment(Box::new(access)))
            }
        }
    }

    /// The rest of a `wmma.load` or `wmma.store` whose address is the operand `at`.
    fn fragment_access(
        &mut self,
        form: &Form<'_>,
        at: usize,
        fragment: Fragment,
        slots: Vec<Slot>,
    ) -> Result<FragmentAccess> {
        let stride = match form.operands().get(2) {
            Some(stride) => self.w(stride)?,
            None => self.w(&Operand::Int(fragment.extent() as u64))?,
        };
        Ok(FragmentAccess {
            fragment,
            slots,
            space: space_of(form),
            address: self.address(form.operand(at)?)?,
            stride,
        })
    }

    fn wmma_product(&mut self, form: &Form<'_>, shape: Shape) -> Result<Op> {
        let (element, half) = match form.modifiers[6..] {
            [d, c] => (Element::F16, [d == "f16", c == "f16"]),
            [_, "bf16", ..] => (Element::Bf16, [false; 2]),
            [_, "tf32", ..] => (Element::Tf32, [false; 2]),
            [_, a, ..] => (Element::Int8([a == "s8"; 2]), [false; 2]),
            _ => return form.unknown(),
        };
        // How memory has them does not matter.
        let fragment = |side, packed| Fragment {
            side,
            shape,
            packed,
            is_row_major: true,
        };
        let [a, b] = [Side::A, Side::B].map(|side| fragment(side, element.packed()));
        let [d, c] = half.map(|half| fragment(Side::C, 1 + usize::from(half)));
        let is_f16 = element == Element::F16;
        let d_slots = self.matrix_dests(form.operand(0)?, d.registers(is_f16))?;
        let a_slots = self.fragment(form.operand(1)?, a.registers(is_f16))?;
        let b_slots = self.fragment(form.operand(2)?, b.registers(is_f16))?;
        let c_slots = self.fragment(form.operand(3)?, c.registers(is_f16))?;
        let product = |index: usize| {
            let of =
                |fragment: &Fragment, slots: &[Slot]| slots[fragment.registers_of(index)].to_vec();
            let factors = [of(&a, &a_slots), of(&b, &b_slots)];
            let [first, second] = factors;
            let (a, b) = if shape.is_transposed() {
                (second, first)
            } else {
                (first, second)
            };
            Mma {
                d: of(&d, &d_slots),
                a,
                b,
                c: of(&c, &c_slots),
                element,
                half,
                saturate: form.has("satfinite"),
            }
        };
        Ok(Op::Mma(Box::new([product(0), product(1)])))
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

    fn matrix_dests(&mut self, operand: &Operand, count: usize) -> Result<Vec<Slot>> {
        let list = match operand {
            Operand::Vector(list) => list,
            operand => std::slice::from_ref(operand),
        };
        if list.len() != count {
            return Err(format!("the destination must have {count} registers"));
        }
        let dests = list.iter().map(|operand| {
            let dest = self.dest_w_or_sink(operand)?;
            Ok(dest.unwrap_or_else(|| self.constant_w(Initial::Sink)))
        });
        dests.collect()
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

/// The fragment of a `wmma.load` or `wmma.store`, and whether its elements are f16.
fn fragment_in_memory(form: &Form<'_>, shape: Shape, side: Side) -> (Fragment, bool) {
    let packed = match form.ty() {
        "f16" | "bf16" => 2,
        "s8" | "u8" => 4,
        _ => 1,
    };
    let is_row_major = form.has("row");
    let fragment = Fragment {
        side,
        shape,
        packed,
        is_row_major,
    };
    (fragment, form.ty() == "f16")
}
