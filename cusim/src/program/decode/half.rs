//! Arithmetic of f16 and bf16, alone and in pairs: in f64, where sums and products of such short
//! numbers are exact or rounded to odd, then rounded once.

use super::super::lanes::{f32_of_bf16, f32_of_f16};
use super::super::op::Op;
use super::{Context, Form, Result};

/// How 16 bits are a number.
#[derive(Clone, Copy)]
struct Format {
    decode: fn(u32) -> f32,
    encode: fn(f64) -> u32,
}

const F16: Format = Format {
    decode: f32_of_f16,
    encode: |x| round(x, half::f16::from_f64(x).to_bits()),
};
const BF16: Format = Format {
    decode: f32_of_bf16,
    encode: |x| round(x, half::bf16::from_f64(x).to_bits()),
};

fn round(x: f64, bits: u16) -> u32 {
    if x.is_nan() { 0x7fff } else { bits.into() }
}

type Lane = fn(f64, f64, f64) -> f64;

impl Context<'_> {
    pub(super) fn half_float(&mut self, form: &Form<'_>) -> Result<Op> {
        form.only(&[
            "f16", "f16x2", "bf16", "bf16x2", "rn", "ftz", "NaN", "approx",
        ])?;
        let format = if form.ty().starts_with("bf16") {
            BF16
        } else {
            F16
        };
        let pair = form.ty().ends_with("x2");
        let ftz = form.has("ftz");
        if matches!(form.opcode, "neg" | "abs") && !ftz {
            let sign: u64 = if pair { 0x8000_8000 } else { 0x8000 };
            let negate = form.opcode == "neg";
            return self.slow_lanes(
                form,
                move |s| if negate { s[0] ^ sign } else { s[0] & !sign },
            );
        }
        let lane: Lane = match form.opcode {
            "add" => |a, b, _| a + b,
            "sub" => |a, b, _| a - b,
            "mul" => |a, b, _| a * b,
            "fma" => |a, b, c| sum_to_odd(a * b, c),
            "min" if form.has("NaN") => |a, b, _| {
                if a.is_nan() || b.is_nan() {
                    f64::NAN
                } else {
                    minimum(a, b)
                }
            },
            "max" if form.has("NaN") => |a, b, _| {
                if a.is_nan() || b.is_nan() {
                    f64::NAN
                } else {
                    -minimum(-a, -b)
                }
            },
            "min" => |a, b, _| minimum(a, b),
            "max" => |a, b, _| -minimum(-a, -b),
            "ex2" => |a, _, _| a.exp2(),
            "tanh" => |a, _, _| a.tanh(),
            "neg" => |a, _, _| -a,
            "abs" => |a, _, _| a.abs(),
            _ => return form.unknown(),
        };
        self.slow_lanes(form, move |s| {
            let one = |shift: u32| {
                let value = |at: usize| {
                    let bits = (s[at] >> shift) as u32 & 0xffff;
                    f64::from((format.decode)(if ftz { flush(bits) } else { bits }))
                };
                let result = (format.encode)(lane(value(0), value(1), value(2)));
                u64::from(if ftz { flush(result) } else { result })
            };
            if pair { one(0) | one(16) << 16 } else { one(0) }
        })
    }
}

/// Subnormal f16 to zero of its sign (`.ftz` exists for f16 only).
fn flush(bits: u32) -> u32 {
    if bits & 0x7c00 == 0 {
        bits & 0x8000
    } else {
        bits
    }
}

/// A number before NaN, -0 before +0.
fn minimum(a: f64, b: f64) -> f64 {
    if a.is_nan() {
        b
    } else if b.is_nan() || a < b || (a == b && a.is_sign_negative()) {
        a
    } else {
        b
    }
}

/// p + c rounded to odd, so that rounding to 16 bits afterwards is as rounding once.
fn sum_to_odd(p: f64, c: f64) -> f64 {
    let sum = p + c;
    let back = sum - p;
    let error = (p - (sum - back)) + (c - back);
    if !(error > 0.0 || error < 0.0) || sum.to_bits() & 1 == 1 {
        return sum;
    }
    let towards = if (error > 0.0) == (sum > 0.0) {
        1
    } else {
        u64::MAX
    };
    f64::from_bits(sum.to_bits().wrapping_add(towards))
}
