//! Tokens to the syntax tree: what all parts share, and the entry.

mod body;
mod expression;
mod function;
mod initializer;
mod module;
mod operand;
mod scope;
mod variable;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::ParseError;
use super::ast::{Loc, Module, Symbol, Type};
use super::lexer::{Kind, Token, tokens};

/// More registers than the kernels of any real module declare together. Their text is short:
/// without a bound, a few kilobytes could ask for all memory.
const MODULE_REGISTERS: u64 = 1 << 23;
/// Likewise for the bytes of initialised variables, most of which may be implied zeros.
const MODULE_INITIALISED: u64 = 1 << 30;

/// Parses the text of one PTX module.
///
/// # Errors
/// [`ParseError`] with the line of the first thing that is not PTX.
pub fn parse(text: &str) -> Result<Module, ParseError> {
    let tokens = tokens(text)?;
    let mut parser = Parser::new(&tokens);
    parser.module()?;
    Ok(parser.module)
}

struct Parser<'t, 'a> {
    tokens: &'t [Token<'a>],
    at: usize,
    module: Module,
    /// Module-scope names.
    globals: HashMap<Arc<str>, Symbol>,
    /// Opcodes, modifiers and special registers: there are few, in many places.
    words: HashMap<&'a str, Arc<str>>,
    /// `.alias`: the function that is named and the one that is meant.
    aliases: HashMap<u32, u32>,
    /// Indices into [`Module::callers`].
    callers: HashMap<Loc, u32>,
    registers_left: u64,
    initialised_left: u64,
}

type Result<T, E = ParseError> = std::result::Result<T, E>;

impl<'t, 'a> Parser<'t, 'a> {
    fn new(tokens: &'t [Token<'a>]) -> Self {
        let module = Module {
            version: (0, 0),
            target: String::new(),
            address_size: 32,
            files: BTreeMap::new(),
            callers: Vec::new(),
            variables: Vec::new(),
            functions: Vec::new(),
        };
        Self {
            tokens,
            at: 0,
            module,
            globals: HashMap::new(),
            words: HashMap::new(),
            aliases: HashMap::new(),
            callers: HashMap::new(),
            registers_left: MODULE_REGISTERS,
            initialised_left: MODULE_INITIALISED,
        }
    }

    fn peek(&self) -> Kind<'a> {
        self.peek_at(0)
    }

    fn peek_at(&self, ahead: usize) -> Kind<'a> {
        self.tokens
            .get(self.at + ahead)
            .map_or(Kind::End, |token| token.kind)
    }

    fn line(&self) -> u32 {
        let last = self.tokens.len() - 1;
        self.tokens[self.at.min(last)].line
    }

    fn error<T>(&self, message: impl Into<String>) -> Result<T> {
        fail(self.line(), message)
    }

    fn unexpected<T>(&self, wanted: &str) -> Result<T> {
        self.error(format!("expected {wanted}, found {}", self.peek()))
    }

    fn is(&self, punct: &str) -> bool {
        matches!(self.peek(), Kind::Punct(p) if p == punct)
    }

    fn eat(&mut self, punct: &str) -> bool {
        let found = self.is(punct);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, punct: &str) -> Result<()> {
        if self.eat(punct) {
            Ok(())
        } else {
            self.unexpected(&format!("`{punct}`"))
        }
    }

    fn eat_dot(&mut self, word: &str) -> bool {
        let found = self.peek() == Kind::Dot(word);
        self.at += usize::from(found);
        found
    }

    fn word(&mut self) -> Result<&'a str> {
        match self.peek() {
            Kind::Word(word) => {
                self.at += 1;
                Ok(word)
            }
            _ => self.unexpected("a name"),
        }
    }

    /// A word that is kept, stored once.
    fn intern(&mut self, word: &'a str) -> Arc<str> {
        self.words
            .entry(word)
            .or_insert_with(|| word.into())
            .clone()
    }

    fn int(&mut self) -> Result<u64> {
        match self.peek() {
            Kind::Int(value, _) => {
                self.at += 1;
                Ok(value)
            }
            _ => self.unexpected("an integer"),
        }
    }

    fn int32(&mut self) -> Result<u32> {
        let line = self.line();
        let value = self.int()?;
        u32::try_from(value).or_else(|_| fail(line, format!("{value} is too large")))
    }

    /// `"text", "text";`
    fn pragma(&mut self) -> Result<()> {
        self.at += 1;
        loop {
            match self.peek() {
                Kind::Text(_) => self.at += 1,
                _ => return self.unexpected("a string"),
            }
            if !self.eat(",") {
                return self.expect(";");
            }
        }
    }

    /// `.attribute(.managed, .unified(1, 2))`, which changes nothing here.
    fn attribute(&mut self) -> Result<()> {
        self.at += 1;
        self.expect("(")?;
        let mut depth = 1;
        while depth > 0 {
            match self.peek() {
                Kind::Punct("(") => depth += 1,
                Kind::Punct(")") => depth -= 1,
                Kind::Punct(",") | Kind::Dot(_) | Kind::Int(..) => {}
                _ => return self.unexpected("an attribute"),
            }
            self.at += 1;
        }
        Ok(())
    }
}

fn fail<T>(line: u32, message: impl Into<String>) -> Result<T> {
    Err(ParseError {
        line,
        message: message.into(),
    })
}

/// Gives an error its line.
fn at_line<T>(line: u32, result: Result<T, String>) -> Result<T> {
    result.map_err(|message| ParseError { line, message })
}

/// A fundamental type by name.
fn type_named(word: &str) -> Option<Type> {
    Some(match word {
        "pred" => Type::Pred,
        "b8" => Type::B8,
        "b16" => Type::B16,
        "b32" => Type::B32,
        "b64" => Type::B64,
        "b128" => Type::B128,
        "u8" => Type::U8,
        "u16" => Type::U16,
        "u32" => Type::U32,
        "u64" => Type::U64,
        "s8" => Type::S8,
        "s16" => Type::S16,
        "s32" => Type::S32,
        "s64" => Type::S64,
        "f16" => Type::F16,
        "f16x2" => Type::F16x2,
        "f32" => Type::F32,
        "f64" => Type::F64,
        "bf16" => Type::Bf16,
        "bf16x2" => Type::Bf16x2,
        "texref" | "samplerref" | "surfref" => Type::Opaque,
        _ => return None,
    })
}
