//! Operands of instructions.

use super::super::ast::{AddressBase, Operand, RegId, Symbol};
use super::super::lexer::Kind;
use super::scope::{Name, Scopes};
use super::{Parser, Result};

const MAX_DEPTH: u32 = 8;

impl<'a> Parser<'_, 'a> {
    pub(super) fn operand(&mut self, scopes: &mut Scopes, depth: u32) -> Result<Operand> {
        if depth > MAX_DEPTH {
            return self.error("the operand is nested too deeply");
        }
        match self.peek() {
            Kind::Punct("{") => Ok(Operand::Vector(self.operand_list(scopes, "{", "}", depth)?)),
            Kind::Punct("(") if !self.starts_constant() => {
                Ok(Operand::List(self.operand_list(scopes, "(", ")", depth)?))
            }
            Kind::Punct("[") => self.address(scopes, depth),
            Kind::Punct("!") if matches!(self.peek_at(1), Kind::Word(_)) => {
                self.at += 1;
                let name = self.word()?;
                match scopes.find(name) {
                    Some(Name::Register(reg)) => Ok(Operand::NotRegister(reg)),
                    _ => self.error(format!("{name} is not a register")),
                }
            }
            Kind::F32(bits) => {
                self.at += 1;
                Ok(Operand::F32(bits))
            }
            Kind::F64(bits) => {
                self.at += 1;
                Ok(Operand::F64(bits))
            }
            Kind::Punct("-") if matches!(self.peek_at(1), Kind::F32(_) | Kind::F64(_)) => {
                self.at += 1;
                Ok(match self.advance() {
                    Kind::F32(bits) => Operand::F32(bits ^ 1 << 31),
                    Kind::F64(bits) => Operand::F64(bits ^ 1 << 63),
                    _ => return self.unexpected("a float"),
                })
            }
            Kind::Word("WARP_SZ") => Ok(Operand::Int(self.constant()?)),
            Kind::Word(_) => {
                let first = self.named(scopes)?;
                if !self.eat("|") {
                    return Ok(first);
                }
                let second = self.named(scopes)?;
                Ok(Operand::Pair(Box::new(first), Box::new(second)))
            }
            Kind::Int(..) | Kind::Punct("-" | "+" | "~" | "!" | "(") => {
                Ok(Operand::Int(self.constant()?))
            }
            _ => self.unexpected("an operand or ;"),
        }
    }

    /// True at the parenthesis of a constant expression, false at that of a list.
    fn starts_constant(&self) -> bool {
        let inside = self.peek_at(1);
        matches!(
            inside,
            Kind::Int(..) | Kind::Punct("-" | "~" | "+" | "(") | Kind::Dot(_)
        )
    }

    pub(super) fn operand_list(
        &mut self,
        scopes: &mut Scopes,
        open: &str,
        close: &str,
        depth: u32,
    ) -> Result<Vec<Operand>> {
        self.expect(open)?;
        let mut list = Vec::new();
        while !self.eat(close) {
            list.push(self.operand(scopes, depth + 1)?);
            if !self.eat(",") {
                self.expect(close)?;
                break;
            }
        }
        Ok(list)
    }

    /// A name and what may follow it: a component, or an offset from a symbol.
    fn named(&mut self, scopes: &mut Scopes) -> Result<Operand> {
        let line = self.line();
        let name = self.word()?;
        if name == "_" {
            return Ok(Operand::Sink);
        }
        if let Kind::Dot(component @ ("x" | "y" | "z" | "w")) = self.peek()
            && let Some(Name::Register(reg)) = scopes.find(&format!("{name}.{component}"))
        {
            self.at += 1;
            return Ok(Operand::Register(reg));
        }
        let symbol = match scopes.find(name) {
            Some(Name::Register(reg)) => return Ok(Operand::Register(reg)),
            Some(Name::Symbol(symbol)) => symbol,
            None if name.starts_with('%') => return self.special(name),
            None => match self.globals.get(name) {
                Some(symbol) => symbol.clone(),
                None => scopes.refer_to_label(name, line),
            },
        };
        Ok(Operand::Symbol(symbol, self.offset()?))
    }

    /// A special register with its component.
    fn special(&mut self, name: &str) -> Result<Operand> {
        match self.peek() {
            Kind::Dot(component @ ("x" | "y" | "z" | "w")) => {
                self.at += 1;
                Ok(Operand::Special(format!("{name}.{component}").into()))
            }
            _ if is_special(name) => Ok(Operand::Special(name.into())),
            _ => self.error(format!("{name} is not declared")),
        }
    }

    /// `+ constant`, `- constant`, or nothing.
    fn offset(&mut self) -> Result<i64> {
        if self.is("+") || self.is("-") {
            return Ok(self.constant()? as i64);
        }
        Ok(0)
    }

    fn address(&mut self, scopes: &mut Scopes, depth: u32) -> Result<Operand> {
        self.expect("[")?;
        let first = match self.peek() {
            Kind::Word(word) if word != "WARP_SZ" => self.named(scopes)?,
            _ => Operand::Int(self.constant()?),
        };
        if self.is(",") {
            let mut tuple = vec![first];
            while self.eat(",") {
                tuple.push(self.operand(scopes, depth + 1)?);
            }
            self.expect("]")?;
            return Ok(Operand::Address(AddressBase::Tuple(tuple), 0));
        }
        let operand = match first {
            Operand::Register(reg) => self.register_address(reg)?,
            Operand::Symbol(Symbol::Label(_), _) => return self.error("a label is not an address"),
            Operand::Symbol(symbol, offset) => {
                Operand::Address(AddressBase::Symbol(symbol), offset)
            }
            Operand::Int(address) => Operand::Address(AddressBase::Absolute, address as i64),
            _ => return self.error("this is not an address"),
        };
        self.expect("]")?;
        Ok(operand)
    }

    fn register_address(&mut self, reg: RegId) -> Result<Operand> {
        Ok(Operand::Address(AddressBase::Register(reg), self.offset()?))
    }
}

/// Special registers that have no components (PTX ISA, "Special Registers").
fn is_special(name: &str) -> bool {
    const NAMES: [&str; 34] = [
        "%laneid",
        "%warpid",
        "%nwarpid",
        "%smid",
        "%nsmid",
        "%gridid",
        "%lanemask_eq",
        "%lanemask_le",
        "%lanemask_lt",
        "%lanemask_ge",
        "%lanemask_gt",
        "%clock",
        "%clock_hi",
        "%clock64",
        "%globaltimer",
        "%globaltimer_lo",
        "%globaltimer_hi",
        "%total_smem_size",
        "%aggr_smem_size",
        "%dynamic_smem_size",
        "%current_graph_exec",
        "%is_explicit_cluster",
        "%cluster_ctarank",
        "%cluster_nctarank",
        "%reserved_smem_offset_begin",
        "%reserved_smem_offset_end",
        "%reserved_smem_offset_cap",
        "%reserved_smem_offset_0",
        "%reserved_smem_offset_1",
        "%tid",
        "%ntid",
        "%ctaid",
        "%nctaid",
        "%pm0",
    ];
    NAMES.contains(&name) || name.starts_with("%envreg") || name.starts_with("%pm")
}
