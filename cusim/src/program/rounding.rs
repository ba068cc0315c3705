//! Rounding in directions other than to nearest.
//!
//! Everything is first rounded to nearest, which the CPU does. The sign of what that lost then tells
//! whether a directed rounding is one step away.

use super::lanes::{bf16_bits, d, f, f16_bits, f32_of_bf16, f32_of_f16, odd, sum_to_odd};

/// A rounding mode of PTX.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// `.rn`: ties to even.
    Nearest,
    /// `.rna`: ties away from zero.
    NearestAway,
    /// `.rz`
    Zero,
    /// `.rm`
    Down,
    /// `.rp`
    Up,
}

/// A format of floating-point numbers in the low bits of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    F16,
    Bf16,
    /// 10 bits of fraction in the place of f32's.
    Tf32,
    F32,
    F64,
}

impl Format {
    /// The format of a type.
    pub(crate) fn named(ty: &str) -> Option<Self> {
        Some(match ty {
            "f16" | "f16x2" => Self::F16,
            "bf16" | "bf16x2" => Self::Bf16,
            "tf32" => Self::Tf32,
            "f32" => Self::F32,
            "f64" => Self::F64,
            _ => return None,
        })
    }

    /// The value of bits; exact.
    pub(crate) fn decode(self, bits: u64) -> f64 {
        match self {
            Self::F16 => f32_of_f16(bits as u32 & 0xffff).into(),
            Self::Bf16 => f32_of_bf16(bits as u32 & 0xffff).into(),
            Self::Tf32 | Self::F32 => f(bits as u32).into(),
            Self::F64 => d(bits),
        }
    }

    fn sign_bit(self) -> u64 {
        match self {
            Self::F16 | Self::Bf16 => 1 << 15,
            Self::Tf32 | Self::F32 => 1 << 31,
            Self::F64 => 1 << 63,
        }
    }

    /// The distance of neighbours.
    fn step(self) -> u64 {
        if self == Self::Tf32 { 1 << 13 } else { 1 }
    }

    fn nan(self) -> u64 {
        match self {
            Self::F16 | Self::Bf16 => 0x7fff,
            Self::Tf32 | Self::F32 => 0x7fff_ffff,
            Self::F64 => 0x7fff_ffff_ffff_ffff,
        }
    }

    fn nearest(self, x: f64) -> u64 {
        // Odd rounding keeps the second rounding from f32 as good as a single one.
        let short = || odd_f32(x);
        match self {
            Self::F16 => f16_bits(short()).into(),
            Self::Bf16 => bf16_bits(short()).into(),
            Self::Tf32 => {
                let bits = short().to_bits();
                u64::from(bits.wrapping_add(0xfff + (bits >> 13 & 1)) & !0x1fff)
            }
            Self::F32 => (x as f32).to_bits().into(),
            Self::F64 => x.to_bits(),
        }
    }

    /// The bits of a value. For formats below f64, `x` may have been rounded to odd.
    pub(crate) fn encode(self, x: f64, rounding: Rounding) -> u64 {
        if x.is_nan() {
            return self.nan();
        }
        let bits = self.nearest(x);
        let rounded = self.decode(bits);
        // The decoded infinity is farther than any finite number.
        let lost = if rounded == x { 0.0 } else { x - rounded };
        if rounding == Rounding::NearestAway && lost != 0.0 {
            return self.away_from_tie(x, bits);
        }
        self.direct(bits, lost, rounding)
    }

    /// Takes the larger neighbour when `x` is as near to it as to the one that was chosen.
    fn away_from_tie(self, x: f64, bits: u64) -> u64 {
        let next = bits + self.step();
        let (here, there) = (self.decode(bits), self.decode(next));
        let is_larger = x.abs() > here.abs();
        if is_larger && (x - here).abs() == (there - x).abs() {
            next
        } else {
            bits
        }
    }

    /// A result rounded to nearest, moved in the direction that `rounding` asks for; `lost` is the
    /// exact result less the rounded one.
    pub(crate) fn direct(self, bits: u64, lost: f64, rounding: Rounding) -> u64 {
        if lost == 0.0 || lost.is_nan() {
            return bits;
        }
        let negative = bits & self.sign_bit() != 0;
        // Numbers of one sign are in the order of their bits.
        let toward_zero = bits.wrapping_sub(self.step());
        let from_zero = bits.wrapping_add(self.step());
        let overshot = (lost < 0.0) != negative;
        match rounding {
            Rounding::Nearest | Rounding::NearestAway => bits,
            Rounding::Zero if overshot => toward_zero,
            Rounding::Zero => bits,
            Rounding::Down if lost > 0.0 => bits,
            Rounding::Up if lost < 0.0 => bits,
            _ if overshot => toward_zero,
            _ => from_zero,
        }
    }
}

/// f64 to f32, rounded to odd, so that a second rounding to fewer bits is as a single one.
#[inline(always)]
pub(crate) fn odd_f32(x: f64) -> f32 {
    let near = x as f32;
    let lost = x - f64::from(near);
    if lost == 0.0 || !lost.is_finite() || near.to_bits() & 1 == 1 {
        // Overflow to infinity overflows in every shorter format as well.
        return near;
    }
    let away = (lost > 0.0) != near.is_sign_negative();
    f32::from_bits(if away {
        near.to_bits() + 1
    } else {
        near.to_bits() - 1
    })
}

/// The arithmetic of f32 as f64 rounded to odd, from which every rounding to f32 is right.
pub(crate) fn odd_result(opcode: &str) -> Option<fn(f64, f64, f64) -> f64> {
    Some(match opcode {
        "add" => |a, b, _| sum_to_odd(a, b),
        "sub" => |a, b, _| sum_to_odd(a, -b),
        "mul" => |a, b, _| a * b,
        "fma" | "mad" => |a, b, c| sum_to_odd(a * b, c),
        "div" => |a, b, _| quotient_to_odd(a, b),
        "rcp" => |a, _, _| quotient_to_odd(1.0, a),
        "sqrt" => |a, _, _| {
            let root = a.sqrt();
            odd(root, (-root).mul_add(root, a))
        },
        _ => return None,
    })
}

fn quotient_to_odd(a: f64, b: f64) -> f64 {
    let quotient = a / b;
    let remainder = (-quotient).mul_add(b, a);
    odd(quotient, if b < 0.0 { -remainder } else { remainder })
}

/// Arithmetic that also gives its rounding error, or a number of its sign.
pub(crate) type WithError = fn(f64, f64, f64) -> (f64, f64);

/// f64 arithmetic: the result rounded to nearest and what that lost, or a number of its sign.
pub(crate) fn with_error(opcode: &str) -> Option<WithError> {
    Some(match opcode {
        "add" => |a, b, _| sum_error(a, b),
        "sub" => |a, b, _| sum_error(a, -b),
        "mul" => |a, b, _| product_error(a, b),
        "fma" | "mad" => fma_error,
        "div" => |a, b, _| quotient_error(a, b),
        "rcp" => |a, _, _| quotient_error(1.0, a),
        "sqrt" => |a, _, _| root_error(a),
        _ => return None,
    })
}

fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let back = sum - a;
    (sum, (a - (sum - back)) + (b - back))
}

/// A finite number other than 0 as one of magnitude at least 1 and below 2, and a power of two.
fn split(x: f64) -> (f64, i32) {
    let (x, up) = if x.is_subnormal() {
        (x * power(64), 64)
    } else {
        (x, 0)
    };
    let exponent = (x.to_bits() >> 52 & 0x7ff) as i32 - 1023;
    (scale(x, -exponent), exponent - up)
}

/// `2^exponent`, for exponents of normal numbers.
fn power(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// `x * 2^by`, exact unless the result is subnormal or infinite.
fn scale(x: f64, by: i32) -> f64 {
    let third = by / 3;
    x * power(third) * power(third) * power(by - 2 * third)
}

/// What is lost where the exact result is zero, infinite or no number, or rounds to infinity.
fn lost_at_bounds(near: f64, operands: &[f64]) -> Option<f64> {
    let finite = operands.iter().all(|x| x.is_finite());
    match near {
        _ if !finite || near.is_nan() => Some(0.0),
        // An infinity from finite operands is beyond the result, unless it was a division by zero.
        _ if near.is_infinite() => Some(-near),
        _ => None,
    }
}

fn product_error(a: f64, b: f64) -> (f64, f64) {
    let near = a * b;
    if a == 0.0 || b == 0.0 {
        return (near, 0.0);
    }
    let lost = lost_at_bounds(near, &[a, b]).unwrap_or_else(|| {
        let ((a, a_exponent), (b, b_exponent)) = (split(a), split(b));
        let near = scale(near, -a_exponent - b_exponent);
        a.mul_add(b, -near)
    });
    (near, lost)
}

fn quotient_error(a: f64, b: f64) -> (f64, f64) {
    let near = a / b;
    if a == 0.0 || b == 0.0 {
        return (near, 0.0);
    }
    let lost = lost_at_bounds(near, &[a, b]).unwrap_or_else(|| {
        let ((a, a_exponent), (b, b_exponent)) = (split(a), split(b));
        let near = scale(near, b_exponent - a_exponent);
        (-near).mul_add(b, a) * b.signum()
    });
    (near, lost)
}

fn root_error(a: f64) -> (f64, f64) {
    let near = a.sqrt();
    if !(a > 0.0 && a.is_finite()) {
        return (near, 0.0);
    }
    let half = split(a).1 / 2;
    let (a, root) = (scale(a, -2 * half), scale(near, -half));
    (near, (-root).mul_add(root, a))
}

fn sum_error(a: f64, b: f64) -> (f64, f64) {
    let (near, lost) = two_sum(a, b);
    (near, lost_at_bounds(near, &[a, b]).unwrap_or(lost))
}

fn fma_error(a: f64, b: f64, c: f64) -> (f64, f64) {
    let near = a.mul_add(b, c);
    if a == 0.0 || b == 0.0 {
        return (near, 0.0);
    }
    let lost = lost_at_bounds(near, &[a, b, c]).unwrap_or_else(|| {
        let ((a, a_exponent), (b, b_exponent)) = (split(a), split(b));
        let exponent = a_exponent + b_exponent;
        let c_exponent = if c == 0.0 { exponent } else { split(c).1 };
        if c_exponent - exponent > FAR {
            // All that counts of the product is its sign.
            let (c, near) = (scale(c, -c_exponent), scale(near, -c_exponent));
            return sign_of_sum([c, -near, power(-FAR) * (a * b).signum(), 0.0]);
        }
        let c = if c_exponent - exponent < -FAR {
            power(-FAR).copysign(c)
        } else {
            scale(c, -exponent)
        };
        let high = a * b;
        let low = a.mul_add(b, -high);
        sign_of_sum([high, low, c, -scale(near, -exponent)])
    });
    (near, lost)
}

/// Numbers farther apart than this many powers of two do not touch, not even as products.
const FAR: i32 = 250;

/// A number of the sign of the exact sum (Shewchuk, "Adaptive precision floating-point arithmetic",
/// 1997: growing an expansion).
fn sign_of_sum(terms: [f64; 4]) -> f64 {
    let mut parts = [0.0; 4];
    for (count, mut sum) in terms.into_iter().enumerate() {
        for part in &mut parts[..count] {
            (sum, *part) = two_sum(sum, *part);
        }
        parts[count] = sum;
    }
    let largest = parts.into_iter().rfind(|part| *part != 0.0);
    largest.unwrap_or(0.0)
}

/// The sign of a sum that is exactly zero, rounded down: negative unless both terms are +0.
pub(crate) fn zero_rounded_down(opcode: &str) -> Option<fn(f64, f64, f64) -> f64> {
    fn zero(a: f64, b: f64) -> f64 {
        if a.is_sign_negative() || b.is_sign_negative() {
            -0.0
        } else {
            0.0
        }
    }
    Some(match opcode {
        "add" => |a, b, _| zero(a, b),
        "sub" => |a, b, _| zero(a, -b),
        "fma" | "mad" => |a, b, c| zero(a * b, c),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIRECTED: [Rounding; 3] = [Rounding::Zero, Rounding::Down, Rounding::Up];

    /// The two neighbours of an exact value tell what each direction must give.
    fn check(format: Format, x: f64) -> Result<(), TestCaseError> {
        let [zero, down, up] = DIRECTED.map(|rounding| format.decode(format.encode(x, rounding)));
        prop_assert!(down <= x && x <= up, "{x:e}: {down:e}, {up:e}");
        prop_assert_eq!(zero, if x < 0.0 { up } else { down });
        if down != up {
            let between = format.encode(down, Rounding::Nearest);
            let next = if x < 0.0 || down.is_sign_negative() {
                between - format.step()
            } else {
                between + format.step()
            };
            prop_assert!(
                format.decode(next) == up || down == 0.0,
                "{down:e} and {up:e} are neighbours"
            );
        }
        let near = format.decode(format.encode(x, Rounding::Nearest));
        prop_assert!(near == down || near == up);
        Ok(())
    }

    proptest! {
        #[test]
        fn directions_enclose(x in -1e5f64..1e5, small in -1e-7f64..1e-7) {
            for format in [Format::F16, Format::Bf16, Format::Tf32, Format::F32] {
                check(format, x)?;
                check(format, small)?;
            }
        }

        #[test]
        fn f64_directions_enclose(a in -1e3f64..1e3, b in -1e3f64..1e3, c in -1e6f64..1e6) {
            for opcode in ["add", "sub", "mul", "fma", "div"] {
                let (near, lost) = with_error(opcode).expect("an operation")(a, b, c);
                let [_, down, up] = DIRECTED
                    .map(|rounding| f64::from_bits(Format::F64.direct(near.to_bits(), lost, rounding)));
                prop_assert!(down <= near && near <= up && (near == down || near == up));
                prop_assert_eq!(lost == 0.0, down == up);
            }
        }
    }

    #[test]
    fn f64_directions_hold_at_the_ends_of_the_range() {
        let least = f64::from_bits(1);
        let rounded = |opcode, rounding, a, b, c| {
            let (near, lost) = with_error(opcode).expect("an operation")(a, b, c);
            f64::from_bits(Format::F64.direct(near.to_bits(), lost, rounding))
        };
        assert_eq!(rounded("mul", Rounding::Down, least, -1e-9, 0.0), -least);
        assert_eq!(rounded("mul", Rounding::Zero, f64::MAX, 2.0, 0.0), f64::MAX);
        assert_eq!(
            rounded("add", Rounding::Up, f64::MIN, f64::MIN, 0.0),
            f64::MIN
        );
        assert_eq!(rounded("div", Rounding::Up, least, 3.0, 0.0), least);
        assert_eq!(rounded("div", Rounding::Zero, 1.0, 0.0, 0.0), f64::INFINITY);
        assert_eq!(
            rounded("fma", Rounding::Down, least, -least, 1.0),
            1f64.next_down()
        );
        assert_eq!(rounded("fma", Rounding::Up, 1e-200, 1e-200, -least), -0.0);
    }

    #[test]
    fn overflow_goes_the_way_it_is_rounded() {
        let bits = |rounding| Format::F16.encode(1e6, rounding);
        assert_eq!(bits(Rounding::Nearest), 0x7c00);
        assert_eq!(bits(Rounding::Zero), 0x7bff);
        assert_eq!(bits(Rounding::Down), 0x7bff);
        assert_eq!(bits(Rounding::Up), 0x7c00);
        assert_eq!(Format::F16.encode(-1e6, Rounding::Up), 0xfbff);
    }

    #[test]
    fn ties_go_away_from_zero_where_asked() {
        // 1 + 2^-11 lies between two tf32 numbers and two f16 numbers alike.
        let tie = 1.0 + 2f64.powi(-11);
        assert_eq!(Format::Tf32.encode(tie, Rounding::NearestAway), 0x3f80_2000);
        assert_eq!(Format::Tf32.encode(tie, Rounding::Nearest), 0x3f80_0000);
        assert_eq!(
            Format::Tf32.encode(-tie, Rounding::NearestAway),
            0xbf80_2000
        );
        let below = 1.0 + 2f64.powi(-12);
        assert_eq!(
            Format::Tf32.encode(below, Rounding::NearestAway),
            0x3f80_0000
        );
    }

    #[test]
    fn quotients_and_roots_are_rounded_once() {
        let third = odd_result("div").expect("division")(1.0, 3.0, 0.0);
        let up = f(Format::F32.encode(third, Rounding::Up) as u32);
        let down = f(Format::F32.encode(third, Rounding::Down) as u32);
        assert_eq!((up, down.to_bits() + 1), (1.0 / 3.0, up.to_bits()));
        let root = odd_result("sqrt").expect("a root")(4.0, 0.0, 0.0);
        assert_eq!(f(Format::F32.encode(root, Rounding::Up) as u32), 2.0);
    }
}
