//! What is known of a floating-point instruction beyond what it computes: its operands, and how far from the
//! exact result hardware may be.

use super::super::op::{Approximate, Bound, FloatOperand, FloatType, Numeric, Reg};
use super::{Context, Form, Result};
use crate::ptx::ast::Operand;

/// Bounds of the PTX ISA, by the sections of the instructions under "Floating-Point Instructions" and
/// "Half Precision Floating-Point Instructions". Approximations in f64 are not moved: what the ISA says of them
/// is not about values.
fn approximate(form: &Form<'_>, ty: FloatType) -> Option<Approximate> {
    use FloatType::{Bf16, Bf16x2, F16, F16x2, F32};
    let power = |exponent: f64| exponent.exp2();
    let coarse = form.has("approx") || form.has("full");
    let (function, bound): (fn(f64, f64) -> f64, Bound) = match (form.opcode, ty) {
        ("div", F32) if coarse => (|a, b| a / b, Bound::Ulps(2.0)),
        ("rcp", F32) if coarse => (|a, _| 1.0 / a, Bound::Ulps(1.0)),
        ("sqrt", F32) if coarse => (|a, _| a.sqrt(), Bound::Relative(power(-23.0))),
        ("rsqrt", F32) => (|a, _| 1.0 / a.sqrt(), Bound::Relative(power(-22.9))),
        ("ex2", F32) => (|a, _| a.exp2(), Bound::Ulps(2.0)),
        ("ex2", F16 | F16x2) => (|a, _| a.exp2(), Bound::Relative(power(-9.9))),
        ("ex2", Bf16 | Bf16x2) => (|a, _| a.exp2(), Bound::Relative(power(-7.0))),
        ("lg2", F32) => (|a, _| a.log2(), Bound::Logarithm),
        ("sin", F32) => (|a, _| a.sin(), Bound::Angle),
        ("cos", F32) => (|a, _| a.cos(), Bound::Angle),
        ("tanh", F32) => (|a, _| a.tanh(), Bound::Relative(power(-11.0))),
        ("tanh", F16 | F16x2) => (|a, _| a.tanh(), Bound::Absolute(power(-10.987))),
        ("tanh", Bf16 | Bf16x2) => (|a, _| a.tanh(), Bound::Absolute(power(-8.0))),
        _ => return None,
    };
    Some(Approximate { function, bound })
}

fn float_type(name: &str) -> Option<FloatType> {
    Some(match name {
        "f16" => FloatType::F16,
        "f16x2" => FloatType::F16x2,
        "bf16" => FloatType::Bf16,
        "bf16x2" => FloatType::Bf16x2,
        "f32" | "tf32" => FloatType::F32,
        "f64" => FloatType::F64,
        _ => return None,
    })
}

impl Context<'_> {
    /// Of an instruction that was decoded, if it computes a floating-point number.
    pub(super) fn numeric(&mut self, form: &Form<'_>) -> Result<Option<Box<Numeric>>> {
        let (dest, source) = match (form.opcode, &form.modifiers[..]) {
            ("cvt", [.., dest, source]) => (float_type(dest), float_type(source)),
            (
                "add" | "sub" | "mul" | "fma" | "mad" | "div" | "rcp" | "sqrt" | "rsqrt" | "ex2"
                | "lg2" | "sin" | "cos" | "tanh",
                [.., ty],
            ) => (float_type(ty), float_type(ty)),
            _ => return Ok(None),
        };
        let (Some(ty), [Operand::Register(_), operands @ ..]) = (dest, form.operands()) else {
            return Ok(None);
        };
        let dest = FloatOperand {
            reg: self.dest(form.operand(0)?)?,
            ty,
        };
        let mut sources = Vec::new();
        for operand in operands {
            // Integers are finite.
            let Some(ty) = source else { continue };
            let reg = match ty {
                FloatType::F64 => Reg::D(self.d(operand)?),
                _ => Reg::W(self.w(operand)?),
            };
            sources.push(FloatOperand { reg, ty });
        }
        Ok(Some(Box::new(Numeric {
            dest,
            sources,
            approximate: approximate(form, ty),
            flushes: form.has("ftz"),
        })))
    }
}
