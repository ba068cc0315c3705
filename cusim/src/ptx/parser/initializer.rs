//! Initialisers of variables.

use super::super::ast::{Initializer, Symbol, Type};
use super::super::lexer::Kind;
use super::expression::Value;
use super::variable::size_of;
use super::{Parser, Result, fail};

/// An address in an initialiser: symbol, addend, and whether it is the generic one.
type Address = (Symbol, i64, bool);

/// An initialiser while it is read.
struct Filler {
    ty: Type,
    init: Initializer,
    /// Bytes that may still be added.
    limit: u64,
    /// An address that is given byte by byte: where it starts, what it is, bytes so far.
    split: Option<(u64, Address, u32)>,
}

impl Parser<'_, '_> {
    /// `= …`. Gives an empty first dimension its extent.
    pub(super) fn initializer(
        &mut self,
        ty: Type,
        extents: &mut [Option<u64>],
    ) -> Result<Initializer> {
        let line = self.line();
        self.expect("=")?;
        if ty == Type::Opaque {
            self.opaque_fields()?;
            return Ok(Initializer::default());
        }
        let mut filler = Filler {
            ty,
            init: Initializer::default(),
            limit: self.initialised_left,
            split: None,
        };
        // Nothing limits an empty dimension but what is given.
        let shape: Vec<u64> = extents.iter().map(|e| e.unwrap_or(u64::MAX)).collect();
        let given = self.values(&shape, 0, &mut filler)?;
        if filler.split.is_some() {
            return fail(line, "an address is not initialised with all its bytes");
        }
        if let Some(first @ None) = extents.first_mut() {
            *first = Some(given);
        }
        let elements = extents.iter().flatten().product::<u64>();
        let size = elements * size_of(ty);
        match self.initialised_left.checked_sub(size) {
            Some(left) => self.initialised_left = left,
            None => return fail(line, "the initialised variables are too large"),
        }
        filler.init.bytes.resize(size as usize, 0);
        Ok(filler.init)
    }

    /// The fields of a texture, sampler or surface: `{ width = 4, addr_mode_0 = wrap }`.
    fn opaque_fields(&mut self) -> Result<()> {
        self.expect("{")?;
        loop {
            self.word()?;
            self.expect("=")?;
            match self.peek() {
                Kind::Word(_) => self.at += 1,
                _ => drop(self.constant()?),
            }
            if !self.eat(",") {
                return self.expect("}");
            }
        }
    }

    /// The values of an array of this shape from byte `at` on, and how many there were.
    fn values(&mut self, shape: &[u64], at: u64, filler: &mut Filler) -> Result<u64> {
        let Some((&extent, inner)) = shape.split_first() else {
            self.value(at, filler)?;
            return Ok(1);
        };
        let stride = inner.iter().product::<u64>() * size_of(filler.ty);
        self.expect("{")?;
        for index in 0..extent {
            self.values(inner, at + index * stride, filler)?;
            if !self.eat(",") {
                self.expect("}")?;
                return Ok(index + 1);
            }
        }
        self.error("the initialiser has more values than the variable")
    }

    fn value(&mut self, at: u64, filler: &mut Filler) -> Result<()> {
        let size = size_of(filler.ty);
        if at + size > filler.limit {
            return self.error("the initialised variables are too large");
        }
        let line = self.line();
        let is_integer = !matches!(
            filler.ty,
            Type::F32 | Type::F64 | Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2
        );
        let bits = match (self.peek(), self.peek_at(1)) {
            (Kind::Word(word), _) if word != "WARP_SZ" => {
                let address = self.address_constant()?;
                if !is_integer || size < 4 {
                    return fail(line, "an address needs .u32 or .u64");
                }
                let (symbol, addend, generic) = address;
                let relocation = (at, symbol, addend, generic);
                filler.init.relocations.push(relocation);
                0
            }
            (Kind::Int(mask, _), Kind::Punct("(")) => {
                self.at += 2;
                let address = self.address_constant()?;
                self.expect(")")?;
                return match size {
                    1 => super::at_line(line, filler.byte_of(at, mask, address)),
                    _ => fail(line, "a mask gives the bytes of an address one at a time"),
                };
            }
            (Kind::F32(bits), _) if matches!(filler.ty, Type::F32 | Type::B32) => {
                self.at += 1;
                bits.into()
            }
            _ => match (self.number()?, filler.ty) {
                (Value::Int { bits, .. }, _) if is_integer => bits,
                (Value::Float(value), Type::F32) => (value as f32).to_bits().into(),
                (Value::Float(value), Type::F64 | Type::B64) => value.to_bits(),
                _ => return fail(line, "the value does not fit the variable's type"),
            },
        };
        if filler.split.is_some() {
            return fail(line, "an address is not initialised with all its bytes");
        }
        filler.put(at, &bits.to_le_bytes());
        Ok(())
    }

    /// `symbol`, `symbol + n` or `generic(symbol) + n`.
    fn address_constant(&mut self) -> Result<Address> {
        let generic = self.peek() == Kind::Word("generic") && self.peek_at(1) == Kind::Punct("(");
        self.at += if generic { 2 } else { 0 };
        let line = self.line();
        let name = self.word()?;
        let Some(symbol) = self.globals.get(name).cloned() else {
            return fail(line, format!("{name} is not declared"));
        };
        if generic {
            self.expect(")")?;
        }
        Ok((symbol, self.offset()?, generic))
    }
}

impl Filler {
    fn put(&mut self, at: u64, bits: &[u8; 8]) {
        let size = size_of(self.ty) as usize;
        let at = at as usize;
        self.init.bytes.resize(at + size, 0);
        let given = size.min(bits.len());
        self.init.bytes[at..at + given].copy_from_slice(&bits[..given]);
    }

    /// `0xFF00(symbol)`: one byte of an address. Compilers fill packed structures so, always with
    /// all eight bytes in order, which together are one address.
    fn byte_of(&mut self, at: u64, mask: u64, address: Address) -> Result<(), String> {
        let (start, address, done) = match self.split.take() {
            Some((start, first, done)) if first == address => (start, first, done),
            None => (at, address, 0),
            Some(_) => return Err("an address is not initialised with all its bytes".to_owned()),
        };
        if mask != 0xFF << (8 * done) || at != start + u64::from(done) {
            return Err(format!(
                "mask {mask:#x} is not that of byte {done} of the address"
            ));
        }
        self.put(at, &[0; 8]);
        if done == 7 {
            let (symbol, addend, generic) = address;
            self.init.relocations.push((start, symbol, addend, generic));
        } else {
            self.split = Some((start, address, done + 1));
        }
        Ok(())
    }
}
