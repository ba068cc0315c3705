//! Instructions as text, for reports.

use std::fmt::Write;

use crate::ptx::ast::{AddressBase, Body, Function, Instruction, Module, Operand, Symbol};

/// An instruction without its operands.
pub(super) fn mnemonic(instruction: &Instruction) -> String {
    let mut text = instruction.opcode.to_string();
    for modifier in &instruction.modifiers {
        text.push('.');
        text.push_str(modifier);
    }
    text
}

/// Names for the numbers of a syntax tree.
pub(crate) struct Names<'a> {
    pub(crate) module: &'a Module,
    pub(crate) entry: &'a Function,
    pub(crate) body: &'a Body,
}

impl Names<'_> {
    /// An instruction as it could be written.
    pub(crate) fn instruction(&self, instruction: &Instruction) -> String {
        let mut text = String::new();
        if let Some(guard) = instruction.guard {
            let not = if guard.negated { "!" } else { "" };
            let name = &self.body.registers[guard.reg.0 as usize].name;
            // Writing to a string cannot fail.
            let _ = write!(text, "@{not}{name} ");
        }
        text.push_str(&mnemonic(instruction));
        for (at, operand) in instruction.operands.iter().enumerate() {
            text.push_str(if at == 0 { " " } else { ", " });
            text.push_str(&self.operand(operand));
        }
        text
    }

    fn operand(&self, operand: &Operand) -> String {
        let register = |at: u32| self.body.registers[at as usize].name.to_string();
        match operand {
            Operand::Register(reg) => register(reg.0),
            Operand::NotRegister(reg) => format!("!{}", register(reg.0)),
            Operand::Int(value) => (*value as i64).to_string(),
            Operand::F32(bits) => format!("0f{bits:08X}"),
            Operand::F64(bits) => format!("0d{bits:016X}"),
            Operand::Special(name) => name.to_string(),
            Operand::Symbol(symbol, offset) => with_offset(self.symbol(symbol), *offset),
            Operand::Address(base, offset) => {
                let base = match base {
                    AddressBase::Register(reg) => register(reg.0),
                    AddressBase::Symbol(symbol) => self.symbol(symbol),
                    AddressBase::Absolute => return format!("[{offset}]"),
                    AddressBase::Tuple(list) => self.list(list),
                };
                format!("[{}]", with_offset(base, *offset))
            }
            Operand::Vector(list) => format!("{{{}}}", self.list(list)),
            Operand::List(list) => format!("({})", self.list(list)),
            Operand::Pair(a, b) => format!("{}|{}", self.operand(a), self.operand(b)),
            _ => "_".to_owned(),
        }
    }

    fn list(&self, list: &[Operand]) -> String {
        let operands: Vec<String> = list.iter().map(|operand| self.operand(operand)).collect();
        operands.join(", ")
    }

    fn symbol(&self, symbol: &Symbol) -> String {
        let name = match symbol {
            Symbol::Local(at) => self.body.variables.get(*at as usize).map(|v| &v.name),
            Symbol::Param(at) => self.entry.params.get(*at as usize).map(|v| &v.name),
            Symbol::Return(at) => self.entry.returns.get(*at as usize).map(|v| &v.name),
            Symbol::Module(at) => self.module.variables.get(*at as usize).map(|v| &v.name),
            Symbol::Function(at) => self.module.functions.get(*at as usize).map(|f| &f.name),
            Symbol::Label(id) => self.body.labels.get(id.0 as usize).map(|label| &label.name),
        };
        name.map_or_else(|| "?".to_owned(), |name| name.to_string())
    }
}

fn with_offset(base: String, offset: i64) -> String {
    match offset {
        0 => base,
        _ => format!("{base}{offset:+}"),
    }
}
