//! Variable declarations and initialisers.

use super::super::ast::{Initializer, Space, Symbol, Type, Variable};
use super::super::lexer::Kind;
use super::{Parser, Result, type_named};

/// No variable is larger than the address space that a device has.
const MAX_BYTES: u64 = 1 << 40;
/// Initialisers come with their bytes in the text.
const MAX_INITIALISED: u64 = 1 << 30;
const MAX_DEPTH: u32 = 16;

/// What stands before the names of a declaration.
struct Head {
    space: Space,
    align: Option<u64>,
    ty: Type,
    elements: u64,
}

/// Bytes of a scalar.
fn size_of(ty: Type) -> u64 {
    match ty {
        Type::Pred | Type::B8 | Type::U8 | Type::S8 => 1,
        Type::B16 | Type::U16 | Type::S16 | Type::F16 | Type::Bf16 => 2,
        Type::B32 | Type::U32 | Type::S32 | Type::F32 | Type::F16x2 | Type::Bf16x2 => 4,
        Type::B64 | Type::U64 | Type::S64 | Type::F64 | Type::Opaque => 8,
        Type::B128 => 16,
    }
}

fn space_named(word: &str) -> Option<Space> {
    Some(match word.split("::").next().unwrap_or(word) {
        "reg" => Space::Reg,
        "const" => Space::Const,
        "global" | "tex" => Space::Global,
        "local" => Space::Local,
        "param" => Space::Param,
        "shared" => Space::Shared,
        _ => return None,
    })
}

impl<'a> Parser<'_, 'a> {
    /// A declaration up to its semicolon: one or more variables.
    pub(super) fn variables(&mut self, is_extern: bool) -> Result<Vec<Variable>> {
        let head = self.head()?;
        let mut variables = Vec::new();
        loop {
            variables.push(self.declarator(&head, is_extern)?);
            if !self.eat(",") {
                self.expect(";")?;
                return Ok(variables);
            }
        }
    }

    /// One parameter of a function, without semicolon. `_` is a name here.
    pub(super) fn parameter(&mut self) -> Result<Variable> {
        let head = self.head()?;
        self.declarator(&head, false)
    }

    fn head(&mut self) -> Result<Head> {
        let Kind::Dot(word) = self.peek() else {
            return self.unexpected("a state space");
        };
        let Some(space) = space_named(word) else {
            return self.unexpected("a state space");
        };
        self.at += 1;
        let mut head = Head {
            space,
            align: None,
            ty: Type::B8,
            elements: 1,
        };
        let mut typed = false;
        let mut pointer = false;
        while let Kind::Dot(word) = self.peek() {
            self.at += 1;
            match word {
                // After .ptr an alignment is that of the memory pointed to.
                "ptr" => pointer = true,
                "align" => {
                    let align = self.int()?;
                    if !align.is_power_of_two() || align > 1 << 20 {
                        return self.error(format!("an alignment of {align} makes no sense"));
                    }
                    if !pointer {
                        head.align = Some(align);
                    }
                }
                "attribute" => self.skip_past(")")?,
                "v2" => head.elements = 2,
                "v4" => head.elements = 4,
                "v8" => head.elements = 8,
                _ if pointer && space_named(word).is_some() => {}
                _ => match type_named(word) {
                    Some(ty) => {
                        head.ty = ty;
                        typed = true;
                    }
                    None => return self.error(format!(".{word} is not a type")),
                },
            }
        }
        if typed {
            Ok(head)
        } else {
            self.unexpected("a type")
        }
    }

    fn declarator(&mut self, head: &Head, is_extern: bool) -> Result<Variable> {
        let line = self.line();
        let name = self.word()?.into();
        let element = size_of(head.ty) * head.elements;
        let mut size = Some(element);
        let mut unsized_array = false;
        while self.eat("[") {
            if self.eat("]") {
                unsized_array = true;
                continue;
            }
            let extent = self.constant()?;
            self.expect("]")?;
            size = size
                .and_then(|size| size.checked_mul(extent))
                .filter(|&size| size <= MAX_BYTES);
            if size.is_none() {
                return self.error("the array is too large");
            }
        }
        let init = if self.eat("=") {
            let mut init = Initializer::default();
            self.initializer(head.ty, &mut init, 0)?;
            // `= {1, 2}` sizes `a[]`.
            let given = init.bytes.len() as u64;
            if unsized_array {
                size = Some(given);
                unsized_array = false;
            }
            let size = size.unwrap_or(given);
            if given > size || size > MAX_INITIALISED {
                return self.error("the initialiser is larger than the variable");
            }
            init.bytes.resize(size as usize, 0);
            Some(init)
        } else {
            None
        };
        Ok(Variable {
            name,
            space: head.space,
            ty: head.ty,
            align: head.align.unwrap_or(element.next_power_of_two().min(16)),
            size: if unsized_array { None } else { size },
            init,
            is_extern,
            line,
        })
    }

    fn initializer(&mut self, ty: Type, init: &mut Initializer, depth: u32) -> Result<()> {
        if depth > MAX_DEPTH {
            return self.error("the initialiser is nested too deeply");
        }
        if self.eat("{") {
            while !self.eat("}") {
                self.initializer(ty, init, depth + 1)?;
                if !self.eat(",") {
                    self.expect("}")?;
                    return Ok(());
                }
            }
            return Ok(());
        }
        match self.peek() {
            Kind::Text(text) => {
                self.at += 1;
                init.bytes.extend_from_slice(text.as_bytes());
                init.bytes.push(0);
            }
            Kind::F32(bits) => {
                self.at += 1;
                push(init, ty, bits.into());
            }
            Kind::F64(bits) => {
                self.at += 1;
                let narrow = f64::from_bits(bits) as f32;
                push(
                    init,
                    ty,
                    if ty == Type::F32 {
                        narrow.to_bits().into()
                    } else {
                        bits
                    },
                );
            }
            Kind::Punct("-") if matches!(self.peek_at(1), Kind::F64(_)) => {
                self.at += 1;
                if let Kind::F64(bits) = self.advance() {
                    let value = -f64::from_bits(bits);
                    push(
                        init,
                        ty,
                        if ty == Type::F32 {
                            (value as f32).to_bits().into()
                        } else {
                            value.to_bits()
                        },
                    );
                }
            }
            Kind::Word(word) if word != "WARP_SZ" => {
                let at = init.bytes.len() as u64;
                push(init, ty, 0);
                let (symbol, addend, generic) = self.address_constant()?;
                init.relocations.push((at, symbol, addend, generic));
            }
            _ => {
                let value = self.constant()?;
                push(init, ty, value);
            }
        }
        Ok(())
    }

    /// `symbol`, `symbol + n` or `generic(symbol) + n`.
    fn address_constant(&mut self) -> Result<(Symbol, i64, bool)> {
        let word = self.word()?;
        let generic = word == "generic";
        let name = if generic {
            self.expect("(")?;
            let name = self.word()?;
            self.expect(")")?;
            name
        } else {
            word
        };
        let Some(symbol) = self.globals.get(name).cloned() else {
            return self.error(format!("{name} is not declared"));
        };
        let addend = if self.is("+") || self.is("-") {
            self.constant()? as i64
        } else {
            0
        };
        Ok((symbol, addend, generic))
    }
}

/// Appends one element.
fn push(init: &mut Initializer, ty: Type, bits: u64) {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&bits.to_le_bytes());
    init.bytes.extend_from_slice(&bytes[..size_of(ty) as usize]);
}
