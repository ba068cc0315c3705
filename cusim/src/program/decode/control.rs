//! Branches and barriers (PTX ISA, "Control Flow", `bar`, `barrier`).

use super::super::op::Op;
use super::{Context, Form, Result};
use crate::ptx::ast::{Operand, Symbol};

impl Context<'_> {
    pub(super) fn control(&mut self, form: &Form<'_>) -> Result<Op> {
        match form.opcode {
            "ret" | "exit" => Ok(Op::Exit),
            "trap" => Ok(Op::Trap),
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
                Ok(Op::BranchTable(index, targets.collect::<Result<_>>()?))
            }
        }
    }

    fn target(&self, symbol: &Symbol) -> Result<u32> {
        match symbol {
            Symbol::Label(id) => Ok(self.body.labels[id.0 as usize].target),
            _ => Err("the target must be a label".to_owned()),
        }
    }

    pub(super) fn barrier(&mut self, form: &Form<'_>) -> Result<Op> {
        form.only(&["cta", "sync", "aligned", "arrive", "warp"])?;
        let id = self.w(form.operand(0)?)?;
        if form.has("warp") {
            return Ok(Op::WarpBarrier(id));
        }
        let count = form
            .operands()
            .get(1)
            .map(|count| self.w(count))
            .transpose()?;
        match (form.has("arrive"), count) {
            (true, Some(count)) => Ok(Op::Arrive { id, count }),
            (true, None) => form.unknown(),
            (false, count) => Ok(Op::Barrier { id, count }),
        }
    }
}
