//! SIMD video instructions: two halves or four bytes of a word at once (PTX ISA, "SIMD Video Instructions"). Forms that choose
//! parts of registers or mask the result are not executed.

use super::super::op::Op;
use super::multiply::part;
use super::{Context, Form, Result};

impl Context<'_> {
    pub(super) fn video(&mut self, form: &Form<'_>) -> Result<Op> {
        let parts = if form.opcode.ends_with('2') { 2 } else { 4 };
        let bits = 32 / parts;
        let (adds, saturates) = (form.has("add"), form.has("sat"));
        let (d_signed, types) = match form.modifiers[..] {
            [a, b, comparison, ..] if form.opcode.starts_with("vset") => {
                (false, [a, b, comparison])
            }
            [d, a, b, ..] => (d == "s32", [a, b, ""]),
            _ => return form.unknown(),
        };
        let [a_signed, b_signed, _] = types.map(|ty| ty == "s32");
        let f: fn(i128, i128) -> i128 = match (&form.opcode[..form.opcode.len() - 1], types[2]) {
            ("vadd", _) => |a, b| a + b,
            ("vsub", _) => |a, b| a - b,
            // Halves are rounded away from zero.
            ("vavrg", _) => |a, b| (a + b + i128::from(a + b >= 0)) >> 1,
            ("vabsdiff", _) => |a, b| (a - b).abs(),
            ("vmin", _) => i128::min,
            ("vmax", _) => i128::max,
            (_, "eq") => |a, b| (a == b).into(),
            (_, "ne") => |a, b| (a != b).into(),
            (_, "lt") => |a, b| (a < b).into(),
            (_, "le") => |a, b| (a <= b).into(),
            (_, "gt") => |a, b| (a > b).into(),
            _ => |a, b| (a >= b).into(),
        };
        let limits = if d_signed {
            (-1 << (bits - 1), (1 << (bits - 1)) - 1)
        } else {
            (0, (1 << bits) - 1)
        };
        self.scalar(form, move |s| {
            let mut result = if adds { s[2] as u32 } else { 0 };
            for at in 0..parts {
                let [a, b] = [(s[0], a_signed), (s[1], b_signed)]
                    .map(|(word, signed)| part(word, bits * at, bits, signed));
                let value = f(a, b);
                let value = if saturates {
                    value.clamp(limits.0, limits.1)
                } else {
                    value
                };
                result = if adds {
                    result.wrapping_add(value as u32)
                } else {
                    result | (value as u32 & u32::MAX >> (32 - bits)) << (bits * at)
                };
            }
            result.into()
        })
    }
}
