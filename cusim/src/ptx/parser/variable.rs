//! Variable declarations.

use super::super::ast::{Space, Type, Variable};
use super::super::lexer::Kind;
use super::{Parser, Result, fail, type_named};

/// No variable is larger than the address space that a device has.
const MAX_BYTES: u64 = 1 << 40;
/// Arrays of more dimensions are no real program; initialisers nest as deep.
const MAX_DIMENSIONS: usize = 16;

/// What stands before the names of a declaration.
struct Head {
    space: Space,
    align: Option<u64>,
    ty: Type,
    /// Elements of a vector type.
    width: u64,
}

/// Bytes of a scalar.
pub(super) fn size_of(ty: Type) -> u64 {
    match ty {
        Type::Pred | Type::B8 | Type::U8 | Type::S8 => 1,
        Type::B16 | Type::U16 | Type::S16 | Type::F16 | Type::Bf16 => 2,
        Type::B32 | Type::U32 | Type::S32 | Type::F32 | Type::F16x2 | Type::Bf16x2 => 4,
        Type::B64 | Type::U64 | Type::S64 | Type::F64 | Type::Opaque => 8,
        Type::B128 => 16,
    }
}

fn space_named(word: &str) -> Option<Space> {
    Some(match word {
        "reg" => Space::Reg,
        "const" => Space::Const,
        "global" | "tex" => Space::Global,
        "local" => Space::Local,
        "param" => Space::Param,
        "shared" => Space::Shared,
        _ => return None,
    })
}

impl Parser<'_, '_> {
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
        if !matches!(head.space, Space::Param | Space::Reg) {
            return self.error("a parameter is in .param or .reg");
        }
        self.declarator(&head, false)
    }

    fn head(&mut self) -> Result<Head> {
        let space = match self.peek() {
            Kind::Dot(word) => space_named(word),
            _ => None,
        };
        let Some(space) = space else {
            return self.unexpected("a state space");
        };
        self.at += 1;
        let (mut align, mut ty, mut width) = (None, None, 1);
        while let Kind::Dot(word) = self.peek() {
            match word {
                "align" => align = Some(self.alignment()?),
                "attribute" => self.attribute()?,
                "ptr" => self.pointee()?,
                "v2" | "v4" => {
                    self.at += 1;
                    width = if word == "v2" { 2 } else { 4 };
                }
                _ => match type_named(word) {
                    Some(named) => {
                        ty = Some(named);
                        self.at += 1;
                    }
                    None => return self.error(format!(".{word} is not a type")),
                },
            }
        }
        let Some(ty) = ty else {
            return self.unexpected("a type");
        };
        Ok(Head {
            space,
            align,
            ty,
            width,
        })
    }

    /// `.align n`
    fn alignment(&mut self) -> Result<u64> {
        self.at += 1;
        let line = self.line();
        let align = self.int()?;
        if align.is_power_of_two() && align <= 1 << 20 {
            Ok(align)
        } else {
            fail(line, format!("{align} is not an alignment"))
        }
    }

    /// `.ptr .global .align 4`: the space and alignment are those of the memory pointed to.
    fn pointee(&mut self) -> Result<()> {
        self.at += 1;
        while let Kind::Dot(word) = self.peek() {
            if word == "align" {
                self.alignment()?;
            } else if space_named(word).is_some() || type_named(word) == Some(Type::Opaque) {
                self.at += 1;
            } else {
                break;
            }
        }
        Ok(())
    }

    fn declarator(&mut self, head: &Head, is_extern: bool) -> Result<Variable> {
        let line = self.line();
        let name = self.word()?.into();
        let element = size_of(head.ty) * head.width;
        let mut extents = self.extents_of_array()?;
        if head.width > 1 {
            extents.push(Some(head.width));
        }
        let mut init = None;
        if self.is("=") {
            let given = self.initializer(head.ty, &mut extents)?;
            init = Some(given).filter(|_| head.ty != Type::Opaque);
        }
        let size = extents
            .iter()
            .try_fold(size_of(head.ty), |size, extent| Some(size * (*extent)?));
        Ok(Variable {
            name,
            space: head.space,
            ty: head.ty,
            align: head.align.unwrap_or(element),
            size,
            init,
            is_extern,
            line,
        })
    }

    /// `[2][3]`; `None` for an empty first dimension. Their product is within [`MAX_BYTES`].
    fn extents_of_array(&mut self) -> Result<Vec<Option<u64>>> {
        let mut extents = Vec::new();
        let mut product = 1u64;
        while self.is("[") {
            let line = self.line();
            self.at += 1;
            if extents.is_empty() && self.eat("]") {
                extents.push(None);
                continue;
            }
            let extent = self.constant()?;
            self.expect("]")?;
            // The largest element has 64 bytes.
            match product.checked_mul(extent) {
                Some(next) if next <= MAX_BYTES / 64 => product = next,
                _ => return fail(line, "the array is too large"),
            }
            extents.push(Some(extent));
            if extents.len() > MAX_DIMENSIONS {
                return fail(line, "the array has too many dimensions");
            }
        }
        Ok(extents)
    }
}
