//! Branches, exits and calls of the runtime (PTX ISA, "Control Flow Instructions").

use super::super::op::{Op, System, SystemCall};
use super::{Context, Form, Result};
use crate::ptx::ast::{Operand, Symbol};

impl Context<'_> {
    pub(super) fn control(&mut self, form: &Form<'_>) -> Result<Op> {
        match form.opcode {
            "ret" | "exit" => Ok(Op::Exit),
            "trap" => Ok(Op::Trap),
            // Without a debugger a breakpoint stops the kernel as a trap does.
            "brkpt" => Ok(Op::Trap),
            "call" => self.system_call(form),
            "bra" => match form.operand(0)? {
                Operand::Symbol(symbol, 0) => Ok(Op::Branch(self.target(symbol)?)),
                _ => form.unknown(),
            },
            _ => {
                let index = self.w(form.operand(0)?)?;
                let Operand::Symbol(Symbol::Label(list), 0) = form.operand(1)? else {
                    return form.unknown();
                };
                let Some(targets) = self.body.targets.get(list) else {
                    return form.unknown();
                };
                let targets = targets.iter().map(|symbol| self.target(symbol));
                Ok(Op::BranchTable(
                    index,
                    targets.collect::<Result<Box<[u32]>>>()?,
                ))
            }
        }
    }

    /// A call of a function that the module only declares.
    fn system_call(&mut self, form: &Form<'_>) -> Result<Op> {
        let mut function = None;
        let mut before = Vec::new();
        let mut after = Vec::new();
        for operand in form.operands() {
            match operand {
                Operand::Symbol(Symbol::Function(index), 0) => function = Some(*index),
                Operand::List(list) if function.is_none() => before.extend(list),
                Operand::List(list) => after.extend(list),
                _ => return form.unknown(),
            }
        }
        let name = function
            .and_then(|index| self.module.functions.get(index as usize))
            .map(|function| &*function.name);
        let (function, count) = match name {
            Some("vprintf") => (System::Printf, 2),
            Some("__assertfail") => (System::AssertFail, 5),
            Some(name) => return Err(format!("there is no function {name} to call")),
            None => return form.unknown(),
        };
        let place = |operand: &&Operand| match operand {
            Operand::Symbol(Symbol::Local(index), 0) => self.placed.local(*index),
            _ => form.unknown(),
        };
        let arguments = after.iter().map(place).collect::<Result<Vec<_>>>()?;
        if arguments.len() != count {
            return form.unknown();
        }
        let result = before.first().map(place).transpose()?;
        Ok(Op::System(Box::new(SystemCall {
            function,
            arguments,
            result,
        })))
    }

    fn target(&self, symbol: &Symbol) -> Result<u32> {
        match symbol {
            Symbol::Label(id) => Ok(self.body.labels[id.0 as usize].target),
            _ => Err("the target must be a label".to_owned()),
        }
    }
}
