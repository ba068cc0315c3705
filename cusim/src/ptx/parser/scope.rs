//! Names and what they stand for: nested scopes flattened into one function's tables.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::ParseError;
use super::super::ast::{
    Body, Instruction, Label, LabelId, Operand, RegId, Register, Symbol, Type,
};

/// More registers than any real function declares; a guard against `%r<4000000000>`.
const MAX_REGISTERS: usize = 1 << 20;

/// What a name stands for.
#[derive(Debug, Clone)]
pub(super) enum Name {
    Register(RegId),
    Symbol(Symbol),
}

/// Registers `%r0` to `%r<count - 1>` that one declaration made.
struct Range {
    first: u32,
    count: u32,
}

#[derive(Default)]
struct Scope {
    parent: Option<usize>,
    names: HashMap<Arc<str>, Name>,
    ranges: HashMap<Arc<str>, Range>,
    labels: HashMap<Arc<str>, LabelId>,
}

/// A label that was named before it could be known which one is meant.
struct Pending {
    name: Arc<str>,
    scope: usize,
    line: u32,
}

/// The scopes of one function.
pub(super) struct Scopes {
    scopes: Vec<Scope>,
    current: usize,
    pending: Vec<Pending>,
}

impl Scopes {
    pub(super) fn new() -> Self {
        Self {
            scopes: vec![Scope::default()],
            current: 0,
            pending: Vec::new(),
        }
    }

    pub(super) fn enter(&mut self) {
        self.scopes.push(Scope {
            parent: Some(self.current),
            ..Scope::default()
        });
        self.current = self.scopes.len() - 1;
    }

    /// Returns false at the outermost scope.
    pub(super) fn leave(&mut self) -> bool {
        match self.scopes[self.current].parent {
            Some(parent) => {
                self.current = parent;
                true
            }
            None => false,
        }
    }

    pub(super) fn declare(&mut self, name: &Arc<str>, symbol: Symbol) {
        self.scopes[self.current]
            .names
            .insert(name.clone(), Name::Symbol(symbol));
    }

    /// `.reg .type name` or, with a count, `.reg .type name<count>`.
    pub(super) fn declare_register(
        &mut self,
        body: &mut Body,
        name: &str,
        count: Option<u64>,
        ty: Type,
    ) -> Result<(), String> {
        let first = body.registers.len();
        let wanted = count.unwrap_or(1);
        if wanted > (MAX_REGISTERS - first.min(MAX_REGISTERS)) as u64 {
            return Err(format!(
                "a function may not declare more than {MAX_REGISTERS} registers"
            ));
        }
        let scope = &mut self.scopes[self.current];
        if count.is_some() {
            let names = (0..wanted).map(|n| format!("{name}{n}").into());
            body.registers
                .extend(names.map(|name| Register { name, ty }));
            let range = Range {
                first: first as u32,
                count: wanted as u32,
            };
            scope.ranges.insert(name.into(), range);
        } else {
            let name: Arc<str> = name.into();
            body.registers.push(Register {
                name: name.clone(),
                ty,
            });
            scope
                .names
                .insert(name, Name::Register(RegId(first as u32)));
        }
        Ok(())
    }

    pub(super) fn declare_label(&mut self, body: &mut Body, name: &str) -> Result<LabelId, String> {
        let id = LabelId(body.labels.len() as u32);
        let name: Arc<str> = name.into();
        let target = body.instructions.len() as u32;
        body.labels.push(Label {
            name: name.clone(),
            target,
        });
        match self.scopes[self.current].labels.insert(name, id) {
            None => Ok(id),
            Some(_) => Err("the label is defined twice in this scope".to_owned()),
        }
    }

    /// The innermost meaning of a name that is neither label nor function.
    pub(super) fn find(&self, name: &str) -> Option<Name> {
        let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (prefix, number) = name.split_at(name.len() - digits);
        // `%r01` is not `%r1`.
        let canonical = digits > 0 && (digits == 1 || !number.starts_with('0'));
        let number: Option<u32> = if canonical { number.parse().ok() } else { None };
        let mut at = Some(self.current);
        while let Some(index) = at {
            let scope = &self.scopes[index];
            if let Some(name) = scope.names.get(name) {
                return Some(name.clone());
            }
            if let Some(number) = number
                && let Some(range) = scope.ranges.get(prefix)
                && number < range.count
            {
                return Some(Name::Register(RegId(range.first + number)));
            }
            at = scope.parent;
        }
        None
    }

    /// A label that may be defined later. The index is replaced by [`Scopes::resolve`].
    pub(super) fn refer_to_label(&mut self, name: &str, line: u32) -> Symbol {
        self.pending.push(Pending {
            name: name.into(),
            scope: self.current,
            line,
        });
        Symbol::Label(LabelId((self.pending.len() - 1) as u32))
    }

    /// Finds every label that was referred to, now that all are defined.
    pub(super) fn resolve(self, body: &mut Body) -> Result<(), ParseError> {
        let find = |pending: &Pending| {
            let mut at = Some(pending.scope);
            while let Some(index) = at {
                if let Some(&label) = self.scopes[index].labels.get(&pending.name) {
                    return Ok(label);
                }
                at = self.scopes[index].parent;
            }
            let message = format!("{} is not declared", pending.name);
            Err(ParseError {
                line: pending.line,
                message,
            })
        };
        let labels = self
            .pending
            .iter()
            .map(find)
            .collect::<Result<Vec<_>, _>>()?;
        for Instruction { operands, .. } in &mut body.instructions {
            operands
                .iter_mut()
                .for_each(|operand| replace(operand, &labels));
        }
        for symbol in body.targets.values_mut().flatten() {
            replace_symbol(symbol, &labels);
        }
        Ok(())
    }
}

fn replace(operand: &mut Operand, labels: &[LabelId]) {
    match operand {
        Operand::Symbol(symbol, _) => replace_symbol(symbol, labels),
        Operand::Vector(list) | Operand::List(list) => {
            list.iter_mut().for_each(|operand| replace(operand, labels));
        }
        _ => {}
    }
}

fn replace_symbol(symbol: &mut Symbol, labels: &[LabelId]) {
    if let Symbol::Label(id) = symbol {
        *id = labels[id.0 as usize];
    }
}
