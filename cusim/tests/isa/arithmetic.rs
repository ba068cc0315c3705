//! Arithmetic on exact values.

use crate::exact::{Mode, Value};

/// The tests of this file.
pub const TESTS: &[fn()] = &[];

/// The sum of two values, where it is exact in 128 bits; far apart, the lower is made a tiny bit of
/// the same sign, which no rounding can tell from it.
fn add(a: Value, b: Value) -> Value {
    let (Value::Finite { .. }, Value::Finite { .. }) = (a, b) else {
        return match (a, b) {
            (Value::Nan, _) | (_, Value::Nan) => Value::Nan,
            (Value::Infinite(a), Value::Infinite(b)) if a != b => Value::Nan,
            (Value::Infinite(a), _) | (_, Value::Infinite(a)) => Value::Infinite(a),
            _ => unreachable!("one is not finite"),
        };
    };
    let (a, b) = if top(a) >= top(b) { (a, b) } else { (b, a) };
    let (a_sign, a_magnitude, a_exponent) = parts(a);
    let (b_sign, b_magnitude, b_exponent) = parts(b);
    if b_magnitude == 0 && a_magnitude != 0 {
        return a;
    }
    if a_magnitude == 0 {
        return Value::Finite {
            negative: a_sign && b_sign,
            magnitude: 0,
            exponent: 0,
        };
    }
    // The higher operand gets its top bit at 124, the lower one follows or sticks.
    let by = a_magnitude.leading_zeros() as i32 - 3;
    let exponent = a_exponent - by;
    let high = (a_magnitude << by) as i128;
    let down = exponent - b_exponent;
    let low = if down <= 0 {
        (b_magnitude << -down) as i128
    } else {
        let kept = b_magnitude.checked_shr(down as u32).unwrap_or(0);
        let lost = kept.checked_shl(down as u32).unwrap_or(0) != b_magnitude;
        (kept | u128::from(lost)) as i128
    };
    let sum = if a_sign { -high } else { high } + if b_sign { -low } else { low };
    Value::Finite {
        negative: sum < 0,
        magnitude: sum.unsigned_abs(),
        exponent,
    }
}

fn parts(x: Value) -> (bool, u128, i32) {
    match x {
        Value::Finite {
            negative,
            magnitude,
            exponent,
        } => (negative, magnitude, exponent),
        _ => unreachable!("the value is finite"),
    }
}

/// The power of two above a finite value; zero is below all.
fn top(x: Value) -> i32 {
    match parts(x) {
        (_, 0, _) => i32::MIN,
        (_, magnitude, exponent) => 128 - magnitude.leading_zeros() as i32 + exponent,
    }
}

pub fn negate(x: Value) -> Value {
    match x {
        Value::Nan => Value::Nan,
        Value::Infinite(negative) => Value::Infinite(!negative),
        Value::Finite {
            negative,
            magnitude,
            exponent,
        } => Value::Finite {
            negative: !negative,
            magnitude,
            exponent,
        },
    }
}

fn is_zero(x: Value) -> bool {
    matches!(x, Value::Finite { magnitude: 0, .. })
}

fn sign(x: Value) -> bool {
    match x {
        Value::Nan => false,
        Value::Infinite(negative) | Value::Finite { negative, .. } => negative,
    }
}

pub fn multiply(a: Value, b: Value) -> Value {
    let negative = sign(a) != sign(b);
    match (a, b) {
        (Value::Nan, _) | (_, Value::Nan) => Value::Nan,
        (Value::Infinite(_), other) | (other, Value::Infinite(_)) if is_zero(other) => Value::Nan,
        (Value::Infinite(_), _) | (_, Value::Infinite(_)) => Value::Infinite(negative),
        _ => Value::Finite {
            negative,
            magnitude: parts(a).1 * parts(b).1,
            exponent: parts(a).2 + parts(b).2,
        },
    }
}

/// The quotient to 128 bits or so, with a last bit for what is left.
pub fn divide(a: Value, b: Value) -> Value {
    let negative = sign(a) != sign(b);
    match (a, b) {
        (Value::Nan, _) | (_, Value::Nan) => Value::Nan,
        (Value::Infinite(_), Value::Infinite(_)) => Value::Nan,
        (Value::Infinite(_), _) => Value::Infinite(negative),
        (_, Value::Infinite(_)) => Value::Finite {
            negative,
            magnitude: 0,
            exponent: 0,
        },
        _ if is_zero(b) && is_zero(a) => Value::Nan,
        _ if is_zero(b) => Value::Infinite(negative),
        _ => {
            let (a, b) = (parts(a), parts(b));
            let up = a.1.leading_zeros().min(127);
            let (numerator, denominator) = (a.1 << up, b.1);
            let (quotient, rest) = (numerator / denominator, numerator % denominator);
            Value::Finite {
                negative,
                magnitude: quotient << 1 | u128::from(rest != 0),
                exponent: a.2 - up as i32 - b.2 - 1,
            }
        }
    }
}

/// The square root to 60 bits or so, with a last bit for what is left.
pub fn root(a: Value) -> Value {
    match a {
        Value::Infinite(false) => a,
        _ if is_zero(a) => a,
        Value::Nan | Value::Infinite(true) => Value::Nan,
        _ if sign(a) => Value::Nan,
        _ => {
            let (_, magnitude, exponent) = parts(a);
            let up = magnitude.leading_zeros() as i32 & !1;
            let up = if (exponent - up) % 2 == 0 { up } else { up - 1 };
            let square = magnitude << up;
            let root = square.isqrt();
            Value::Finite {
                negative: false,
                magnitude: root << 1 | u128::from(root * root != square),
                exponent: (exponent - up) / 2 - 1,
            }
        }
    }
}

/// An exact zero from operands that are none, or of zeros of both signs, is positive; rounding down
/// makes it negative.
pub fn sum(a: Value, b: Value, mode: Mode) -> Value {
    match add(a, b) {
        Value::Finite { magnitude: 0, .. } => {
            let both = sign(a) && sign(b);
            let either = sign(a) || sign(b);
            Value::Finite {
                negative: both || mode == Mode::Down && either,
                magnitude: 0,
                exponent: 0,
            }
        }
        value => value,
    }
}
