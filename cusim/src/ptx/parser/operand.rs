//! Operands of instructions.

use super::super::ast::{AddressBase, Operand, RegId};
use super::super::lexer::Kind;
use super::body::Builder;
use super::expression::Value;
use super::scope::{Name, component};
use super::{Parser, Result, fail};

/// A vector of vectors in a bracket is the deepest that any instruction takes.
const MAX_DEPTH: u32 = 4;

/// Special registers that are vectors of four (PTX ISA, "Special Registers").
const SPECIAL_VECTORS: [&str; 8] = [
    "%tid",
    "%ntid",
    "%ctaid",
    "%nctaid",
    "%clusterid",
    "%nclusterid",
    "%cluster_ctaid",
    "%cluster_nctaid",
];

const SPECIAL_SCALARS: [&str; 26] = [
    "%laneid",
    "%warpid",
    "%nwarpid",
    "%smid",
    "%nsmid",
    "%gridid",
    "%is_explicit_cluster",
    "%cluster_ctarank",
    "%cluster_nctarank",
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
    "%reserved_smem_offset_begin",
    "%reserved_smem_offset_end",
];

/// Special registers with a number behind the name.
const SPECIAL_FAMILIES: [&str; 3] = ["%envreg", "%pm", "%reserved_smem_offset_"];

impl<'a> Parser<'_, 'a> {
    pub(super) fn operand(&mut self, builder: &mut Builder, depth: u32) -> Result<Operand> {
        if depth > MAX_DEPTH {
            return self.error("the operand is nested too deeply");
        }
        match self.peek() {
            Kind::Punct("{") => {
                let vector = Operand::Vector(self.list(builder, "{", "}", depth)?);
                self.pair(builder, vector)
            }
            Kind::Punct("[") => self.address(builder, depth),
            Kind::Punct("!") if matches!(self.peek_at(1), Kind::Word(w) if w != "WARP_SZ") => {
                self.at += 1;
                let line = self.line();
                match self.named(builder, false)? {
                    Operand::Register(reg) => Ok(Operand::NotRegister(reg)),
                    _ => fail(line, "only a predicate can be negated"),
                }
            }
            Kind::F32(bits) => {
                self.at += 1;
                Ok(Operand::F32(bits))
            }
            Kind::Word(word) if word != "WARP_SZ" => {
                let first = self.named(builder, depth == 0)?;
                self.pair(builder, first)
            }
            Kind::Punct("-") if matches!(self.peek_at(1), Kind::Word(w) if w != "WARP_SZ") => {
                self.at += 1;
                let line = self.line();
                match self.named(builder, false)? {
                    Operand::Register(reg) => Ok(Operand::Part(reg, "-".into())),
                    Operand::Part(reg, part) => Ok(Operand::Part(reg, format!("-{part}").into())),
                    _ => fail(line, "only a register can have a sign"),
                }
            }
            Kind::Word(_)
            | Kind::Int(..)
            | Kind::F64(_)
            | Kind::Punct("-" | "+" | "~" | "!" | "(") => Ok(match self.number()? {
                Value::Int { bits, .. } => Operand::Int(bits),
                Value::Float(value) => Operand::F64(value.to_bits()),
            }),
            _ => self.unexpected("an operand"),
        }
    }

    /// `d|p`, of which `d` has been read, or just `d`.
    fn pair(&mut self, builder: &mut Builder, first: Operand) -> Result<Operand> {
        if !self.eat("|") {
            return Ok(first);
        }
        let second = self.named(builder, false)?;
        Ok(Operand::Pair(Box::new(first), Box::new(second)))
    }

    /// `(a, b)` of a call.
    pub(super) fn arguments(&mut self, builder: &mut Builder) -> Result<Operand> {
        Ok(Operand::List(self.list(builder, "(", ")", 0)?))
    }

    fn list(
        &mut self,
        builder: &mut Builder,
        open: &str,
        close: &str,
        depth: u32,
    ) -> Result<Vec<Operand>> {
        self.expect(open)?;
        let mut list = Vec::new();
        if self.eat(close) {
            return Ok(list);
        }
        loop {
            list.push(self.operand(builder, depth + 1)?);
            if !self.eat(",") {
                self.expect(close)?;
                return Ok(list);
            }
        }
    }

    /// A name and what may follow it: a component, or an offset from a symbol. Only a `whole`
    /// operand can be a label, which may be declared later.
    fn named(&mut self, builder: &mut Builder, whole: bool) -> Result<Operand> {
        let line = self.line();
        let name = self.word()?;
        if name == "_" {
            return Ok(Operand::Sink);
        }
        let symbol = match builder.scopes.find(name) {
            Some(Name::Register(reg)) => return Ok(self.part(reg)),
            Some(Name::Vector(first, width)) => return self.vector(name, first, width),
            Some(Name::Symbol(symbol)) => symbol,
            Some(Name::Label(_)) | None if name.starts_with('%') => {
                return self.special(line, name);
            }
            Some(Name::Label(_)) | None => match self.globals.get(name) {
                Some(symbol) => symbol.clone(),
                None if whole && (self.is(",") || self.is(";")) => {
                    let symbol = builder.scopes.refer_to_label(name, line);
                    return Ok(Operand::Symbol(symbol, 0));
                }
                None => return fail(line, format!("{name} is not declared")),
            },
        };
        if self.is("[") {
            return fail(
                line,
                format!("an array element is not an operand; write [{name}+offset]"),
            );
        }
        Ok(Operand::Symbol(symbol, self.offset()?))
    }

    /// A register, or with `.b0`, `.h1`, `.b3210` the bytes or halves of it that a video
    /// instruction takes.
    fn part(&mut self, reg: RegId) -> Operand {
        match self.peek() {
            Kind::Dot(part) if part.starts_with(['b', 'h']) => {
                self.at += 1;
                Operand::Part(reg, self.intern(part))
            }
            _ => Operand::Register(reg),
        }
    }

    /// A component of a vector of registers, or all of them.
    fn vector(&mut self, name: &str, first: RegId, width: u32) -> Result<Operand> {
        let Kind::Dot(word) = self.peek() else {
            let all = first.0..first.0 + width;
            return Ok(Operand::Vector(
                all.map(|reg| Operand::Register(RegId(reg))).collect(),
            ));
        };
        match component(word).filter(|&index| index < width) {
            Some(index) => {
                self.at += 1;
                Ok(Operand::Register(RegId(first.0 + index)))
            }
            None => self.error(format!("{name} has no component .{word}")),
        }
    }

    /// A special register, with its component if it is a vector.
    fn special(&mut self, line: u32, name: &'a str) -> Result<Operand> {
        if SPECIAL_VECTORS.contains(&name) {
            let one = |component: &str| Operand::Special(format!("{name}.{component}").into());
            let Kind::Dot(word) = self.peek() else {
                return Ok(Operand::Vector(["x", "y", "z", "w"].map(one).to_vec()));
            };
            let Some(index) = component(word) else {
                return fail(line, format!("{name} has no component .{word}"));
            };
            self.at += 1;
            return Ok(one(["x", "y", "z", "w"][index as usize]));
        }
        let numbered = |family: &&str| {
            let number = name.strip_prefix(*family);
            number.is_some_and(|n| n.starts_with(|c: char| c.is_ascii_digit()))
        };
        if SPECIAL_SCALARS.contains(&name) || SPECIAL_FAMILIES.iter().any(numbered) {
            return Ok(Operand::Special(self.intern(name)));
        }
        fail(line, format!("{name} is not declared"))
    }

    /// `[base]`, `[base + offset]` or `[base, coordinates, …]`.
    fn address(&mut self, builder: &mut Builder, depth: u32) -> Result<Operand> {
        self.expect("[")?;
        let line = self.line();
        let first = match self.peek() {
            Kind::Word(word) if word != "WARP_SZ" => self.named(builder, false)?,
            _ => Operand::Int(self.constant()?),
        };
        if self.is(",") {
            let mut tuple = vec![first];
            while self.eat(",") {
                tuple.push(self.operand(builder, depth + 1)?);
            }
            self.expect("]")?;
            return Ok(Operand::Address(AddressBase::Tuple(tuple), 0));
        }
        let (base, offset) = match first {
            Operand::Register(reg) => (AddressBase::Register(reg), self.offset()?),
            Operand::Symbol(symbol, offset) => (AddressBase::Symbol(symbol), offset),
            Operand::Int(address) => (AddressBase::Absolute, address as i64),
            _ => return fail(line, "this is not an address"),
        };
        self.expect("]")?;
        Ok(Operand::Address(base, offset))
    }
}
