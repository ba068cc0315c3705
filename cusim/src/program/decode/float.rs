//! Floating-point arithmetic of f32 and f64 (PTX ISA, "Floating-Point Instructions").
//!
//! Approximate instructions give the correctly rounded result, which is inside every documented bound.

use super::super::lanes::{self, d, f, fma, ftz, max_f32, min_f32, out, out_ftz, saturate};
use super::super::op::{Lanes, Op, Reg, Wide, each1, each2, each3};
use super::{Context, Form, Result};

type F1 = fn(&mut Lanes, &Lanes);
type F2 = fn(&mut Lanes, &Lanes, &Lanes);
type F3 = fn(&mut Lanes, &Lanes, &Lanes, &Lanes);

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
        match form.ty() {
            "f32" => self.float32(form),
            "f64" => self.float64(form),
            _ => self.half_float(form),
        }
    }

    fn float32(&mut self, form: &Form<'_>) -> Result<Op> {
        form.only(&["f32", "ftz", "sat", "rn", "approx", "full", "NaN"])?;
        let d = self.dest_w(form.operand(0)?)?;
        let a = self.w(form.operand(1)?)?;
        if let Some(function) = unary32(form) {
            return Ok(Op::W1(function, d, a));
        }
        let b = self.w(form.operand(2)?)?;
        if matches!(form.opcode, "fma" | "mad") {
            let c = self.w(form.operand(3)?)?;
            let function: F3 = variants!(each3, form, |a, b, c| fma(a, b, c));
            return Ok(Op::W3(function, d, a, b, c));
        }
        let function: F2 = match form.opcode {
            "add" => variants!(each2, form, |a, b| a + b),
            "sub" => variants!(each2, form, |a, b| a - b),
            "mul" => variants!(each2, form, |a, b| a * b),
            "div" => variants!(each2, form, |a, b| a / b),
            "min" if form.has("NaN") => {
                variants!(each2, form, |a, b| if a.is_nan() || b.is_nan() {
                    f32::NAN
                } else {
                    min_f32(a, b)
                })
            }
            "max" if form.has("NaN") => {
                variants!(each2, form, |a, b| if a.is_nan() || b.is_nan() {
                    f32::NAN
                } else {
                    max_f32(a, b)
                })
            }
            "min" => variants!(each2, form, |a, b| min_f32(a, b)),
            "max" => variants!(each2, form, |a, b| max_f32(a, b)),
            // The sign of a and the magnitude of b.
            "copysign" => each2!(|a, b| a & 0x8000_0000 | b & 0x7fff_ffff),
            _ => return form.unknown(),
        };
        Ok(Op::W2(function, d, a, b))
    }

    fn float64(&mut self, form: &Form<'_>) -> Result<Op> {
        form.only(&["f64", "rn", "approx", "ftz"])?;
        let dest = self.dest_d(form.operand(0)?)?;
        let a = self.d(form.operand(1)?)?;
        let unary: Option<fn(&mut Wide, &Wide)> = match form.opcode {
            "neg" => Some(each1!(|a| a ^ 1 << 63)),
            "abs" => Some(each1!(|a| a & !(1 << 63))),
            "sqrt" => Some(each1!(|a| d(a).sqrt().to_bits())),
            "rcp" => Some(each1!(|a| (1.0 / d(a)).to_bits())),
            "rsqrt" => Some(each1!(|a| (1.0 / d(a).sqrt()).to_bits())),
            _ => None,
        };
        if let Some(function) = unary {
            return Ok(Op::D1(function, dest, a));
        }
        let b = self.d(form.operand(2)?)?;
        if matches!(form.opcode, "fma" | "mad") {
            let c = self.d(form.operand(3)?)?;
            let function: fn(&mut Wide, &Wide, &Wide, &Wide) =
                each3!(|a, b, c| d(a).mul_add(d(b), d(c)).to_bits());
            return Ok(Op::D3(function, dest, a, b, c));
        }
        let function: fn(&mut Wide, &Wide, &Wide) = match form.opcode {
            "add" => each2!(|a, b| (d(a) + d(b)).to_bits()),
            "sub" => each2!(|a, b| (d(a) - d(b)).to_bits()),
            "mul" => each2!(|a, b| (d(a) * d(b)).to_bits()),
            "div" => each2!(|a, b| (d(a) / d(b)).to_bits()),
            "min" => each2!(|a, b| d(a).min(d(b)).to_bits()),
            "max" => each2!(|a, b| d(a).max(d(b)).to_bits()),
            "copysign" => each2!(|a, b| a & 1 << 63 | b & !(1 << 63)),
            _ => return form.unknown(),
        };
        Ok(Op::D2(function, dest, a, b))
    }

    /// A lane function of f64 values where a loop of its own is not worth it.
    pub(super) fn slow_lanes(
        &mut self,
        form: &Form<'_>,
        function: impl Fn(&[u64; 4]) -> u64 + Send + Sync + 'static,
    ) -> Result<Op> {
        let d = self.dest(form.operand(0)?)?;
        let sources = form.operands()[1..]
            .iter()
            .map(|operand| self.w(operand).map(Reg::W));
        let sources = sources.collect::<Result<Vec<_>>>()?;
        if sources.len() > 4 {
            return form.unknown();
        }
        Ok(Op::Slow(Box::new(function), d, sources))
    }
}

fn unary32(form: &Form<'_>) -> Option<F1> {
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
