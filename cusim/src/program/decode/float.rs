//! Floating-point arithmetic of f32 and f64 (PTX ISA, "Floating-Point Instructions").
//!
//! Approximate instructions give the correctly rounded result, which is inside every documented bound.

use super::super::lanes::{
    self, d, f, ftz, max_f32, max_f64, min_f32, min_f64, out, out_ftz, saturate,
};
use super::super::op::{D1, D2, D3, Op, W1, W2, W3};
use super::super::rounding::{self, Format, Rounding};
use super::super::simd::{each1, each2, each3};
use super::{Context, Form, Result};

/// One function for each combination of `.ftz` and `.sat`.
macro_rules! variants {
    ($each:ident, $form:expr, |$($a:ident),+| $e:expr) => {
        match ($form.has("ftz"), $form.has("sat")) {
            (false, false) => $each!(|$($a),+| { $(let $a = f($a);)+ out($e) }),
            (true, false) => $each!(|$($a),+| { $(let $a = ftz($a);)+ out_ftz($e) }),
            (false, true) => $each!(|$($a),+| { $(let $a = f($a);)+ saturate($e).to_bits() }),
            (true, true) => $each!(|$($a),+| { $(let $a = ftz($a);)+ out_ftz(saturate($e)) }),
        }
    };
}

impl Context<'_> {
    pub(super) fn float(&mut self, form: &Form<'_>) -> Result<Op> {
        let directed = match form.rounding() {
            None | Some(Rounding::Nearest) => None,
            Some(rounding) => Some(rounding),
        };
        match (form.ty(), directed) {
            ("f32", None) => self.float32(form),
            ("f64", None) => self.float64(form),
            ("f32", Some(rounding)) => self.directed32(form, rounding),
            ("f64", Some(rounding)) => self.directed64(form, rounding),
            _ => self.half_float(form),
        }
    }

    fn float32(&mut self, form: &Form<'_>) -> Result<Op> {
        let dest = self.dest_w(form.operand(0)?)?;
        let a = self.w(form.operand(1)?)?;
        if let Some(function) = unary32(form) {
            return Ok(Op::W1(function, dest, a));
        }
        let b = self.w(form.operand(2)?)?;
        if matches!(form.opcode, "fma" | "mad") {
            let c = self.w(form.operand(3)?)?;
            let function: W3 = variants!(each3, form, |a, b, c| a.mul_add(b, c));
            return Ok(Op::W3(function, dest, a, b, c));
        }
        let function: W2 = match form.opcode {
            "add" => variants!(each2, form, |a, b| a + b),
            "sub" => variants!(each2, form, |a, b| a - b),
            "mul" => variants!(each2, form, |a, b| a * b),
            "div" if form.has("approx") => variants!(each2, form, |a, b| coarse_quotient(a, b)),
            "div" => variants!(each2, form, |a, b| a / b),
            "min" | "max" => return self.extremum(form, dest, a, b),
            // The sign of a and the magnitude of b.
            "copysign" => each2!(|a, b| a & 0x8000_0000 | b & 0x7fff_ffff),
            _ => return form.unknown(),
        };
        Ok(Op::W2(function, dest, a, b))
    }

    fn extremum(&mut self, form: &Form<'_>, dest: u32, a: u32, b: u32) -> Result<Op> {
        let nan = |a: f32, b: f32| a.is_nan() || b.is_nan();
        if form.has("xorsign") {
            // Of the magnitudes, with the product's sign.
            let (is_min, propagates, flushes) =
                (form.opcode == "min", form.has("NaN"), form.has("ftz"));
            return self.scalar(form, move |s| {
                let read = |bits: u64| {
                    if flushes {
                        ftz(bits as u32)
                    } else {
                        f(bits as u32)
                    }
                };
                let (a, b) = (read(s[0]), read(s[1]));
                if propagates && nan(a, b) {
                    return lanes::NAN_F32.into();
                }
                let choose = if is_min { min_f32 } else { max_f32 };
                let magnitude = out(choose(a.abs(), b.abs()));
                u64::from(magnitude | (a.to_bits() ^ b.to_bits()) & 0x8000_0000)
            });
        }
        let function: W2 = match (form.opcode, form.has("NaN")) {
            ("min", true) => variants!(each2, form, |a, b| if a.is_nan() | b.is_nan() {
                f32::NAN
            } else {
                min_f32(a, b)
            }),
            ("max", true) => variants!(each2, form, |a, b| if a.is_nan() | b.is_nan() {
                f32::NAN
            } else {
                max_f32(a, b)
            }),
            ("min", false) => variants!(each2, form, |a, b| min_f32(a, b)),
            _ => variants!(each2, form, |a, b| max_f32(a, b)),
        };
        Ok(Op::W2(function, dest, a, b))
    }

    fn float64(&mut self, form: &Form<'_>) -> Result<Op> {
        let dest = self.dest_d(form.operand(0)?)?;
        let a = self.d(form.operand(1)?)?;
        // Approximate forms work on the upper half of their operand; the lower is taken as zero.
        let coarse = form.has("approx");
        let unary: Option<D1> = match (form.opcode, coarse) {
            ("neg", _) => Some(each1!(|a| a ^ 1 << 63)),
            ("abs", _) => Some(each1!(|a| a & !(1 << 63))),
            ("sqrt", _) => Some(each1!(|a| d(a).sqrt().to_bits())),
            ("rcp", false) => Some(each1!(|a| (1.0 / d(a)).to_bits())),
            ("rcp", true) => Some(each1!(|a| upper(1.0 / d(upper(d(a)))))),
            ("rsqrt", false) => Some(each1!(|a| (1.0 / d(a).sqrt()).to_bits())),
            ("rsqrt", true) => Some(each1!(|a| upper(1.0 / d(upper(d(a))).sqrt()))),
            _ => None,
        };
        if let Some(function) = unary {
            return Ok(Op::D1(function, dest, a));
        }
        let b = self.d(form.operand(2)?)?;
        if matches!(form.opcode, "fma" | "mad") {
            let c = self.d(form.operand(3)?)?;
            let function: D3 = each3!(|a, b, c| d(a).mul_add(d(b), d(c)).to_bits());
            return Ok(Op::D3(function, dest, a, b, c));
        }
        let function: D2 = match form.opcode {
            "add" => each2!(|a, b| (d(a) + d(b)).to_bits()),
            "sub" => each2!(|a, b| (d(a) - d(b)).to_bits()),
            "mul" => each2!(|a, b| (d(a) * d(b)).to_bits()),
            "div" => each2!(|a, b| (d(a) / d(b)).to_bits()),
            "min" => each2!(|a, b| min_f64(d(a), d(b)).to_bits()),
            "max" => each2!(|a, b| max_f64(d(a), d(b)).to_bits()),
            "copysign" => each2!(|a, b| a & 1 << 63 | b & !(1 << 63)),
            _ => return form.unknown(),
        };
        Ok(Op::D2(function, dest, a, b))
    }

    /// f32 rounded in a direction: in f64 to odd, then once to f32.
    fn directed32(&mut self, form: &Form<'_>, rounding: Rounding) -> Result<Op> {
        let Some(operation) = rounding::odd_result(form.opcode) else {
            return form.unknown();
        };
        let (flush, sat) = (form.has("ftz"), form.has("sat"));
        let zero = zero_of(form, rounding);
        self.scalar(form, move |s| {
            let read = |bits: u64| -> f64 {
                if flush {
                    ftz(bits as u32).into()
                } else {
                    f(bits as u32).into()
                }
            };
            let (a, b, c) = (read(s[0]), read(s[1]), read(s[2]));
            let result = match (operation(a, b, c), zero) {
                (0.0, Some(zero)) => zero(a, b, c),
                (result, _) => result,
            };
            let result = f(Format::F32.encode(result, rounding) as u32);
            let result = if sat { saturate(result) } else { result };
            u64::from(if flush { out_ftz(result) } else { out(result) })
        })
    }

    fn directed64(&mut self, form: &Form<'_>, rounding: Rounding) -> Result<Op> {
        let Some(operation) = rounding::with_error(form.opcode) else {
            return form.unknown();
        };
        let zero = zero_of(form, rounding);
        self.scalar(form, move |s| {
            let (a, b, c) = (d(s[0]), d(s[1]), d(s[2]));
            match (operation(a, b, c), zero) {
                ((0.0, 0.0), Some(zero)) => zero(a, b, c).to_bits(),
                ((near, lost), _) => Format::F64.direct(near.to_bits(), lost, rounding),
            }
        })
    }
}

/// `div.approx` is a * (1 / b), of which 1 / b underflows to zero for |b| > 2^126.
#[inline(always)]
fn coarse_quotient(a: f32, b: f32) -> f32 {
    const LARGEST: f32 = f32::from_bits(253 << 23);
    if b.abs() > LARGEST && b.is_finite() {
        a * 0f32.copysign(b)
    } else {
        a / b
    }
}

/// What decides the sign of an exact zero, where it is not that of rounding to nearest.
fn zero_of(form: &Form<'_>, rounding: Rounding) -> Option<fn(f64, f64, f64) -> f64> {
    if rounding == Rounding::Down {
        rounding::zero_rounded_down(form.opcode)
    } else {
        None
    }
}

/// A number whose lower 32 bits are zeros.
fn upper(x: f64) -> u64 {
    x.to_bits() & !0xffff_ffff
}

fn unary32(form: &Form<'_>) -> Option<W1> {
    Some(match form.opcode {
        // Signs are bits: NaN keeps its payload.
        "neg" if form.has("ftz") => each1!(|a| lanes::ftz_bits(a) ^ 0x8000_0000),
        "abs" if form.has("ftz") => each1!(|a| lanes::ftz_bits(a) & 0x7fff_ffff),
        "neg" => each1!(|a| a ^ 0x8000_0000),
        "abs" => each1!(|a| a & 0x7fff_ffff),
        "rcp" => variants!(each1, form, |a| 1.0 / a),
        "sqrt" => variants!(each1, form, |a| a.sqrt()),
        "rsqrt" => variants!(each1, form, |a| (1.0 / f64::from(a).sqrt()) as f32),
        "ex2" => variants!(each1, form, |a| lanes::exp2(a)),
        "lg2" => variants!(each1, form, |a| f64::from(a).log2() as f32),
        "sin" => variants!(each1, form, |a| f64::from(a).sin() as f32),
        "cos" => variants!(each1, form, |a| f64::from(a).cos() as f32),
        "tanh" => variants!(each1, form, |a| f64::from(a).tanh() as f32),
        _ => return None,
    })
}
