//! Names and what they stand for: nested scopes flattened into one function's tables.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::super::ParseError;
use super::super::ast::{Body, Label, LabelId, Operand, RegId, Register, Symbol, Type};

/// More registers than any real function declares; a guard against `%r<4000000000>`.
const MAX_REGISTERS: u64 = 1 << 20;

/// What a name stands for.
#[derive(Debug, Clone)]
pub(super) enum Name {
    Register(RegId),
    /// A vector of this many registers, one after the other.
    Vector(RegId, u32),
    Symbol(Symbol),
    Label(LabelId),
}

/// What a `.reg` declares under one name.
pub(super) struct Declared<'a> {
    pub(super) name: &'a str,
    /// `name<count>`: `name0` to `name<count - 1>`.
    pub(super) count: Option<u64>,
    /// Registers of a vector, 1 for a scalar.
    pub(super) width: u32,
    pub(super) ty: Type,
}

/// The members of a parameterised declaration, `%r0` to `%r<count - 1>`.
struct Range {
    first: u32,
    count: u32,
    width: u32,
}

#[derive(Default)]
struct Scope {
    parent: Option<usize>,
    names: HashMap<Arc<str>, Name>,
    ranges: HashMap<Arc<str>, Range>,
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

const COMPONENTS: [&str; 4] = ["x", "y", "z", "w"];

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

    pub(super) fn leave(&mut self) {
        self.current = self.scopes[self.current].parent.unwrap_or_default();
    }

    pub(super) fn declare(&mut self, name: &Arc<str>, meaning: Name) -> Result<(), String> {
        match self.scopes[self.current].names.entry(name.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(meaning);
                Ok(())
            }
            Entry::Occupied(_) => Err(format!("{name} is declared twice")),
        }
    }

    /// Declares registers; `budget` is how many more the module may have.
    pub(super) fn declare_registers(
        &mut self,
        body: &mut Body,
        declared: &Declared<'_>,
        budget: &mut u64,
    ) -> Result<(), String> {
        let &Declared {
            name, width, ty, ..
        } = declared;
        let first = body.registers.len() as u32;
        let count = declared.count.unwrap_or(1);
        let wanted = count
            .checked_mul(width.into())
            .filter(|wanted| *wanted <= MAX_REGISTERS.saturating_sub(first.into()))
            .ok_or_else(|| format!("a function has at most {MAX_REGISTERS} registers"))?;
        *budget = budget
            .checked_sub(wanted)
            .ok_or("the module declares too many registers")?;
        let Some(_) = declared.count else {
            add_registers(body, name.into(), width, ty);
            let meaning = match width {
                1 => Name::Register(RegId(first)),
                _ => Name::Vector(RegId(first), width),
            };
            return self.declare(&name.into(), meaning);
        };
        for n in 0..count {
            add_registers(body, format!("{name}{n}").into(), width, ty);
        }
        let range = Range {
            first,
            count: count as u32,
            width,
        };
        match self.scopes[self.current].ranges.insert(name.into(), range) {
            None => Ok(()),
            Some(_) => Err(format!("{name}<> is declared twice")),
        }
    }

    /// The innermost meaning of a name, but for labels: a nearer one may follow, so that only
    /// [`Scopes::resolve`] knows which is meant.
    pub(super) fn find(&self, name: &str) -> Option<Name> {
        let (prefix, number) = member(name);
        let mut at = Some(self.current);
        while let Some(index) = at {
            let scope = &self.scopes[index];
            match scope.names.get(name) {
                Some(Name::Label(_)) | None => {}
                Some(name) => return Some(name.clone()),
            }
            if let Some(number) = number
                && let Some(range) = scope.ranges.get(prefix)
                && number < range.count
            {
                let reg = RegId(range.first + number * range.width);
                return Some(match range.width {
                    1 => Name::Register(reg),
                    width => Name::Vector(reg, width),
                });
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
        let labels = self.pending.iter().map(|pending| self.label(pending));
        let labels = labels.collect::<Result<Vec<_>, _>>()?;
        let place = |symbol: &mut Symbol| {
            if let Symbol::Label(id) = symbol {
                *id = labels[id.0 as usize];
            }
        };
        for instruction in &mut body.instructions {
            for_symbols(&mut instruction.operands, &place);
        }
        body.targets.values_mut().flatten().for_each(place);
        Ok(())
    }

    fn label(&self, pending: &Pending) -> Result<LabelId, ParseError> {
        let mut at = Some(pending.scope);
        while let Some(index) = at {
            if let Some(Name::Label(label)) = self.scopes[index].names.get(&pending.name) {
                return Ok(*label);
            }
            at = self.scopes[index].parent;
        }
        Err(ParseError {
            line: pending.line,
            message: format!("{} is not declared", pending.name),
        })
    }

    /// Declares a label at the end of the instructions so far.
    pub(super) fn declare_label(
        &mut self,
        body: &mut Body,
        name: &Arc<str>,
    ) -> Result<LabelId, String> {
        let id = LabelId(body.labels.len() as u32);
        body.labels.push(Label {
            name: name.clone(),
            target: body.instructions.len() as u32,
        });
        self.declare(name, Name::Label(id))?;
        Ok(id)
    }
}

/// Splits `%r12` into `%r` and 12. `%r012` is no member of a range.
fn member(name: &str) -> (&str, Option<u32>) {
    let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (prefix, number) = name.split_at(name.len() - digits);
    let canonical = digits == 1 || !number.starts_with('0');
    (prefix, number.parse().ok().filter(|_| canonical))
}

fn add_registers(body: &mut Body, name: Arc<str>, width: u32, ty: Type) {
    if width == 1 {
        body.registers.push(Register { name, ty });
        return;
    }
    let names = COMPONENTS.iter().take(width as usize);
    body.registers.extend(names.map(|component| Register {
        name: format!("{name}.{component}").into(),
        ty,
    }));
}

/// The index of a vector component, by place or by colour.
pub(super) fn component(word: &str) -> Option<u32> {
    Some(match word {
        "x" | "r" => 0,
        "y" | "g" => 1,
        "z" | "b" => 2,
        "w" | "a" => 3,
        _ => return None,
    })
}

/// Applies a function to every symbol of some operands, but for those inside addresses, which
/// are never labels or functions.
pub(super) fn for_symbols(operands: &mut [Operand], apply: &impl Fn(&mut Symbol)) {
    for operand in operands {
        match operand {
            Operand::Symbol(symbol, _) => apply(symbol),
            Operand::Vector(list) | Operand::List(list) => for_symbols(list, apply),
            _ => {}
        }
    }
}
