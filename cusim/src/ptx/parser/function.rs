//! Function headers and their performance-tuning directives.

use std::sync::Arc;

use super::super::ast::{Function, Space, Symbol, Variable};
use super::super::lexer::Kind;
use super::body::Builder;
use super::scope::{Declared, Name};
use super::{Parser, Result, at_line, fail};

impl Parser<'_, '_> {
    /// `.entry` or `.func` with everything up to its body or semicolon.
    pub(super) fn function(&mut self, is_entry: bool) -> Result<()> {
        self.at += 1;
        while self.peek() == Kind::Dot("attribute") {
            self.attribute()?;
        }
        let returns = match is_entry {
            true => Vec::new(),
            false => self.parameters()?,
        };
        let line = self.line();
        let name: Arc<str> = self.word()?.into();
        let params = self.parameters()?;
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
            return self.add_function(function).map(drop);
        }
        if !self.is("{") {
            return self.unexpected("a function body or `;`");
        }
        let mut builder = Builder::new();
        self.declare_parameters(&mut builder, &function)?;
        // Known before its body is read, so that it can call itself.
        let index = self.add_function(function)?;
        let body = self.body(builder)?;
        self.module.functions[index].body = Some(body);
        Ok(())
    }

    /// `(…)`, or nothing.
    fn parameters(&mut self) -> Result<Vec<Variable>> {
        let mut parameters = Vec::new();
        if !self.eat("(") || self.eat(")") {
            return Ok(parameters);
        }
        loop {
            parameters.push(self.parameter()?);
            if !self.eat(",") {
                self.expect(")")?;
                return Ok(parameters);
            }
        }
    }

    /// Parameters share the scope of the body. Those that are registers become its first ones.
    fn declare_parameters(&mut self, builder: &mut Builder, function: &Function) -> Result<()> {
        let params = function.params.iter().zip((0..).map(Symbol::Param));
        let returns = function.returns.iter().zip((0..).map(Symbol::Return));
        for (variable, symbol) in params.chain(returns) {
            let declared = if variable.space == Space::Reg {
                let declared = Declared {
                    name: &variable.name,
                    count: None,
                    width: 1,
                    ty: variable.ty,
                };
                builder.scopes.declare_registers(
                    &mut builder.body,
                    &declared,
                    &mut self.registers_left,
                )
            } else {
                builder.scopes.declare(&variable.name, Name::Symbol(symbol))
            };
            at_line(variable.line, declared)?;
        }
        Ok(())
    }

    /// Directives between the parameters and the body.
    fn tuning(&mut self, function: &mut Function) -> Result<()> {
        while let Kind::Dot(directive) = self.peek() {
            if directive == "pragma" {
                self.pragma()?;
                continue;
            }
            let line = self.line();
            self.at += 1;
            match directive {
                "maxntid" => function.maxntid = Some(self.three()?),
                "reqntid" => function.reqntid = Some(self.three()?),
                "minnctapersm" | "maxnctapersm" => function.minnctapersm = Some(self.int32()?),
                "maxnreg" => function.maxnreg = Some(self.int32()?),
                "maxclusterrank" | "abi_preserve" | "abi_preserve_control" => drop(self.int()?),
                "reqnctapercluster" => drop(self.three()?),
                "noreturn" | "explicitcluster" | "blocksareclusters" => {}
                _ => {
                    return fail(
                        line,
                        format!("the directive .{directive} is not known here"),
                    );
                }
            }
        }
        Ok(())
    }

    /// Up to three extents; those not given are 1.
    fn three(&mut self) -> Result<[u32; 3]> {
        let mut extents = [1; 3];
        extents[0] = self.int32()?;
        for extent in &mut extents[1..] {
            if self.eat(",") {
                *extent = self.int32()?;
            }
        }
        Ok(extents)
    }
}
