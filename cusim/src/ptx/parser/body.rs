//! Function bodies: statements.

use std::collections::HashMap;

use super::super::ast::{Body, Guard, Instruction, Loc, Module, Operand, Symbol};
use super::super::lexer::Kind;
use super::scope::{Declared, Name, Scopes};
use super::{Parser, Result, at_line, fail, type_named};

/// Blocks nest no deeper in any real program.
const MAX_DEPTH: usize = 256;

/// A function body while it is read.
pub(super) struct Builder {
    pub(super) body: Body,
    pub(super) scopes: Scopes,
    loc: Option<Loc>,
    /// The latest `.loc` of each file, line and column.
    positions: HashMap<[u32; 3], Loc>,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self {
            body: Body::default(),
            scopes: Scopes::new(),
            loc: None,
            positions: HashMap::new(),
        }
    }
}

fn loc_at([file, line, column]: [u32; 3], caller: Option<u32>) -> Loc {
    Loc {
        file,
        line,
        column,
        caller,
    }
}

impl<'a> Parser<'_, 'a> {
    /// `{ … }`
    pub(super) fn body(&mut self, mut builder: Builder) -> Result<Body> {
        self.expect("{")?;
        let mut depth = 1;
        while depth > 0 {
            match (self.peek(), self.peek_at(1)) {
                (Kind::Punct("{"), _) => {
                    self.at += 1;
                    builder.scopes.enter();
                    depth += 1;
                    if depth > MAX_DEPTH {
                        return self.error("blocks are nested too deeply");
                    }
                }
                (Kind::Punct("}"), _) => {
                    self.at += 1;
                    builder.scopes.leave();
                    depth -= 1;
                }
                (Kind::Word(name), Kind::Punct(":")) => self.label(&mut builder, name)?,
                (Kind::Dot(directive), _) => self.body_directive(&mut builder, directive)?,
                (Kind::Word(_) | Kind::Punct("@"), _) => self.instruction(&mut builder)?,
                (Kind::End, _) => return self.error("the function is not closed"),
                _ => return self.unexpected("a statement"),
            }
        }
        let Builder {
            mut body, scopes, ..
        } = builder;
        scopes.resolve(&mut body)?;
        Ok(body)
    }

    /// A label, or the list of targets or the prototype that it names.
    fn label(&mut self, builder: &mut Builder, name: &'a str) -> Result<()> {
        let line = self.line();
        self.at += 2;
        let declared = builder
            .scopes
            .declare_label(&mut builder.body, &name.into());
        let id = at_line(line, declared)?;
        if self.eat_dot("callprototype") {
            return self.prototype();
        }
        if !self.eat_dot("branchtargets") && !self.eat_dot("calltargets") {
            return Ok(());
        }
        let mut targets = Vec::new();
        loop {
            let line = self.line();
            let target = self.word()?;
            targets.push(match self.globals.get(target) {
                Some(symbol @ Symbol::Function(_)) => symbol.clone(),
                _ => builder.scopes.refer_to_label(target, line),
            });
            if !self.eat(",") {
                break;
            }
        }
        builder.body.targets.insert(id, targets);
        self.expect(";")
    }

    /// The rest of `.callprototype (…) _ (…) .noreturn;`. The function that is called knows its
    /// own parameters.
    fn prototype(&mut self) -> Result<()> {
        loop {
            match self.peek() {
                Kind::Punct(";") => break,
                Kind::Punct("(" | ")" | "," | "[" | "]")
                | Kind::Word(_)
                | Kind::Dot(_)
                | Kind::Int(..) => self.at += 1,
                _ => return self.unexpected("a prototype"),
            }
        }
        self.expect(";")
    }

    fn body_directive(&mut self, builder: &mut Builder, directive: &str) -> Result<()> {
        match directive {
            "reg" => self.registers(builder),
            "loc" => {
                builder.loc = Some(self.loc(&mut builder.positions)?);
                Ok(())
            }
            "pragma" => self.pragma(),
            "local" | "shared" | "param" => {
                for variable in self.variables(false)? {
                    let symbol = Symbol::Local(builder.body.variables.len() as u32);
                    let name = Name::Symbol(symbol);
                    at_line(variable.line, builder.scopes.declare(&variable.name, name))?;
                    builder.body.variables.push(variable);
                }
                Ok(())
            }
            // These outlive the function, under a name that no other variable can have.
            "global" | "const" => {
                for mut variable in self.variables(false)? {
                    let (name, line) = (variable.name.clone(), variable.line);
                    variable.name = format!("{name}@{}", self.module.variables.len()).into();
                    let symbol = Name::Symbol(self.add_global(variable)?);
                    at_line(line, builder.scopes.declare(&name, symbol))?;
                }
                Ok(())
            }
            _ => self.error(format!("the directive .{directive} is not known here")),
        }
    }

    /// `.reg .v2 .type a, b<4>;`
    fn registers(&mut self, builder: &mut Builder) -> Result<()> {
        self.at += 1;
        let width = match self.peek() {
            Kind::Dot("v2") => 2,
            Kind::Dot("v4") => 4,
            _ => 1,
        };
        self.at += usize::from(width > 1);
        let ty = match self.peek() {
            Kind::Dot(word) => type_named(word),
            _ => None,
        };
        let Some(ty) = ty else {
            return self.unexpected("the type of a register");
        };
        self.at += 1;
        loop {
            let line = self.line();
            let name = self.word()?;
            let count = if self.eat("<") {
                let count = self.int()?;
                self.expect(">")?;
                Some(count)
            } else {
                None
            };
            let declared = Declared {
                name,
                count,
                width,
                ty,
            };
            let declared = builder.scopes.declare_registers(
                &mut builder.body,
                &declared,
                &mut self.registers_left,
            );
            at_line(line, declared)?;
            if !self.eat(",") {
                return self.expect(";");
            }
        }
    }

    /// `.loc file line column [, function_name label [+ n], inlined_at file line column]`. The position
    /// after `inlined_at` has a `.loc` of its own before, which tells where its function was inlined.
    pub(super) fn loc(&mut self, positions: &mut HashMap<[u32; 3], Loc>) -> Result<Loc> {
        self.at += 1;
        let position = self.position()?;
        let mut caller = None;
        while self.eat(",") {
            match self.word()? {
                "function_name" => {
                    self.word()?;
                    self.offset()?;
                }
                "inlined_at" => {
                    let at = self.position()?;
                    let at = positions.get(&at).copied().unwrap_or(loc_at(at, None));
                    caller = Some(self.caller(at));
                }
                other => return self.error(format!("{other} is not part of .loc")),
            }
        }
        let loc = loc_at(position, caller);
        positions.insert(position, loc);
        Ok(loc)
    }

    /// File, line and column.
    fn position(&mut self) -> Result<[u32; 3]> {
        Ok([self.int32()?, self.int32()?, self.int32()?])
    }

    /// The index of a caller, which is noted once.
    fn caller(&mut self, at: Loc) -> u32 {
        let Self {
            module: Module { callers, .. },
            callers: indices,
            ..
        } = self;
        *indices.entry(at).or_insert_with(|| {
            callers.push(at);
            callers.len() as u32 - 1
        })
    }

    fn instruction(&mut self, builder: &mut Builder) -> Result<()> {
        let line = self.line();
        let guard = if self.eat("@") {
            Some(self.guard(builder)?)
        } else {
            None
        };
        let opcode = match self.peek() {
            Kind::Word(word) if word.starts_with(|c: char| c.is_ascii_alphabetic()) => word,
            _ => return self.unexpected("an instruction"),
        };
        self.at += 1;
        let mut modifiers = Vec::new();
        while let Kind::Dot(modifier) = self.peek() {
            self.at += 1;
            modifiers.push(self.intern(modifier));
        }
        let mut operands: Vec<Operand> = Vec::new();
        if !self.eat(";") {
            loop {
                operands.push(match opcode {
                    "call" if self.is("(") => self.arguments(builder)?,
                    _ => self.operand(builder, 0)?,
                });
                // The one modifier that stands behind an address.
                if self.eat_dot("unified") {
                    modifiers.push(self.intern("unified"));
                }
                if !self.eat(",") {
                    break;
                }
            }
            if !self.eat(";") {
                return self.unexpected("`,` or `;`");
            }
        }
        let opcode = self.intern(opcode);
        let loc = builder.loc;
        builder.body.instructions.push(Instruction {
            guard,
            opcode,
            modifiers,
            operands,
            line,
            loc,
        });
        Ok(())
    }

    fn guard(&mut self, builder: &Builder) -> Result<Guard> {
        let negated = self.eat("!");
        let line = self.line();
        let name = self.word()?;
        match builder.scopes.find(name) {
            Some(Name::Register(reg)) => Ok(Guard { reg, negated }),
            Some(_) => fail(line, format!("{name} is not a predicate")),
            None => fail(line, format!("{name} is not declared")),
        }
    }
}
