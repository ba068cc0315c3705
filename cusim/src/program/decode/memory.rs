//! Loads, stores, atomics and asynchronous copies (PTX ISA, "Data Movement and Conversion", "Parallel
//! Synchronization and Communication").

use super::super::op::{Access, Atomic, CopyAsync, Op, Reg, Space};
use super::{Context, Form, Result};
use crate::ptx::ast::Operand;

/// Qualifiers that change order or caching but not values: memory here is always in order.
fn is_hint(modifier: &str) -> bool {
    matches!(
        modifier,
        "weak"
            | "volatile"
            | "relaxed"
            | "acquire"
            | "release"
            | "acq_rel"
            | "mmio"
            | "nc"
            | "ca"
            | "cg"
            | "cs"
            | "lu"
            | "cv"
            | "wb"
            | "wt"
            | "cta"
            | "cluster"
            | "gpu"
            | "sys"
            | "level::cache_hint"
            | "unified"
    ) || modifier.starts_with("L1::")
        || modifier.starts_with("L2::")
}

fn space_named(modifier: &str) -> Option<Space> {
    Some(match modifier {
        "global" => Space::Global,
        "shared" | "shared::cta" => Space::Shared,
        "local" => Space::Local,
        "param" | "param::entry" => Space::Param,
        "const" => Space::Const,
        _ => return None,
    })
}

/// Bytes of a type and whether it is signed.
fn width_of(ty: &str) -> Option<(usize, bool)> {
    Some(match ty {
        "b8" | "u8" => (1, false),
        "s8" => (1, true),
        "b16" | "u16" | "f16" | "bf16" => (2, false),
        "s16" => (2, true),
        "b32" | "u32" | "f32" | "f16x2" | "bf16x2" => (4, false),
        "s32" => (4, true),
        "b64" | "u64" | "s64" | "f64" => (8, false),
        _ => return None,
    })
}

impl Context<'_> {
    pub(super) fn load(&mut self, form: &Form<'_>) -> Result<Op> {
        let mut access = self.access(form, form.operand(1)?)?;
        let dests: &[Operand] = match form.operand(0)? {
            Operand::Vector(dests) => dests,
            operand => std::slice::from_ref(operand),
        };
        for dest in dests {
            let reg = self.dest_or_sink(dest)?;
            // A narrow register keeps only its own bits.
            access.regs.push(reg);
        }
        self.check_vector(form, &access)?;
        Ok(Op::Load(Box::new(access)))
    }

    pub(super) fn store(&mut self, form: &Form<'_>) -> Result<Op> {
        let mut access = self.access(form, form.operand(0)?)?;
        let sources: &[Operand] = match form.operand(1)? {
            Operand::Vector(sources) => sources,
            operand => std::slice::from_ref(operand),
        };
        for source in sources {
            let reg = self.any(source, access.width == 8)?;
            access.regs.push(Some(reg));
        }
        self.check_vector(form, &access)?;
        Ok(Op::Store(Box::new(access)))
    }

    fn access(&mut self, form: &Form<'_>, address: &Operand) -> Result<Access> {
        let mut space = Space::Generic;
        for modifier in &form.modifiers {
            if let Some(named) = space_named(modifier) {
                space = named;
            } else if !is_hint(modifier)
                && width_of(modifier).is_none()
                && !matches!(*modifier, "v2" | "v4" | "v8")
            {
                return Err(format!("the modifier .{modifier} cannot be executed"));
            }
        }
        let Some((width, signed)) = width_of(form.ty()) else {
            return form.unknown();
        };
        // A parameter or shared variable names its space by itself only through the modifier.
        let address = self.address(address)?;
        Ok(Access {
            space,
            address,
            width,
            signed,
            regs: Vec::new(),
        })
    }

    fn check_vector(&self, form: &Form<'_>, access: &Access) -> Result<()> {
        let expected = match form
            .modifiers
            .iter()
            .find(|m| matches!(**m, "v2" | "v4" | "v8"))
        {
            Some(&"v2") => 2,
            Some(&"v4") => 4,
            Some(_) => 8,
            None => 1,
        };
        if access.regs.len() != expected || access.width * expected > 32 {
            return form.unknown();
        }
        for reg in access.regs.iter().flatten() {
            if access.width == 8 && matches!(reg, Reg::W(_)) {
                return Err("the register is narrower than the access".to_owned());
            }
        }
        Ok(())
    }

    pub(super) fn atomic(&mut self, form: &Form<'_>) -> Result<Op> {
        const OPERATIONS: [&str; 9] = [
            "add", "min", "max", "and", "or", "xor", "exch", "cas", "inc",
        ];
        let ty = form.ty();
        let Some((width, _)) = width_of(ty).filter(|&(width, _)| width >= 4) else {
            return form.unknown();
        };
        let mut space = Space::Generic;
        let mut operation = None;
        for modifier in &form.modifiers {
            if let Some(named) = space_named(modifier) {
                space = named;
            } else if OPERATIONS.contains(modifier) || *modifier == "dec" {
                operation = Some(*modifier);
            } else if !is_hint(modifier) && *modifier != ty && *modifier != "noftz" {
                return Err(format!("the modifier .{modifier} cannot be executed"));
            }
        }
        let Some(f) = operation.and_then(|operation| atomic_function(operation, ty)) else {
            return form.unknown();
        };
        let wide = width == 8;
        let returns = form.opcode == "atom";
        let o = form.operands();
        let first = usize::from(returns);
        let dest = if returns {
            self.dest_or_sink(form.operand(0)?)?
        } else {
            None
        };
        let address = self.address(form.operand(first)?)?;
        let operand = self.any(form.operand(first + 1)?, wide)?;
        let second = match (operation, o.get(first + 2)) {
            (Some("cas"), Some(second)) => Some(self.any(second, wide)?),
            (Some("cas"), None) => return form.unknown(),
            (_, None) => None,
            _ => return form.unknown(),
        };
        Ok(Op::Atomic(Box::new(Atomic {
            space,
            address,
            width,
            dest,
            operand,
            second,
            f,
        })))
    }

    /// `cp.async` and its groups; bulk copies are not of sm_80.
    pub(super) fn copy_async(&mut self, form: &Form<'_>) -> Result<Op> {
        match form.modifiers[..] {
            ["async", "commit_group"] => return Ok(Op::CopyCommit),
            ["async", "wait_all"] => return Ok(Op::CopyWait(None)),
            ["async", "wait_group"] => {
                let Operand::Int(groups) = form.operand(0)? else {
                    return form.unknown();
                };
                return Ok(Op::CopyWait(Some(
                    u32::try_from(*groups).unwrap_or(u32::MAX),
                )));
            }
            ["async", "ca" | "cg", "shared" | "shared::cta", "global", ..] => {}
            _ => return form.unknown(),
        }
        if form.modifiers[4..]
            .iter()
            .any(|modifier| !is_hint(modifier))
        {
            return form.unknown();
        }
        let o = form.operands();
        let Some(&Operand::Int(size)) = o.get(2) else {
            return form.unknown();
        };
        let allowed: &[u64] = if form.has("cg") { &[16] } else { &[4, 8, 16] };
        if !allowed.contains(&size) {
            return Err(format!("a copy of {size} bytes cannot be executed"));
        }
        let mut copy = CopyAsync {
            dst: self.address(&o[0])?,
            src: self.address(&o[1])?,
            size: size as usize,
            source_size: None,
            ignore: None,
        };
        if let Some(operand) = o.get(3) {
            match self.pred(operand) {
                Ok(predicate) => copy.ignore = Some(predicate),
                Err(_) => copy.source_size = Some(self.w(operand)?),
            }
        }
        Ok(Op::CopyAsync(Box::new(copy)))
    }
}

/// Old value, operand and second operand to new value.
fn atomic_function(operation: &str, ty: &str) -> Option<fn(u64, u64, u64) -> u64> {
    Some(match (operation, ty) {
        ("exch", _) => |_, b, _| b,
        ("cas", _) => |a, b, c| if a == b { c } else { a },
        ("and", _) => |a, b, _| a & b,
        ("or", _) => |a, b, _| a | b,
        ("xor", _) => |a, b, _| a ^ b,
        ("add", "f32") => {
            |a, b, _| u64::from((f32::from_bits(a as u32) + f32::from_bits(b as u32)).to_bits())
        }
        ("add", "f64") => |a, b, _| (f64::from_bits(a) + f64::from_bits(b)).to_bits(),
        ("add", "u32" | "s32") => |a, b, _| u64::from((a as u32).wrapping_add(b as u32)),
        ("add", "u64" | "s64") => |a, b, _| a.wrapping_add(b),
        ("min", "u32" | "u64") => |a, b, _| a.min(b),
        ("max", "u32" | "u64") => |a, b, _| a.max(b),
        ("min", "s32") => |a, b, _| u64::from((a as i32).min(b as i32) as u32),
        ("max", "s32") => |a, b, _| u64::from((a as i32).max(b as i32) as u32),
        ("min", "s64") => |a, b, _| (a as i64).min(b as i64) as u64,
        ("max", "s64") => |a, b, _| (a as i64).max(b as i64) as u64,
        ("inc", "u32") => |a, b, _| if a >= b { 0 } else { a + 1 },
        ("dec", "u32") => |a, b, _| if a == 0 || a > b { b } else { a - 1 },
        _ => return None,
    })
}
