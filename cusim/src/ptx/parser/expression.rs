//! Constant expressions (PTX ISA, "Constant Expressions"), evaluated as they are read.

use super::super::lexer::Kind;
use super::{Parser, Result};

/// Deeper nesting is no real program.
const MAX_DEPTH: u32 = 64;

/// An integer of 64 bits and whether it is unsigned, which decides division, order and shifts.
#[derive(Clone, Copy)]
struct Value {
    bits: u64,
    unsigned: bool,
}

impl Value {
    fn truth(value: bool) -> Self {
        Self {
            bits: value.into(),
            unsigned: false,
        }
    }
}

impl Parser<'_, '_> {
    /// An integer constant expression, two's complement.
    pub(super) fn constant(&mut self) -> Result<u64> {
        Ok(self.ternary(0)?.bits)
    }

    fn ternary(&mut self, depth: u32) -> Result<Value> {
        if depth > MAX_DEPTH {
            return self.error("the expression is nested too deeply");
        }
        let condition = self.binary(0, depth)?;
        if !self.eat("?") {
            return Ok(condition);
        }
        let yes = self.ternary(depth + 1)?;
        self.expect(":")?;
        let no = self.ternary(depth + 1)?;
        Ok(if condition.bits != 0 { yes } else { no })
    }

    /// Operators by precedence, loosest first.
    fn binary(&mut self, level: usize, depth: u32) -> Result<Value> {
        const LEVELS: [&[&str]; 10] = [
            &["||"],
            &["&&"],
            &["|"],
            &["^"],
            &["&"],
            &["==", "!="],
            &["<=", ">=", "<", ">"],
            &["<<", ">>"],
            &["+", "-"],
            &["*", "/", "%"],
        ];
        let Some(operators) = LEVELS.get(level) else {
            return self.unary(depth);
        };
        let mut left = self.binary(level + 1, depth)?;
        while let Some(operator) = operators.iter().find(|operator| self.is(operator)) {
            self.at += 1;
            let right = self.binary(level + 1, depth)?;
            match apply(operator, left, right) {
                Some(value) => left = value,
                None => return self.error("division by zero"),
            }
        }
        Ok(left)
    }

    fn unary(&mut self, depth: u32) -> Result<Value> {
        if depth > MAX_DEPTH {
            return self.error("the expression is nested too deeply");
        }
        match self.peek() {
            Kind::Punct("+") => {
                self.at += 1;
                self.unary(depth + 1)
            }
            Kind::Punct("-") => {
                self.at += 1;
                let value = self.unary(depth + 1)?;
                Ok(Value {
                    bits: value.bits.wrapping_neg(),
                    unsigned: false,
                })
            }
            Kind::Punct("~") => {
                self.at += 1;
                let value = self.unary(depth + 1)?;
                Ok(Value {
                    bits: !value.bits,
                    ..value
                })
            }
            Kind::Punct("!") => {
                self.at += 1;
                Ok(Value::truth(self.unary(depth + 1)?.bits == 0))
            }
            Kind::Punct("(") => {
                self.at += 1;
                if let Kind::Dot(ty @ ("s64" | "u64")) = self.peek() {
                    self.at += 1;
                    self.expect(")")?;
                    let value = self.unary(depth + 1)?;
                    return Ok(Value {
                        unsigned: ty == "u64",
                        ..value
                    });
                }
                let value = self.ternary(depth + 1)?;
                self.expect(")")?;
                Ok(value)
            }
            Kind::Word("WARP_SZ") => {
                self.at += 1;
                Ok(Value {
                    bits: 32,
                    unsigned: false,
                })
            }
            Kind::Int(bits, unsigned) => {
                self.at += 1;
                Ok(Value { bits, unsigned })
            }
            _ => self.unexpected("a constant"),
        }
    }
}

/// `None` for a division by zero.
fn apply(operator: &str, left: Value, right: Value) -> Option<Value> {
    let (a, b) = (left.bits, right.bits);
    let (x, y) = (a as i64, b as i64);
    let unsigned = left.unsigned || right.unsigned;
    let order = if unsigned { a.cmp(&b) } else { x.cmp(&y) };
    let bits = match operator {
        "+" => a.wrapping_add(b),
        "-" => a.wrapping_sub(b),
        "*" => a.wrapping_mul(b),
        "/" if unsigned => a.checked_div(b)?,
        "/" if b == 0 => return None,
        "/" => x.wrapping_div(y) as u64,
        "%" if unsigned => a.checked_rem(b)?,
        "%" if b == 0 => return None,
        "%" => x.wrapping_rem(y) as u64,
        "<<" => {
            return Some(Value {
                bits: shift(b, |n| a << n, 0),
                ..left
            });
        }
        ">>" if left.unsigned => {
            return Some(Value {
                bits: shift(b, |n| a >> n, 0),
                ..left
            });
        }
        ">>" => {
            let sign = if x < 0 { u64::MAX } else { 0 };
            return Some(Value {
                bits: shift(b, |n| (x >> n) as u64, sign),
                ..left
            });
        }
        "&" => a & b,
        "|" => a | b,
        "^" => a ^ b,
        "&&" => return Some(Value::truth(a != 0 && b != 0)),
        "||" => return Some(Value::truth(a != 0 || b != 0)),
        "==" => return Some(Value::truth(a == b)),
        "!=" => return Some(Value::truth(a != b)),
        "<" => return Some(Value::truth(order.is_lt())),
        "<=" => return Some(Value::truth(order.is_le())),
        ">" => return Some(Value::truth(order.is_gt())),
        _ => return Some(Value::truth(order.is_ge())),
    };
    Some(Value { bits, unsigned })
}

fn shift(count: u64, shifted: impl Fn(u32) -> u64, overflow: u64) -> u64 {
    if count < 64 {
        shifted(count as u32)
    } else {
        overflow
    }
}
