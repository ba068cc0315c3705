//! Text to tokens (PTX ISA, "Syntax").

use std::fmt;

use super::ParseError;

/// What a token is; words borrow the text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind<'a> {
    /// An identifier with its `%`, `$` or `_`.
    Word(&'a str),
    /// `.word`, without the dot: a directive, modifier or component. `::` stays inside.
    Dot(&'a str),
    /// An integer literal and whether it is unsigned (`U`, or too large for i64).
    Int(u64, bool),
    /// `0fXXXXXXXX`.
    F32(u32),
    /// `0dXXXXXXXXXXXXXXXX` or a decimal literal with point or exponent.
    F64(u64),
    /// Between quotes.
    Text(&'a str),
    /// An operator or bracket.
    Punct(&'static str),
    /// The end.
    End,
}

/// As error messages name it.
impl fmt::Display for Kind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Word(word) => write!(f, "`{word}`"),
            Kind::Dot(word) => write!(f, "`.{word}`"),
            Kind::Int(value, _) => write!(f, "{value}"),
            Kind::F32(bits) => write!(f, "0f{bits:08X}"),
            Kind::F64(bits) => write!(f, "{:?}", f64::from_bits(*bits)),
            Kind::Text(text) => write!(f, "\"{text}\""),
            Kind::Punct(p) => write!(f, "`{p}`"),
            Kind::End => f.write_str("the end of the text"),
        }
    }
}

/// A token and its line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind<'a>,
    pub(super) line: u32,
}

/// The first that fits is taken: those of two characters stand before their beginnings, and the
/// most frequent ones first of all.
const PUNCTUATION: [&str; 32] = [
    ",", ";", "[", "]", "{", "}", "(", ")", ":", "@", "<<", "<=", "<", ">>", ">=", ">", "==", "=",
    "!=", "!", "&&", "&", "||", "|", "+", "-", "*", "/", "%", "^", "~", "?",
];

/// Whether a text begins as PTX must, with its version.
pub(crate) fn begins(text: &str) -> bool {
    let first = Lexer::new(text).next();
    first.is_ok_and(|token| token.kind == Kind::Dot("version"))
}

/// All tokens of a text; the last one is [`Kind::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, ParseError> {
    let mut lexer = Lexer::new(text);
    // About one token for every four bytes of real PTX.
    let mut tokens = Vec::with_capacity(text.len() / 4 + 1);
    loop {
        let token = lexer.next()?;
        tokens.push(token);
        if token.kind == Kind::End {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: u32,
}

fn is_word_start(c: u8) -> bool {
    c.is_ascii_alphabetic() || matches!(c, b'_' | b'$' | b'%')
}

fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$')
}

impl<'a> Lexer<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            line: 1,
        }
    }

    fn next(&mut self) -> Result<Token<'a>, ParseError> {
        self.skip_blanks()?;
        let line = self.line;
        let kind = match self.peek(0) {
            None => Kind::End,
            Some(b'"') => self.text_literal()?,
            Some(b'.') if self.starts_fraction() => self.decimal()?,
            Some(b'.') if self.peek(1).is_some_and(is_word) => self.dot_word(),
            Some(c) if c.is_ascii_digit() => self.number()?,
            Some(b'%') if !self.peek(1).is_some_and(is_word) => self.punctuation()?,
            Some(c) if is_word_start(c) => {
                let start = self.at;
                self.at += 1;
                self.advance_while(is_word);
                Kind::Word(&self.text[start..self.at])
            }
            Some(_) => self.punctuation()?,
        };
        Ok(Token { kind, line })
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    fn advance_while(&mut self, accept: impl Fn(u8) -> bool) {
        while self.peek(0).is_some_and(&accept) {
            self.at += 1;
        }
    }

    fn error(&self, message: String) -> ParseError {
        ParseError {
            line: self.line,
            message,
        }
    }

    fn punctuation(&mut self) -> Result<Kind<'a>, ParseError> {
        let rest = &self.text[self.at..];
        match PUNCTUATION.iter().find(|p| rest.starts_with(**p)) {
            Some(p) => {
                self.at += p.len();
                Ok(Kind::Punct(p))
            }
            None => {
                let c = rest.chars().next().unwrap_or_default();
                Err(self.error(format!("unexpected character {c:?}")))
            }
        }
    }

    fn skip_blanks(&mut self) -> Result<(), ParseError> {
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(b'\n'), _) => {
                    self.line += 1;
                    self.at += 1;
                }
                (Some(c), _) if c.is_ascii_whitespace() => self.at += 1,
                (Some(b'/'), Some(b'/')) => self.advance_while(|c| c != b'\n'),
                (Some(b'/'), Some(b'*')) => {
                    let rest = &self.text[self.at + 2..];
                    let Some(length) = rest.find("*/") else {
                        return Err(self.error("a comment is not closed".to_owned()));
                    };
                    self.line += rest[..length].bytes().filter(|&c| c == b'\n').count() as u32;
                    self.at += length + 4;
                }
                _ => return Ok(()),
            }
        }
    }

    fn text_literal(&mut self) -> Result<Kind<'a>, ParseError> {
        let rest = &self.text[self.at + 1..];
        match rest.find(['"', '\n']) {
            Some(length) if rest.as_bytes()[length] == b'"' => {
                self.at += length + 2;
                Ok(Kind::Text(&rest[..length]))
            }
            _ => Err(self.error("a string is not closed".to_owned())),
        }
    }

    /// `.L2::128B` is one word: a single colon ends it, a double one does not.
    fn dot_word(&mut self) -> Kind<'a> {
        let start = self.at + 1;
        self.at = start;
        loop {
            self.advance_while(is_word);
            if self.peek(0) == Some(b':')
                && self.peek(1) == Some(b':')
                && self.peek(2).is_some_and(is_word)
            {
                self.at += 2;
            } else {
                return Kind::Dot(&self.text[start..self.at]);
            }
        }
    }

    /// True at `.5`, false at the `.2x` of `.4.2x` and at `.1d`: modifiers start with digits too.
    fn starts_fraction(&self) -> bool {
        let bytes = self.text.as_bytes();
        let attached = self.at > 0 && is_word(bytes[self.at - 1]);
        let rest = &bytes[self.at + 1..];
        let digits = rest.iter().take_while(|c| c.is_ascii_digit()).count();
        let ends = !rest.get(digits).is_some_and(|&c| is_word(c));
        digits > 0 && !attached && (ends || self.has_exponent(digits + 1))
    }

    /// True where an `e`, an optional sign and a digit stand.
    fn has_exponent(&self, ahead: usize) -> bool {
        let sign = matches!(self.peek(ahead + 1), Some(b'+' | b'-'));
        matches!(self.peek(ahead), Some(b'e' | b'E'))
            && self
                .peek(ahead + 1 + usize::from(sign))
                .is_some_and(|c| c.is_ascii_digit())
    }

    fn number(&mut self) -> Result<Kind<'a>, ParseError> {
        let start = self.at;
        let prefix = (self.peek(0), self.peek(1).map(|c| c.to_ascii_lowercase()));
        let kind = match prefix {
            (Some(b'0'), Some(b'f')) => self.float_bits(8)?,
            (Some(b'0'), Some(b'd')) => self.float_bits(16)?,
            (Some(b'0'), Some(b'x')) => self.integer(2, 16)?,
            (Some(b'0'), Some(b'b')) => self.integer(2, 2)?,
            _ => self.decimal()?,
        };
        if self.peek(0).is_some_and(is_word) {
            self.advance_while(is_word);
            let text = &self.text[start..self.at];
            return Err(self.error(format!("{text} is not a number")));
        }
        Ok(kind)
    }

    /// Digits after a prefix of some characters.
    fn integer(&mut self, prefix: usize, radix: u32) -> Result<Kind<'a>, ParseError> {
        let start = self.at;
        self.at += prefix;
        let digits = self.at;
        self.advance_while(|c| char::from(c).is_digit(radix));
        let value = u64::from_str_radix(&self.text[digits..self.at], radix).map_err(|_| {
            let text = &self.text[start..self.at];
            self.error(format!("{text} is not an integer of 64 bits"))
        })?;
        let suffix = self.peek(0) == Some(b'U');
        self.at += usize::from(suffix);
        Ok(Kind::Int(value, suffix || value > i64::MAX as u64))
    }

    fn float_bits(&mut self, digits: usize) -> Result<Kind<'a>, ParseError> {
        self.at += 2;
        let start = self.at;
        self.advance_while(|c| c.is_ascii_hexdigit());
        let text = &self.text[start..self.at];
        match u64::from_str_radix(text, 16) {
            Ok(bits) if text.len() == digits && digits == 8 => Ok(Kind::F32(bits as u32)),
            Ok(bits) if text.len() == digits => Ok(Kind::F64(bits)),
            _ => Err(self.error(format!("a float literal needs {digits} hexadecimal digits"))),
        }
    }

    /// A decimal or octal integer, or a float: `12`, `017`, `1.5`, `1.`, `.5`, `1e-5`.
    fn decimal(&mut self) -> Result<Kind<'a>, ParseError> {
        let start = self.at;
        self.advance_while(|c| c.is_ascii_digit());
        let after_point = self.peek(1).filter(|&c| is_word(c));
        let point = self.peek(0) == Some(b'.')
            && (after_point.is_none_or(|c| c.is_ascii_digit()) || self.has_exponent(1));
        if point {
            self.at += 1;
            self.advance_while(|c| c.is_ascii_digit());
        }
        let exponent = self.has_exponent(0);
        if exponent {
            self.at += 2;
            self.advance_while(|c| c.is_ascii_digit());
        }
        let text = &self.text[start..self.at];
        if point || exponent {
            return match text.parse::<f64>() {
                Ok(value) => Ok(Kind::F64(value.to_bits())),
                Err(_) => Err(self.error(format!("{text} is not a number"))),
            };
        }
        let octal = text.len() > 1 && text.starts_with('0');
        self.at = start;
        self.integer(0, if octal { 8 } else { 10 })
    }
}
