//! Text to tokens (PTX ISA, "Syntax").

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

/// A token and its line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind<'a>,
    pub(super) line: u32,
}

/// Longest first: the first that fits is taken.
const PUNCTUATION: [&str; 31] = [
    "<<", ">>", "<=", ">=", "==", "!=", "&&", "||", ",", ";", ":", "{", "}", "(", ")", "[", "]",
    "<", ">", "@", "!", "|", "+", "-", "*", "/", "%", "&", "^", "~", "?",
];

pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, ParseError> {
    let mut lexer = Lexer {
        text,
        at: 0,
        line: 1,
    };
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
    fn next(&mut self) -> Result<Token<'a>, ParseError> {
        self.skip_blanks()?;
        let line = self.line;
        let kind = match self.peek(0) {
            None => Kind::End,
            Some(b'"') => self.text_literal()?,
            Some(b'.') if self.peek(1).is_some_and(is_word) => self.dot_word(),
            Some(c) if c.is_ascii_digit() => self.number()?,
            Some(b'%') if !self.peek(1).is_some_and(is_word_start) => self.punctuation("%"),
            Some(c) if is_word_start(c) => {
                let start = self.at;
                self.at += 1;
                self.advance_while(is_word);
                Kind::Word(&self.text[start..self.at])
            }
            Some(_) => {
                let rest = &self.text[self.at..];
                match PUNCTUATION.iter().find(|p| rest.starts_with(**p)) {
                    Some(p) => self.punctuation(p),
                    None if rest.starts_with('=') => self.punctuation("="),
                    None => {
                        let c = rest.chars().next().unwrap_or_default();
                        return Err(self.error(format!("unexpected character {c:?}")));
                    }
                }
            }
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

    fn punctuation(&mut self, p: &'static str) -> Kind<'a> {
        self.at += p.len();
        Kind::Punct(p)
    }

    fn error(&self, message: String) -> ParseError {
        ParseError {
            line: self.line,
            message,
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

    fn number(&mut self) -> Result<Kind<'a>, ParseError> {
        let rest = &self.text.as_bytes()[self.at..];
        let radix = match (rest[0], rest.get(1).map(u8::to_ascii_lowercase)) {
            (b'0', Some(b'f')) => return self.float_bits(8),
            (b'0', Some(b'd')) => return self.float_bits(16),
            (b'0', Some(b'x')) => 16,
            (b'0', Some(b'b')) => 2,
            (b'0', Some(c)) if c.is_ascii_digit() => 8,
            _ => 10,
        };
        let start = self.at;
        if radix == 16 || radix == 2 {
            self.at += 2;
        }
        let digits = self.at;
        self.advance_while(|c| c.is_ascii_hexdigit() && (radix == 16 || c.is_ascii_digit()));
        let point = self.peek(0) == Some(b'.') && self.peek(1).is_some_and(|c| c.is_ascii_digit());
        let exponent = matches!(self.peek(0), Some(b'e' | b'E'));
        if (radix == 10 || radix == 8) && (point || exponent) {
            return self.decimal_float(start);
        }
        let value = u64::from_str_radix(&self.text[digits..self.at], radix)
            .map_err(|e| self.error(format!("{}: {e}", &self.text[start..self.at])))?;
        let suffix = self.peek(0) == Some(b'U');
        if suffix {
            self.at += 1;
        }
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

    fn decimal_float(&mut self, start: usize) -> Result<Kind<'a>, ParseError> {
        if self.peek(0) == Some(b'.') {
            self.at += 1;
            self.advance_while(|c| c.is_ascii_digit());
        }
        if matches!(self.peek(0), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(0), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.advance_while(|c| c.is_ascii_digit());
        }
        let text = &self.text[start..self.at];
        let value: f64 = text
            .parse()
            .map_err(|e| self.error(format!("{text}: {e}")))?;
        Ok(Kind::F64(value.to_bits()))
    }
}
