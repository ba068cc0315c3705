//! Numbers of any format as sign, integer and power of two, and their rounding in integer arithmetic.

/// A format of binary floating point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// As written in PTX.
    pub name: &'static str,
    /// Bits of the exponent.
    pub exponent: u32,
    /// Bits of the fraction.
    pub fraction: u32,
}

/// `.f16`
pub const F16: Format = Format {
    name: "f16",
    exponent: 5,
    fraction: 10,
};
/// `.bf16`
pub const BF16: Format = Format {
    name: "bf16",
    exponent: 8,
    fraction: 7,
};
/// `.f32`
pub const F32: Format = Format {
    name: "f32",
    exponent: 8,
    fraction: 23,
};
/// `.f64`
pub const F64: Format = Format {
    name: "f64",
    exponent: 11,
    fraction: 52,
};

/// How a result that fits no number is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// To the nearest, ties to even.
    Nearest,
    /// To the nearest, ties away from zero.
    Away,
    /// Towards zero.
    Zero,
    /// Towards negative infinity.
    Down,
    /// Towards positive infinity.
    Up,
}

/// The modes that most instructions have, with their modifiers.
pub const MODES: [(&str, Mode); 4] = [
    ("rn", Mode::Nearest),
    ("rz", Mode::Zero),
    ("rm", Mode::Down),
    ("rp", Mode::Up),
];

/// What bits stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// Not a number.
    Nan,
    /// Infinity, negative if set.
    Infinite(bool),
    /// `magnitude * 2^exponent`, negative if set.
    Finite {
        /// The sign.
        negative: bool,
        /// The magnitude, up to a power of two.
        magnitude: u128,
        /// The power of two.
        exponent: i32,
    },
}

impl Value {
    /// An integer.
    pub fn integer(x: i128) -> Self {
        Value::Finite {
            negative: x < 0,
            magnitude: x.unsigned_abs(),
            exponent: 0,
        }
    }

    /// Whether the value is below zero.
    pub fn is_negative(self) -> bool {
        match self {
            Value::Nan => false,
            Value::Infinite(negative) => negative,
            Value::Finite {
                negative,
                magnitude,
                ..
            } => negative && magnitude != 0,
        }
    }

    /// The value rounded to an integer; infinities become numbers beyond 64 bits.
    pub fn round(self, mode: Mode) -> Option<i128> {
        let (negative, magnitude) = match self {
            Value::Nan => return None,
            Value::Infinite(negative) => (negative, 1 << 100),
            Value::Finite {
                negative,
                magnitude,
                exponent,
            } => {
                let top = 128 - magnitude.leading_zeros() as i32 + exponent;
                if top > 100 {
                    (negative, 1 << 100)
                } else {
                    (negative, shift(magnitude, -exponent, negative, mode))
                }
            }
        };
        Some(if negative {
            -(magnitude as i128)
        } else {
            magnitude as i128
        })
    }
}

/// `magnitude / 2^by`, rounded.
fn shift(magnitude: u128, by: i32, negative: bool, mode: Mode) -> u128 {
    if by <= 0 {
        return magnitude << -by;
    }
    let by = by as u32;
    let kept = magnitude.checked_shr(by).unwrap_or(0);
    let lost = magnitude - kept.checked_shl(by).unwrap_or(0);
    // Beyond 127 bits what is lost is always less than half.
    let against_half = match 1u128.checked_shl(by - 1) {
        Some(half) => lost.cmp(&half),
        None => std::cmp::Ordering::Less,
    };
    let up = match mode {
        _ if lost == 0 => false,
        Mode::Nearest => against_half.is_gt() || against_half.is_eq() && kept & 1 == 1,
        Mode::Away => against_half.is_ge(),
        Mode::Zero => false,
        Mode::Down => negative,
        Mode::Up => !negative,
    };
    kept + u128::from(up)
}

impl Format {
    fn bias(self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }

    /// Bits in all.
    pub fn bits(self) -> u32 {
        1 + self.exponent + self.fraction
    }

    /// The sign bit alone.
    pub fn sign(self) -> u64 {
        1 << (self.bits() - 1)
    }

    /// Positive infinity.
    pub fn infinity(self) -> u64 {
        ((1 << self.exponent) - 1) << self.fraction
    }

    /// Whether bits are a NaN.
    pub fn is_nan(self, bits: u64) -> bool {
        bits & (self.sign() - 1) > self.infinity()
    }

    /// The value of bits.
    pub fn decode(self, bits: u64) -> Value {
        let negative = bits & self.sign() != 0;
        let fraction = bits & ((1 << self.fraction) - 1);
        let field = bits >> self.fraction & ((1 << self.exponent) - 1);
        if field == (1 << self.exponent) - 1 {
            return if fraction == 0 {
                Value::Infinite(negative)
            } else {
                Value::Nan
            };
        }
        let hidden = if field == 0 { 0 } else { 1 << self.fraction };
        Value::Finite {
            negative,
            magnitude: (hidden | fraction).into(),
            exponent: field.max(1) as i32 - self.bias() - self.fraction as i32,
        }
    }

    /// Bits with a subnormal made zero.
    pub fn flush(self, bits: u64) -> u64 {
        if bits & self.infinity() == 0 {
            bits & self.sign()
        } else {
            bits
        }
    }

    /// The bits of a value rounded to this format.
    pub fn encode(self, value: Value, mode: Mode) -> u64 {
        let (negative, magnitude, exponent) = match value {
            Value::Nan => return self.infinity() | 1,
            Value::Infinite(negative) => {
                return self.infinity() | if negative { self.sign() } else { 0 };
            }
            Value::Finite {
                negative,
                magnitude,
                exponent,
            } => (negative, magnitude, exponent),
        };
        let sign = if negative { self.sign() } else { 0 };
        if magnitude == 0 {
            return sign;
        }
        let smallest = 1 - self.bias() - self.fraction as i32;
        let top = 127 - magnitude.leading_zeros() as i32 + exponent;
        let last = (top - self.fraction as i32).max(smallest);
        let kept = shift(magnitude, last - exponent, negative, mode) as u64;
        // Without its hidden bit a subnormal's field is one less; a carry moves on to the next field.
        let bits = ((last - smallest) as u64).saturating_mul(1 << self.fraction) + kept;
        if bits < self.infinity() {
            return sign | bits;
        }
        let away = match mode {
            Mode::Nearest | Mode::Away => true,
            Mode::Zero => false,
            Mode::Down => negative,
            Mode::Up => !negative,
        };
        sign | if away {
            self.infinity()
        } else {
            self.infinity() - 1
        }
    }
}

#[test]
fn rounding_agrees_with_the_machine() {
    for bits in (0..=u32::MAX).step_by(99_991) {
        let x = f32::from_bits(bits);
        let value = F32.decode(bits.into());
        let wide = F64.encode(value, Mode::Zero);
        let half = F16.encode(value, Mode::Nearest);
        if x.is_nan() {
            assert!(F64.is_nan(wide) && F16.is_nan(half));
        } else {
            assert_eq!(wide, f64::from(x).to_bits());
            assert_eq!(half, u64::from(::half::f16::from_f32(x).to_bits()));
            assert_eq!(F32.encode(F64.decode(wide), Mode::Up), u64::from(bits));
        }
    }
    let tenth = F64.decode(0.1f64.to_bits());
    assert_eq!(
        F32.encode(tenth, Mode::Nearest),
        u64::from(0.1f32.to_bits())
    );
    assert_eq!(
        F32.encode(tenth, Mode::Down),
        u64::from(0.1f32.next_down().to_bits())
    );
    assert_eq!(
        F16.encode(Value::integer(1 << 20), Mode::Zero),
        F16.infinity() - 1
    );
}
