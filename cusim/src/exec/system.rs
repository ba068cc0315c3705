//! What the CUDA runtime provides to kernels: `printf` and `assert`.

use std::io::Write;

use super::access::{self, Outcome};
use super::address::{self, Targets};
use super::cta::Env;
use super::warp::{Warp, lanes_of};
use crate::fault::FaultKind;
use crate::program::op::{Order, Space, System, SystemCall};

/// The longest string that a format or an argument of `%s` may be.
const LONGEST: usize = 4096;

pub(super) fn call(
    warp: &mut Warp,
    env: &mut Env<'_>,
    call: &SystemCall,
    pc: usize,
    mask: u32,
) -> Outcome<()> {
    for lane in lanes_of(mask) {
        let thread = Thread { pc, lane };
        match call.function {
            System::Printf => {
                let text = thread.printf(warp, env, call)?;
                // Nobody waits for what cannot be printed.
                let _ = std::io::stdout().write_all(text.as_bytes());
                if let Some(result) = call.result {
                    env.words[0][lane] = text.len() as u32;
                    let targets = thread.targets(Space::Local, result);
                    access::write(warp, env, &targets, 4, pc, Order::Weak)?;
                }
            }
            System::AssertFail => return Err(thread.assertion(warp, env, call)?),
        }
    }
    Ok(())
}

/// One lane of a call.
#[derive(Clone, Copy)]
struct Thread {
    pc: usize,
    lane: usize,
}

impl Thread {
    fn targets(self, space: Space, address: u64) -> Targets {
        address::next_targets(space, &[address; 32], &mut (1 << self.lane))
    }

    fn read(
        self,
        warp: &mut Warp,
        env: &mut Env<'_>,
        (space, address): (Space, u64),
        bytes: usize,
    ) -> Outcome<u64> {
        let targets = self.targets(space, address);
        access::read(warp, env, &targets, bytes, self.pc, Order::Weak)?;
        let (low, high) = (env.words[0][self.lane], env.words[1][self.lane]);
        Ok(if bytes == 8 {
            u64::from(high) << 32 | u64::from(low)
        } else {
            low.into()
        })
    }

    fn string(self, warp: &mut Warp, env: &mut Env<'_>, address: u64) -> Outcome<String> {
        let mut bytes = Vec::new();
        while bytes.len() < LONGEST {
            let at = address + bytes.len() as u64;
            match self.read(warp, env, (Space::Generic, at), 1)? {
                0 => break,
                byte => bytes.push(byte as u8),
            }
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn argument(self, warp: &mut Warp, env: &mut Env<'_>, at: u64, bytes: usize) -> Outcome<u64> {
        self.read(warp, env, (Space::Local, at), bytes)
    }

    /// The text of a `vprintf`. Arguments lie one after the other, each at its own alignment; those
    /// shorter than an int are ints, and float is double.
    fn printf(self, warp: &mut Warp, env: &mut Env<'_>, call: &SystemCall) -> Outcome<String> {
        let format = self.argument(warp, env, call.arguments[0], 8)?;
        let arguments = self.argument(warp, env, call.arguments[1], 8)?;
        let format = self.string(warp, env, format)?;
        let mut next = arguments;
        let mut text = String::new();
        let mut rest = format.as_str();
        while let Some(at) = rest.find('%') {
            text.push_str(&rest[..at]);
            let (mut conversion, after) = Conversion::parse(&rest[at..]);
            rest = after;
            let mut take = |warp: &mut Warp, env: &mut Env<'_>, bytes: usize| -> Outcome<u64> {
                next = next.next_multiple_of(bytes as u64);
                let value = self.read(warp, env, (Space::Generic, next), bytes)?;
                next += bytes as u64;
                Ok(value)
            };
            for star in 0..conversion.stars {
                let value = take(warp, env, 4)? as i32;
                conversion.fill(star, value);
            }
            let shown = match conversion.kind {
                '%' => "%".to_owned(),
                's' => {
                    let address = take(warp, env, 8)?;
                    conversion.text(&self.string(warp, env, address)?)
                }
                'd' | 'i' | 'u' | 'x' | 'X' | 'o' | 'c' if conversion.long => {
                    conversion.integer(take(warp, env, 8)?)
                }
                'd' | 'i' => conversion.integer(take(warp, env, 4)? as i32 as u64),
                'u' | 'x' | 'X' | 'o' | 'c' => conversion.integer(take(warp, env, 4)?),
                'p' => conversion.integer(take(warp, env, 8)?),
                _ => conversion.float(f64::from_bits(take(warp, env, 8)?)),
            };
            text.push_str(&shown);
        }
        text.push_str(rest);
        Ok(text)
    }

    fn assertion(
        self,
        warp: &mut Warp,
        env: &mut Env<'_>,
        call: &SystemCall,
    ) -> Outcome<Box<crate::fault::Fault>> {
        let mut texts = Vec::new();
        for at in [0, 1, 3] {
            let address = self.argument(warp, env, call.arguments[at], 8)?;
            texts.push(self.string(warp, env, address)?);
        }
        let line = self.argument(warp, env, call.arguments[2], 4)?;
        let [condition, file, function] = &texts[..] else {
            return Ok(env.fault(
                FaultKind::Trap,
                "an assertion failed",
                warp.index,
                self.pc,
                0,
            ));
        };
        let message = format!("assertion `{condition}` failed in {function}, {file}:{line}");
        Ok(env.fault(
            FaultKind::Trap,
            message,
            warp.index,
            self.pc,
            1 << self.lane,
        ))
    }
}

/// One conversion of a format, as in C.
#[derive(Debug, Default)]
struct Conversion {
    left: bool,
    plus: bool,
    space: bool,
    zeros: bool,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
    /// Which of width and precision are arguments.
    width_star: bool,
    precision_star: bool,
    stars: usize,
    long: bool,
    kind: char,
}

impl Conversion {
    /// The conversion at the start of a text, and what follows it.
    fn parse(text: &str) -> (Self, &str) {
        let mut found = Self {
            kind: '%',
            ..Self::default()
        };
        let mut chars = text.char_indices().skip(1);
        let mut in_precision = false;
        for (at, c) in &mut chars {
            match c {
                '-' => found.left = true,
                '+' => found.plus = true,
                ' ' => found.space = true,
                '#' => found.alternate = true,
                '0' if found.width == 0 && !in_precision => found.zeros = true,
                '.' => {
                    in_precision = true;
                    found.precision = Some(0);
                }
                '*' => {
                    found.stars += 1;
                    found.precision_star |= in_precision;
                    found.width_star |= !in_precision;
                }
                '0'..='9' => {
                    let digit = c as usize - '0' as usize;
                    match &mut found.precision {
                        Some(precision) => *precision = *precision * 10 + digit,
                        None => found.width = found.width * 10 + digit,
                    }
                }
                'l' | 'z' | 'j' | 't' => found.long = true,
                'h' | 'L' => {}
                kind => {
                    found.kind = kind;
                    return (found, &text[at + kind.len_utf8()..]);
                }
            }
        }
        (found, "")
    }

    /// Sets the width or precision that an argument gives.
    fn fill(&mut self, star: usize, value: i32) {
        if star == 0 && self.width_star {
            self.left |= value < 0;
            self.width = value.unsigned_abs() as usize;
        } else {
            self.precision = usize::try_from(value).ok();
        }
    }

    fn pad(&self, sign: &str, digits: &str) -> String {
        let length = sign.len() + digits.chars().count();
        let missing = self.width.min(LONGEST).saturating_sub(length);
        let (fill, zeros) = (" ".repeat(missing), "0".repeat(missing));
        match (self.left, self.zeros) {
            (true, _) => format!("{sign}{digits}{fill}"),
            (false, true) => format!("{sign}{zeros}{digits}"),
            (false, false) => format!("{fill}{sign}{digits}"),
        }
    }

    fn text(&self, text: &str) -> String {
        let cut: String = match self.precision {
            Some(longest) => text.chars().take(longest).collect(),
            None => text.to_owned(),
        };
        let plain = Self {
            zeros: false,
            left: self.left,
            width: self.width,
            ..Self::default()
        };
        plain.pad("", &cut)
    }

    fn sign(&self, negative: bool) -> &'static str {
        match (negative, self.plus, self.space) {
            (true, ..) => "-",
            (_, true, _) => "+",
            (_, _, true) => " ",
            _ => "",
        }
    }

    fn integer(&self, value: u64) -> String {
        let prefix = |text| {
            if self.alternate && value != 0 {
                text
            } else {
                ""
            }
        };
        let signed = value as i64;
        let (sign, digits) = match self.kind {
            'd' | 'i' => (self.sign(signed < 0), signed.unsigned_abs().to_string()),
            'x' => (prefix("0x"), format!("{value:x}")),
            'X' => (prefix("0X"), format!("{value:X}")),
            'o' => (prefix("0"), format!("{value:o}")),
            'p' => ("0x", format!("{value:x}")),
            'c' => return self.text(&char::from(value as u8).to_string()),
            _ => ("", value.to_string()),
        };
        let least = self.precision.unwrap_or(1).min(LONGEST);
        self.pad(sign, &format!("{digits:0>least$}"))
    }

    fn float(&self, value: f64) -> String {
        let sign = self.sign(value.is_sign_negative());
        let magnitude = value.abs();
        if !magnitude.is_finite() {
            let name = if value.is_nan() { "nan" } else { "inf" };
            return Self {
                zeros: false,
                left: self.left,
                width: self.width,
                ..Self::default()
            }
            .pad(sign, name);
        }
        let precision = self.precision.unwrap_or(6).min(LONGEST);
        let digits = match self.kind {
            'e' | 'E' => exponential(magnitude, precision),
            'g' | 'G' => shortest(magnitude, precision.max(1), self.alternate),
            'a' | 'A' => format!("{magnitude:?}"),
            _ => format!("{magnitude:.precision$}"),
        };
        let digits = if self.kind.is_ascii_uppercase() {
            digits.to_ascii_uppercase()
        } else {
            digits
        };
        self.pad(sign, &digits)
    }
}

/// As `%e`: at least two digits of exponent.
fn exponential(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

/// As `%g`: whichever is shorter, without zeros at the end.
fn shortest(value: f64, precision: usize, keep_zeros: bool) -> String {
    let text = exponential(value, precision - 1);
    let exponent = text
        .split_once('e')
        .and_then(|(_, exponent)| exponent.parse::<i32>().ok())
        .unwrap_or(0);
    let trim = |text: &str| {
        if keep_zeros || !text.contains('.') {
            text.to_owned()
        } else {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    };
    if exponent < -4 || exponent >= precision as i32 {
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "+00"));
        format!("{}e{exponent}", trim(mantissa))
    } else {
        let decimals = (precision as i32 - 1 - exponent).max(0) as usize;
        trim(&format!("{value:.decimals$}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn integer(format: &str, value: u64) -> String {
        Conversion::parse(format).0.integer(value)
    }

    fn float(format: &str, value: f64) -> String {
        Conversion::parse(format).0.float(value)
    }

    #[test]
    fn integers_are_shown_as_in_c() {
        assert_eq!(integer("%d", -5i64 as u64), "-5");
        assert_eq!(integer("%5d|", 42), "   42");
        assert_eq!(integer("%-5d", 42), "42   ");
        assert_eq!(integer("%05d", -42i64 as u64), "-0042");
        assert_eq!(integer("%+d", 3), "+3");
        assert_eq!(integer("%.3u", 7), "007");
        assert_eq!(integer("%#x", 255), "0xff");
        assert_eq!(integer("%X", 255), "FF");
        assert_eq!(integer("%c", 65), "A");
    }

    #[test]
    fn floats_are_shown_as_in_c() {
        assert_eq!(float("%f", 1.5), "1.500000");
        assert_eq!(float("%8.2f", -2.5625), "   -2.56");
        assert_eq!(float("%e", 12345.678), "1.234568e+04");
        assert_eq!(float("%g", 0.0001), "0.0001");
        assert_eq!(float("%g", 1e-5), "1e-05");
        assert_eq!(float("%g", 1234567.0), "1.23457e+06");
        assert_eq!(float("%g", 100.0), "100");
        assert_eq!(float("%5.1f", f64::INFINITY), "  inf");
        assert_eq!(float("%f", f64::NAN), "nan");
    }

    #[test]
    fn conversions_end_where_their_kind_is() {
        let (conversion, rest) = Conversion::parse("%-08.3lld tail");
        assert!(conversion.left && conversion.zeros && conversion.long);
        assert_eq!((conversion.width, conversion.precision), (8, Some(3)));
        assert_eq!((conversion.kind, rest), ('d', " tail"));
        let (conversion, rest) = Conversion::parse("%*.*f");
        assert_eq!((conversion.stars, rest), (2, ""));
    }
}
