//! Tokens to the syntax tree: the module level.

mod body;
mod expression;
mod operand;
mod scope;
mod variable;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::ParseError;
use super::ast::{Function, Module, Symbol, Type, Variable};
use super::lexer::{Kind, Token, tokens};

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
}

type Result<T, E = ParseError> = std::result::Result<T, E>;

impl<'t, 'a> Parser<'t, 'a> {
    fn new(tokens: &'t [Token<'a>]) -> Self {
        let module = Module {
            version: (0, 0),
            target: String::new(),
            address_size: 32,
            files: BTreeMap::new(),
            variables: Vec::new(),
            functions: Vec::new(),
        };
        Self {
            tokens,
            at: 0,
            module,
            globals: HashMap::new(),
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

    fn advance(&mut self) -> Kind<'a> {
        let kind = self.peek();
        self.at += 1;
        kind
    }

    fn error<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(ParseError {
            line: self.line(),
            message: message.into(),
        })
    }

    fn at_line<T>(&self, line: u32, result: Result<T, String>) -> Result<T> {
        result.map_err(|message| ParseError { line, message })
    }

    fn unexpected<T>(&self, wanted: &str) -> Result<T> {
        self.error(format!("expected {wanted}, found {:?}", self.peek()))
    }

    fn is(&self, punct: &str) -> bool {
        matches!(self.peek(), Kind::Punct(p) if p == punct)
    }

    fn eat(&mut self, punct: &str) -> bool {
        let found = self.is(punct);
        if found {
            self.at += 1;
        }
        found
    }

    fn expect(&mut self, punct: &str) -> Result<()> {
        if self.eat(punct) {
            Ok(())
        } else {
            self.unexpected(punct)
        }
    }

    fn eat_dot(&mut self, word: &str) -> bool {
        let found = self.peek() == Kind::Dot(word);
        if found {
            self.at += 1;
        }
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
        self.at_line(
            line,
            u32::try_from(value).map_err(|_| format!("{value} is too large")),
        )
    }

    fn module(&mut self) -> Result<()> {
        loop {
            match self.peek() {
                Kind::End => return Ok(()),
                Kind::Punct(";") => self.at += 1,
                Kind::Dot(directive) => self.directive(directive)?,
                _ => return self.unexpected("a directive"),
            }
        }
    }

    fn directive(&mut self, directive: &'a str) -> Result<()> {
        match directive {
            "version" => {
                self.at += 1;
                self.version()
            }
            "target" => {
                self.at += 1;
                self.module.target = self.word()?.to_owned();
                while self.eat(",") {
                    self.word()?;
                }
                Ok(())
            }
            "address_size" => {
                self.at += 1;
                self.module.address_size = self.int32()?;
                Ok(())
            }
            "file" => self.file(),
            "section" => self.section(),
            "pragma" => self.skip_past(";"),
            "alias" => self.skip_past(";"),
            "loc" => self.loc().map(drop),
            "visible" | "extern" | "weak" | "common" | "entry" | "func" | "global" | "const"
            | "shared" | "tex" => self.declaration(),
            _ => self.error(format!("the directive .{directive} is not known here")),
        }
    }

    /// The lexer reads `9.0` as a float.
    fn version(&mut self) -> Result<()> {
        let line = self.line();
        let (major, minor) = match self.advance() {
            Kind::F64(bits) => {
                let tenths = (f64::from_bits(bits) * 10.0).round();
                ((tenths / 10.0).floor() as u32, (tenths % 10.0) as u32)
            }
            Kind::Int(major, _) => (major as u32, 0),
            _ => {
                return Err(ParseError {
                    line,
                    message: "expected a version".to_owned(),
                });
            }
        };
        self.module.version = (major, minor);
        Ok(())
    }

    /// `.file index "path" [, time, size]`
    fn file(&mut self) -> Result<()> {
        self.at += 1;
        let index = self.int32()?;
        match self.advance() {
            Kind::Text(path) => self.module.files.insert(index, path.into()),
            _ => return self.error(".file needs a path"),
        };
        if self.eat(",") {
            self.int()?;
            self.expect(",")?;
            self.int()?;
        }
        Ok(())
    }

    /// Debugging information is not used.
    fn section(&mut self) -> Result<()> {
        while !self.is("{") {
            if self.peek() == Kind::End {
                return self.unexpected("{");
            }
            self.at += 1;
        }
        let mut depth = 0usize;
        loop {
            match self.advance() {
                Kind::Punct("{") => depth += 1,
                Kind::Punct("}") if depth == 1 => return Ok(()),
                Kind::Punct("}") => depth -= 1,
                Kind::End => return self.error("the section is not closed"),
                _ => {}
            }
        }
    }

    fn skip_past(&mut self, punct: &str) -> Result<()> {
        loop {
            match self.advance() {
                Kind::Punct(p) if p == punct => return Ok(()),
                Kind::End => return self.unexpected(punct),
                _ => {}
            }
        }
    }

    /// A variable or function with its linkage.
    fn declaration(&mut self) -> Result<()> {
        let mut is_extern = false;
        loop {
            match self.peek() {
                Kind::Dot("extern") => is_extern = true,
                Kind::Dot("visible" | "weak" | "common") => {}
                Kind::Dot("entry") => return self.function(true),
                Kind::Dot("func") => return self.function(false),
                _ => break,
            }
            self.at += 1;
        }
        for variable in self.variables(is_extern)? {
            self.add_global(variable);
        }
        Ok(())
    }

    fn add_global(&mut self, variable: Variable) -> Symbol {
        // An extern declaration and the definition are one variable.
        let known = match self.globals.get(&variable.name) {
            Some(Symbol::Module(index)) => Some(*index),
            _ => None,
        };
        if let Some(index) = known {
            let declared = &mut self.module.variables[index as usize];
            if declared.is_extern {
                *declared = variable;
            }
            return Symbol::Module(index);
        }
        let symbol = Symbol::Module(self.module.variables.len() as u32);
        self.globals.insert(variable.name.clone(), symbol.clone());
        self.module.variables.push(variable);
        symbol
    }

    /// Registers a function before its body is read, so that it can call itself.
    fn add_function(&mut self, function: Function) -> usize {
        if let Some(Symbol::Function(index)) = self.globals.get(&function.name) {
            let index = *index as usize;
            if self.module.functions[index].body.is_none() {
                self.module.functions[index] = function;
            }
            return index;
        }
        let index = self.module.functions.len();
        self.globals
            .insert(function.name.clone(), Symbol::Function(index as u32));
        self.module.functions.push(function);
        index
    }
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
