//! Directives and declarations of module scope.

use std::collections::HashMap;

use super::super::ast::{Function, Symbol, Variable};
use super::super::lexer::Kind;
use super::scope::for_symbols;
use super::{Parser, Result, fail};

impl<'a> Parser<'_, 'a> {
    pub(super) fn module(&mut self) -> Result<()> {
        self.version()?;
        if self.peek() != Kind::Dot("target") {
            return self.unexpected("`.target`");
        }
        loop {
            match self.peek() {
                Kind::End => break,
                Kind::Dot(directive) => self.directive(directive)?,
                _ => return self.unexpected("a directive"),
            }
        }
        self.resolve_aliases();
        Ok(())
    }

    fn directive(&mut self, directive: &'a str) -> Result<()> {
        match directive {
            "target" => self.target(),
            "address_size" => {
                self.at += 1;
                self.module.address_size = self.int32()?;
                Ok(())
            }
            "file" => self.file(),
            "section" => self.section(),
            "pragma" => self.pragma(),
            "alias" => self.alias(),
            "loc" => self.loc(&mut HashMap::new()).map(drop),
            "visible" | "extern" | "weak" | "common" | "entry" | "func" | "global" | "const"
            | "shared" | "tex" => self.declaration(),
            _ => self.error(format!("the directive .{directive} is not known here")),
        }
    }

    /// What a module starts with. The lexer reads `9.0` as a float.
    fn version(&mut self) -> Result<()> {
        if !self.eat_dot("version") {
            return self.unexpected("`.version`");
        }
        let Kind::F64(bits) = self.peek() else {
            return self.unexpected("a version");
        };
        self.at += 1;
        let tenths = (f64::from_bits(bits) * 10.0).round() as u32;
        self.module.version = (tenths / 10, tenths % 10);
        Ok(())
    }

    /// `.target sm_80, debug`
    fn target(&mut self) -> Result<()> {
        self.at += 1;
        let target = self.word()?;
        if self.module.target.is_empty() {
            target.clone_into(&mut self.module.target);
        }
        while self.eat(",") {
            self.word()?;
        }
        Ok(())
    }

    /// `.file index "path" [, time, size]`
    fn file(&mut self) -> Result<()> {
        self.at += 1;
        let index = self.int32()?;
        let Kind::Text(path) = self.peek() else {
            return self.unexpected("a path");
        };
        self.at += 1;
        self.module.files.insert(index, path.into());
        if self.eat(",") {
            self.int()?;
            self.expect(",")?;
            self.int()?;
        }
        Ok(())
    }

    /// Debugging information, which is not used.
    fn section(&mut self) -> Result<()> {
        self.at += 1;
        match self.peek() {
            Kind::Dot(_) | Kind::Word(_) => self.at += 1,
            _ => return self.unexpected("the name of a section"),
        }
        self.expect("{")?;
        let mut depth = 1usize;
        while depth > 0 {
            match self.peek() {
                Kind::Punct("{") => depth += 1,
                Kind::Punct("}") => depth -= 1,
                Kind::End => return self.error("the section is not closed"),
                _ => {}
            }
            self.at += 1;
        }
        Ok(())
    }

    /// `.alias name, function;` of two functions that are declared already.
    fn alias(&mut self) -> Result<()> {
        self.at += 1;
        let name = self.function_index()?;
        self.expect(",")?;
        let line = self.line();
        let target = self.function_index()?;
        if self.module.functions[target as usize].body.is_none() {
            return fail(line, "an alias stands for a function that has a body");
        }
        self.aliases.insert(name, target);
        self.expect(";")
    }

    fn function_index(&mut self) -> Result<u32> {
        let line = self.line();
        let name = self.word()?;
        match self.globals.get(name) {
            Some(Symbol::Function(index)) => Ok(*index),
            _ => fail(line, format!("{name} is not a function")),
        }
    }

    /// Makes every mention of an alias one of its function.
    fn resolve_aliases(&mut self) {
        if self.aliases.is_empty() {
            return;
        }
        let aliases: &HashMap<u32, u32> = &self.aliases;
        let place = |symbol: &mut Symbol| {
            if let Symbol::Function(index) = symbol {
                *index = *aliases.get(index).unwrap_or(index);
            }
        };
        let bodies = self.module.functions.iter_mut();
        for body in bodies.filter_map(|function| function.body.as_mut()) {
            for instruction in &mut body.instructions {
                for_symbols(&mut instruction.operands, &place);
            }
            body.targets.values_mut().flatten().for_each(place);
        }
        let variables = self.module.variables.iter_mut();
        for init in variables.filter_map(|variable| variable.init.as_mut()) {
            let symbols = init.relocations.iter_mut().map(|(_, symbol, ..)| symbol);
            symbols.for_each(place);
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
            self.add_global(variable)?;
        }
        Ok(())
    }

    /// Adds a variable of module scope; an extern declaration and the definition are one.
    pub(super) fn add_global(&mut self, variable: Variable) -> Result<Symbol> {
        let line = variable.line;
        let twice = || fail(line, format!("{} is declared twice", variable.name));
        match self.globals.get(&variable.name) {
            None => {}
            Some(Symbol::Module(index)) => {
                let index = *index;
                let known = &mut self.module.variables[index as usize];
                if !known.is_extern && !variable.is_extern {
                    return twice();
                }
                if known.is_extern {
                    *known = variable;
                }
                return Ok(Symbol::Module(index));
            }
            Some(_) => return twice(),
        }
        let symbol = Symbol::Module(self.module.variables.len() as u32);
        self.globals.insert(variable.name.clone(), symbol.clone());
        self.module.variables.push(variable);
        Ok(symbol)
    }

    /// Adds a function, which takes the place of its declaration if that came before.
    pub(super) fn add_function(&mut self, function: Function) -> Result<usize> {
        match self.globals.get(&function.name) {
            None => {}
            Some(Symbol::Function(index))
                if self.module.functions[*index as usize].body.is_none() =>
            {
                let index = *index as usize;
                self.module.functions[index] = function;
                return Ok(index);
            }
            Some(_) => {
                let message = format!("{} is declared twice", function.name);
                return fail(function.line, message);
            }
        }
        let index = self.module.functions.len();
        let symbol = Symbol::Function(index as u32);
        self.globals.insert(function.name.clone(), symbol);
        self.module.functions.push(function);
        Ok(index)
    }
}
