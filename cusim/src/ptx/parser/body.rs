//! Functions and their statements.

use std::sync::Arc;

use super::super::ast::{Body, Function, Guard, Instruction, Loc, Operand, Space, Symbol};
use super::super::lexer::Kind;
use super::scope::{Name, Scopes};
use super::{Parser, Result, type_named};

/// Statements of one function while it is read.
struct Builder {
    body: Body,
    scopes: Scopes,
    loc: Option<Loc>,
    /// Open braces.
    depth: usize,
}

const MAX_DEPTH: usize = 256;

impl<'a> Parser<'_, 'a> {
    /// `.entry` or `.func` with everything up to its body or semicolon.
    pub(super) fn function(&mut self, is_entry: bool) -> Result<()> {
        let line = self.line();
        self.at += 1;
        let returns = if !is_entry && self.is("(") {
            self.parameters()?
        } else {
            Vec::new()
        };
        let name: Arc<str> = self.word()?.into();
        let params = if self.is("(") {
            self.parameters()?
        } else {
            Vec::new()
        };
        let mut function = Function {
            name,
            is_entry,
            params,
            returns,
            maxntid: None,
            reqntid: None,
            minnctapersm: None,
            maxnreg: None,
            body: None,
            line,
        };
        self.tuning(&mut function)?;
        if self.eat(";") {
            self.add_function(function);
            return Ok(());
        }
        if !self.is("{") {
            return self.unexpected("a function body");
        }
        let mut scopes = Scopes::new();
        let params = function.params.iter().enumerate();
        for (index, param) in params {
            scopes.declare(&param.name, Symbol::Param(index as u32));
        }
        for (index, param) in function.returns.iter().enumerate() {
            scopes.declare(&param.name, Symbol::Return(index as u32));
        }
        let mut builder = Builder {
            body: Body::default(),
            scopes,
            loc: None,
            depth: 0,
        };
        // Parameters of a .func may be registers, which are then registers of the body.
        for variable in function.params.iter().chain(&function.returns) {
            if variable.space == Space::Reg {
                let declared = builder.scopes.declare_register(
                    &mut builder.body,
                    &variable.name,
                    None,
                    variable.ty,
                );
                self.at_line(line, declared)?;
            }
        }
        let index = self.add_function(function);
        self.statements(&mut builder)?;
        let Builder {
            mut body, scopes, ..
        } = builder;
        scopes.resolve(&mut body)?;
        self.module.functions[index].body = Some(body);
        Ok(())
    }

    fn parameters(&mut self) -> Result<Vec<super::super::ast::Variable>> {
        self.expect("(")?;
        let mut parameters = Vec::new();
        while !self.eat(")") {
            parameters.push(self.parameter()?);
            if !self.eat(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(parameters)
    }

    /// Performance-tuning directives between the parameters and the body.
    fn tuning(&mut self, function: &mut Function) -> Result<()> {
        while let Kind::Dot(directive) = self.peek() {
            self.at += 1;
            match directive {
                "maxntid" => function.maxntid = Some(self.extents()?),
                "reqntid" => function.reqntid = Some(self.extents()?),
                "minnctapersm" => function.minnctapersm = Some(self.int32()?),
                "maxnreg" => function.maxnreg = Some(self.int32()?),
                "maxnctapersm" | "maxclusterrank" | "abi_preserve" | "abi_preserve_control" => {
                    self.int()?;
                }
                "reqnctapercluster" => {
                    self.extents()?;
                }
                "noreturn" | "explicitcluster" | "blocksareclusters" => {}
                "pragma" => self.skip_past(";")?,
                _ => return self.error(format!("the directive .{directive} is not known here")),
            }
        }
        Ok(())
    }

    fn extents(&mut self) -> Result<[u32; 3]> {
        let mut extents = [1; 3];
        extents[0] = self.int32()?;
        for extent in &mut extents[1..] {
            if self.eat(",") {
                *extent = self.int32()?;
            }
        }
        Ok(extents)
    }

    fn statements(&mut self, builder: &mut Builder) -> Result<()> {
        self.expect("{")?;
        builder.depth = 1;
        while builder.depth > 0 {
            match (self.peek(), self.peek_at(1)) {
                (Kind::Punct("{"), _) => {
                    self.at += 1;
                    builder.scopes.enter();
                    builder.depth += 1;
                    if builder.depth > MAX_DEPTH {
                        return self.error("blocks are nested too deeply");
                    }
                }
                (Kind::Punct("}"), _) => {
                    self.at += 1;
                    builder.scopes.leave();
                    builder.depth -= 1;
                }
                (Kind::Punct(";"), _) => self.at += 1,
                (Kind::Word(name), Kind::Punct(":")) => self.label(builder, name)?,
                (Kind::Dot(directive), _) => self.body_directive(builder, directive)?,
                (Kind::Word(_) | Kind::Punct("@"), _) => self.instruction(builder)?,
                (Kind::End, _) => return self.error("the function is not closed"),
                _ => return self.unexpected("a statement"),
            }
        }
        Ok(())
    }

    /// A label, or the list of targets or the prototype that it names.
    fn label(&mut self, builder: &mut Builder, name: &str) -> Result<()> {
        let line = self.line();
        self.at += 2;
        let declared = builder.scopes.declare_label(&mut builder.body, name);
        let id = self.at_line(line, declared)?;
        if self.eat_dot("callprototype") {
            return self.skip_past(";");
        }
        if self.eat_dot("branchtargets") || self.eat_dot("calltargets") {
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
            self.expect(";")?;
            builder.body.targets.insert(id, targets);
        }
        Ok(())
    }

    fn body_directive(&mut self, builder: &mut Builder, directive: &str) -> Result<()> {
        match directive {
            "reg" => self.registers(builder),
            "loc" => {
                builder.loc = Some(self.loc()?);
                Ok(())
            }
            "pragma" => self.skip_past(";"),
            "local" | "shared" | "param" => {
                for variable in self.variables(false)? {
                    let symbol = Symbol::Local(builder.body.variables.len() as u32);
                    builder.scopes.declare(&variable.name, symbol);
                    builder.body.variables.push(variable);
                }
                Ok(())
            }
            // Variables of a function in spaces that outlive it.
            "global" | "const" => {
                for mut variable in self.variables(false)? {
                    let name = variable.name.clone();
                    variable.name = format!("{name}@{}", self.module.variables.len()).into();
                    let symbol = self.add_global(variable);
                    builder.scopes.declare(&name, symbol);
                }
                Ok(())
            }
            "section" => self.section(),
            _ => self.error(format!("the directive .{directive} is not known here")),
        }
    }

    /// `.reg .type a, b<4>;` and vectors, whose components become registers.
    fn registers(&mut self, builder: &mut Builder) -> Result<()> {
        self.at += 1;
        let mut components: &[&str] = &[""];
        let ty = loop {
            match self.peek() {
                Kind::Dot("v2") => components = &[".x", ".y"],
                Kind::Dot("v4") => components = &[".x", ".y", ".z", ".w"],
                Kind::Dot(word) => match type_named(word) {
                    Some(ty) => break ty,
                    None => return self.error(format!(".{word} is not a type")),
                },
                _ => return self.unexpected("a register type"),
            }
            self.at += 1;
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
            for component in components {
                let name = format!("{name}{component}");
                let declared = builder
                    .scopes
                    .declare_register(&mut builder.body, &name, count, ty);
                self.at_line(line, declared)?;
            }
            if !self.eat(",") {
                return self.expect(";");
            }
        }
    }

    /// `.loc file line column [, function_name label [+ n], inlined_at file line column]`
    pub(super) fn loc(&mut self) -> Result<Loc> {
        self.at += 1;
        let loc = Loc {
            file: self.int32()?,
            line: self.int32()?,
            column: self.int32()?,
        };
        while self.eat(",") {
            match self.word()? {
                "function_name" => {
                    self.word()?;
                    if self.eat("+") {
                        self.int()?;
                    }
                }
                "inlined_at" => {
                    for _ in 0..3 {
                        self.int()?;
                    }
                }
                other => return self.error(format!("{other} is not part of .loc")),
            }
        }
        Ok(loc)
    }

    fn instruction(&mut self, builder: &mut Builder) -> Result<()> {
        let line = self.line();
        let guard = if self.eat("@") {
            let negated = self.eat("!");
            let name = self.word()?;
            match builder.scopes.find(name) {
                Some(Name::Register(reg)) => Some(Guard { reg, negated }),
                _ => return self.error(format!("{name} is not a predicate")),
            }
        } else {
            None
        };
        let opcode = self.word()?.into();
        let mut modifiers = Vec::new();
        while let Kind::Dot(modifier) = self.peek() {
            self.at += 1;
            modifiers.push(modifier.into());
        }
        let mut operands: Vec<Operand> = Vec::new();
        while !self.eat(";") {
            operands.push(self.operand(&mut builder.scopes, 0)?);
            if !self.eat(",") {
                self.expect(";")?;
                break;
            }
        }
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
}
