//! Arithmetic of f16 and bf16, alone and in pairs: in f32 or f64, where it loses nothing that rounding
//! to 16 bits could notice, then rounded once.

use super::super::lanes::{
    bf16_bits, f16_bits, f32_of_bf16, f32_of_f16, max_f32, min_f32, sum_to_odd,
};
use super::super::op::{Op, W1, W2, W3};
use super::super::rounding::{Format, Rounding, odd_f32};
use super::super::simd::{each1, each2, each3};
use super::{Context, Form, Result};

/// A function of both halves of words; a single number is the lower half, and the upper is ignored.
macro_rules! halves {
    ($each:ident, $decode:ident, $encode:ident, |$($a:ident),+| $e:expr) => {
        $each!(|$($a),+| {
            let low = { $(let $a = $decode($a & 0xffff);)+ $encode($e) };
            let high = { $(let $a = $decode($a >> 16);)+ $encode($e) };
            high << 16 | low
        })
    };
}

/// The same for either format.
macro_rules! formats {
    ($bf16:expr, $each:ident, |$($a:ident),+| $e:expr) => {
        if $bf16 {
            halves!($each, f32_of_bf16, bf16_bits, |$($a),+| $e)
        } else {
            halves!($each, f32_of_f16, f16_bits, |$($a),+| $e)
        }
    };
}

impl Context<'_> {
    pub(super) fn half_float(&mut self, form: &Form<'_>) -> Result<Op> {
        let bf16 = form.ty().starts_with("bf16");
        let special = ["ftz", "sat", "relu", "xorsign"];
        if special.iter().any(|modifier| form.has(modifier)) {
            return self.half_special(form);
        }
        let d = self.dest_w(form.operand(0)?)?;
        let a = self.w(form.operand(1)?)?;
        let unary: Option<W1> = match form.opcode {
            "neg" => Some(each1!(|a| a ^ 0x8000_8000)),
            "abs" => Some(each1!(|a| a & 0x7fff_7fff)),
            "ex2" => Some(formats!(bf16, each1, |a| super::super::lanes::exp2(a))),
            "tanh" => Some(formats!(bf16, each1, |a| f64::from(a).tanh() as f32)),
            _ => None,
        };
        if let Some(function) = unary {
            return Ok(Op::W1(function, d, a));
        }
        let b = self.w(form.operand(2)?)?;
        if form.opcode == "fma" {
            let c = self.w(form.operand(3)?)?;
            let function: W3 = formats!(bf16, each3, |a, b, c| odd_fma(a, b, c));
            return Ok(Op::W3(function, d, a, b, c));
        }
        // Of two numbers of p bits, 2p + 2 bits hold all of a sum or product that matters.
        let function: W2 = match (form.opcode, form.has("NaN")) {
            ("add", _) => formats!(bf16, each2, |a, b| a + b),
            ("sub", _) => formats!(bf16, each2, |a, b| a - b),
            ("mul", _) => formats!(bf16, each2, |a, b| a * b),
            ("min", false) => formats!(bf16, each2, |a, b| min_f32(a, b)),
            ("max", false) => formats!(bf16, each2, |a, b| max_f32(a, b)),
            ("min", true) => formats!(bf16, each2, |a, b| if a.is_nan() | b.is_nan() {
                f32::NAN
            } else {
                min_f32(a, b)
            }),
            ("max", true) => formats!(bf16, each2, |a, b| if a.is_nan() | b.is_nan() {
                f32::NAN
            } else {
                max_f32(a, b)
            }),
            _ => return form.unknown(),
        };
        Ok(Op::W2(function, d, a, b))
    }

    /// Forms with modifiers that inner loops seldom have.
    fn half_special(&mut self, form: &Form<'_>) -> Result<Op> {
        let bf16 = form.ty().starts_with("bf16");
        let format = if bf16 { Format::Bf16 } else { Format::F16 };
        let (ftz, sat, relu) = (form.has("ftz"), form.has("sat"), form.has("relu"));
        let (xorsign, propagates) = (form.has("xorsign"), form.has("NaN"));
        let lane: fn(f64, f64, f64) -> f64 = match form.opcode {
            "add" => |a, b, _| a + b,
            "sub" => |a, b, _| a - b,
            "mul" => |a, b, _| a * b,
            "fma" => |a, b, c| sum_to_odd(a * b, c),
            "min" => |a, b, _| min_f32(a as f32, b as f32).into(),
            "max" => |a, b, _| max_f32(a as f32, b as f32).into(),
            "ex2" => |a, _, _| a.exp2(),
            "neg" => |a, _, _| -a,
            "abs" => |a, _, _| a.abs(),
            _ => return form.unknown(),
        };
        let operands = form.operands().len() - 1;
        let one = move |s: &[u64; 4], shift: u32| {
            let exponent = if bf16 { 0x7f80 } else { 0x7c00 };
            // A subnormal number becomes a zero of its sign.
            let flush = |bits: u64| match ftz && bits & exponent == 0 {
                true => bits & 0x8000,
                false => bits,
            };
            let value = |at: usize| format.decode(flush(s[at] >> shift & 0xffff));
            let (a, b, c) = (value(0), value(1), value(2));
            let nan = [a, b, c][..operands].iter().any(|x| x.is_nan());
            let result = match (xorsign, propagates && nan) {
                (_, true) => f64::NAN,
                (true, false) => {
                    let sign = if a.is_sign_negative() != b.is_sign_negative() {
                        -1.0
                    } else {
                        1.0
                    };
                    sign * lane(a.abs(), b.abs(), c)
                }
                (false, false) => lane(a, b, c),
            };
            let result = match (sat, relu) {
                // NaN becomes +0.
                (true, _) => {
                    if result > 0.0 {
                        result.min(1.0)
                    } else {
                        0.0
                    }
                }
                // -0 becomes +0.
                (_, true) if result <= 0.0 => 0.0,
                _ => result,
            };
            flush(format.encode(result, Rounding::Nearest))
        };
        let pair = form.ty().ends_with("x2");
        self.scalar(form, move |s| {
            if pair {
                one(s, 0) | one(s, 16) << 16
            } else {
                one(s, 0)
            }
        })
    }
}

/// a * b + c as f32 rounded to odd, from which rounding to 16 bits is as rounding once.
#[inline(always)]
fn odd_fma(a: f32, b: f32, c: f32) -> f32 {
    odd_f32(sum_to_odd(f64::from(a) * f64::from(b), c.into()))
}
