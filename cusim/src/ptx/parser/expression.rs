//! Constant expressions (PTX ISA, "Constant Expressions"), evaluated as they are read. Where the
//! text leaves a choice, ptxas decided: `%` is unsigned always, `~` gives an unsigned value, shift
//! counts are taken modulo 64, and `?:` keeps the type of the value chosen.

use super::super::lexer::Kind;
use super::{Parser, Result, at_line};

/// Deeper nesting is no real program.
const MAX_DEPTH: u32 = 64;

/// A constant.
#[derive(Clone, Copy)]
pub(super) enum Value {
    /// 64 bits, and whether they are unsigned, which decides division and order.
    Int {
        bits: u64,
        unsigned: bool,
    },
    Float(f64),
}

use Value::{Float, Int};

fn signed(bits: u64) -> Value {
    Int {
        bits,
        unsigned: false,
    }
}

fn truth(value: bool) -> Value {
    signed(value.into())
}

/// How tightly a binary operator binds.
fn precedence(operator: &str) -> Option<u32> {
    Some(match operator {
        "||" => 1,
        "&&" => 2,
        "|" => 3,
        "^" => 4,
        "&" => 5,
        "==" | "!=" => 6,
        "<" | "<=" | ">" | ">=" => 7,
        "<<" | ">>" => 8,
        "+" | "-" => 9,
        "*" | "/" | "%" => 10,
        _ => return None,
    })
}

impl Parser<'_, '_> {
    /// An integer constant expression, two's complement.
    pub(super) fn constant(&mut self) -> Result<u64> {
        let line = self.line();
        let value = self.number()?;
        at_line(line, integer(value))
    }

    /// A constant expression of either kind.
    pub(super) fn number(&mut self) -> Result<Value> {
        self.ternary(0)
    }

    /// `+ constant`, `- constant`, or nothing.
    pub(super) fn offset(&mut self) -> Result<i64> {
        if self.is("+") || self.is("-") {
            return Ok(self.constant()? as i64);
        }
        Ok(0)
    }

    fn ternary(&mut self, depth: u32) -> Result<Value> {
        if depth > MAX_DEPTH {
            return self.error("the expression is nested too deeply");
        }
        let line = self.line();
        let condition = self.binary(1, depth)?;
        if !self.eat("?") {
            return Ok(condition);
        }
        let condition = at_line(line, integer(condition))?;
        let yes = self.ternary(depth + 1)?;
        self.expect(":")?;
        let no = self.ternary(depth + 1)?;
        Ok(if condition != 0 { yes } else { no })
    }

    /// Binary operators that bind at least as tightly as `floor`.
    fn binary(&mut self, floor: u32, depth: u32) -> Result<Value> {
        let mut left = self.unary(depth)?;
        while let Kind::Punct(operator) = self.peek() {
            let Some(level) = precedence(operator).filter(|&level| level >= floor) else {
                break;
            };
            let line = self.line();
            self.at += 1;
            let right = self.binary(level + 1, depth)?;
            left = at_line(line, apply(operator, left, right))?;
        }
        Ok(left)
    }

    fn unary(&mut self, depth: u32) -> Result<Value> {
        if depth > MAX_DEPTH {
            return self.error("the expression is nested too deeply");
        }
        let line = self.line();
        match self.peek() {
            Kind::Punct(sign @ ("+" | "-")) => {
                self.at += 1;
                let value = self.unary(depth + 1)?;
                Ok(match value {
                    _ if sign == "+" => value,
                    Int { bits, unsigned } => Int {
                        bits: bits.wrapping_neg(),
                        unsigned,
                    },
                    Float(value) => Float(-value),
                })
            }
            Kind::Punct("~") => {
                self.at += 1;
                let value = self.unary(depth + 1)?;
                Ok(Int {
                    bits: !at_line(line, integer(value))?,
                    unsigned: true,
                })
            }
            Kind::Punct("!") => {
                self.at += 1;
                let value = self.unary(depth + 1)?;
                Ok(truth(at_line(line, integer(value))? == 0))
            }
            Kind::Punct("(") => self.parenthesis(depth),
            Kind::Word("WARP_SZ") => {
                self.at += 1;
                Ok(signed(32))
            }
            Kind::Int(bits, unsigned) => {
                self.at += 1;
                Ok(Int { bits, unsigned })
            }
            Kind::F64(bits) => {
                self.at += 1;
                Ok(Float(f64::from_bits(bits)))
            }
            _ => self.unexpected("a constant"),
        }
    }

    /// `(expression)`, or the cast `(.u64) value`.
    fn parenthesis(&mut self, depth: u32) -> Result<Value> {
        self.at += 1;
        if let Kind::Dot(ty @ ("s64" | "u64")) = self.peek() {
            self.at += 1;
            self.expect(")")?;
            let line = self.line();
            let value = self.unary(depth + 1)?;
            return Ok(Int {
                bits: at_line(line, integer(value))?,
                unsigned: ty == "u64",
            });
        }
        let value = self.ternary(depth + 1)?;
        self.expect(")")?;
        Ok(value)
    }
}

fn integer(value: Value) -> Result<u64, String> {
    match value {
        Int { bits, .. } => Ok(bits),
        Float(value) => Err(format!("{value:?} is not an integer")),
    }
}

fn apply(operator: &str, left: Value, right: Value) -> Result<Value, String> {
    match (left, right) {
        (Float(a), Float(b)) => floats(operator, a, b)
            .ok_or_else(|| format!("`{operator}` does not apply to floating-point constants")),
        (
            Int { bits: a, unsigned },
            Int {
                bits: b,
                unsigned: other,
            },
        ) => integers(operator, (a, unsigned), (b, other))
            .ok_or_else(|| "division by zero in a constant".to_owned()),
        _ => Err("integer and floating-point constants do not mix".to_owned()),
    }
}

fn floats(operator: &str, a: f64, b: f64) -> Option<Value> {
    Some(match operator {
        "+" => Float(a + b),
        "-" => Float(a - b),
        "*" => Float(a * b),
        "/" => Float(a / b),
        "==" => truth(a == b),
        "!=" => truth(a != b),
        "<" => truth(a < b),
        "<=" => truth(a <= b),
        ">" => truth(a > b),
        ">=" => truth(a >= b),
        _ => return None,
    })
}

/// `None` for a division by zero.
fn integers(operator: &str, left: (u64, bool), right: (u64, bool)) -> Option<Value> {
    let ((a, left_unsigned), (b, right_unsigned)) = (left, right);
    let (x, y) = (a as i64, b as i64);
    let mut unsigned = left_unsigned || right_unsigned;
    let order = if unsigned { a.cmp(&b) } else { x.cmp(&y) };
    let bits = match operator {
        "+" => a.wrapping_add(b),
        "-" => a.wrapping_sub(b),
        "*" => a.wrapping_mul(b),
        "/" if b == 0 => return None,
        "/" if unsigned => a / b,
        "/" => x.wrapping_div(y) as u64,
        "%" => {
            unsigned = true;
            a.checked_rem(b)?
        }
        "<<" | ">>" => {
            unsigned = left_unsigned;
            match operator {
                "<<" => a.wrapping_shl(b as u32),
                _ if unsigned => a.wrapping_shr(b as u32),
                _ => x.wrapping_shr(b as u32) as u64,
            }
        }
        "&" => a & b,
        "|" => a | b,
        "^" => a ^ b,
        "&&" => return Some(truth(a != 0 && b != 0)),
        "||" => return Some(truth(a != 0 || b != 0)),
        "==" => return Some(truth(a == b)),
        "!=" => return Some(truth(a != b)),
        "<" => return Some(truth(order.is_lt())),
        "<=" => return Some(truth(order.is_le())),
        ">" => return Some(truth(order.is_gt())),
        _ => return Some(truth(order.is_ge())),
    };
    Some(Int { bits, unsigned })
}
