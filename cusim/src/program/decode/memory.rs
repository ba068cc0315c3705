//! Loads, stores, atomics and asynchronous copies (PTX ISA, "Data Movement and Conversion", "Parallel
//! Synchronization and Communication").

use super::super::lanes::{d, f, ftz, out_ftz};
use super::super::op::{Access, Atomic, CopyAsync, Op, Order, Reg, Scope, Space};
use super::super::rounding::{Format, Rounding};
use super::{Context, Form, Result};
use crate::ptx::ast::Operand;

/// The order that the modifiers ask for.
pub(super) fn order_of(form: &Form<'_>) -> Order {
    let scope = scope_of(form);
    let orders = [
        ("acq_rel", Order::AcquireRelease(scope)),
        ("acquire", Order::Acquire(scope)),
        ("release", Order::Release(scope)),
        ("relaxed", Order::Relaxed(scope)),
        ("volatile", Order::Relaxed(scope)),
        ("mmio", Order::Relaxed(scope)),
    ];
    let named = orders.into_iter().find(|(name, _)| form.has(name));
    named.map_or(Order::Weak, |(_, order)| order)
}

/// The scope that the modifiers name; without one an operation that has an order reaches all blocks. A cluster is one block.
fn scope_of(form: &Form<'_>) -> Scope {
    match form.has("cta") || form.has("cluster") {
        true => Scope::Block,
        false => Scope::Device,
    }
}

/// The space that the modifiers name, or generic addressing.
pub(super) fn space_of(form: &Form<'_>) -> Space {
    let mut modifiers = form.modifiers.iter().copied();
    modifiers.find_map(space_named).unwrap_or(Space::Generic)
}

pub(super) fn space_named(modifier: &str) -> Option<Space> {
    Some(match modifier {
        "global" => Space::Global,
        "shared" | "shared::cta" | "shared::cluster" => Space::Shared,
        "local" => Space::Local,
        "param" | "param::entry" | "param::func" => Space::Param,
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
            access.regs.push(self.dest_or_sink(dest)?);
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
        let Some((width, signed)) = width_of(form.ty()) else {
            return form.unknown();
        };
        let address = self.address(address)?;
        Ok(Access {
            space: space_of(form),
            address,
            width,
            signed,
            regs: Vec::new(),
            order: order_of(form),
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
        // Eight are of 32 bits only.
        let is_allowed = match expected {
            8 => access.width == 4,
            _ => access.width * expected <= 32,
        };
        if access.regs.len() != expected || !is_allowed {
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
        const OPERATIONS: [&str; 10] = [
            "add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec",
        ];
        let ty = form.ty();
        let Some((width, _)) = width_of(ty).filter(|&(width, _)| width >= 2) else {
            return form.unknown();
        };
        let mut modifiers = form.modifiers.iter();
        let operation = modifiers.find(|modifier| OPERATIONS.contains(modifier));
        let Some((operation, f)) =
            operation.and_then(|operation| Some((*operation, atomic_function(operation, ty)?)))
        else {
            return form.unknown();
        };
        let first = usize::from(form.opcode == "atom");
        let address = self.address(form.operand(first)?)?;
        let operand = self.any(form.operand(first + 1)?, width == 8)?;
        let dest = match first {
            1 => self.dest_or_sink(form.operand(0)?)?,
            _ => None,
        };
        let rest = &form.operands()[first + 2..];
        let hints = usize::from(form.has("L2::cache_hint"));
        let second = match (operation, rest) {
            ("cas", [second]) => Some(self.any(second, width == 8)?),
            (name, rest) if name != "cas" && rest.len() <= hints => None,
            _ => return form.unknown(),
        };
        let order = match order_of(form) {
            // Without a qualifier an atomic operation is relaxed.
            Order::Weak => Order::Relaxed(scope_of(form)),
            order => order,
        };
        Ok(Op::Atomic(Box::new(Atomic {
            space: space_of(form),
            address,
            width,
            dest,
            operand,
            second,
            f,
            f_in_global: match (operation, ty) {
                ("add", "f32") => add_flushed,
                _ => f,
            },
            order,
        })))
    }

    /// `createpolicy`: a number that only `.L2::cache_hint` takes, which changes no value.
    pub(super) fn policy(&mut self, form: &Form<'_>) -> Result<Op> {
        let d = self.dest_d(form.operand(0)?)?;
        let zero = self.constant_d(super::super::op::Initial::Value(0));
        Ok(Op::D1(|a| *a, d, zero))
    }

    /// `cp.async` and its groups; bulk copies are not of sm_80.
    pub(super) fn copy_async(&mut self, form: &Form<'_>) -> Result<Op> {
        if form.has("mbarrier") {
            return self.arrive_after_copies(form);
        }
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
            [
                "async",
                "ca" | "cg",
                "shared" | "shared::cta" | "shared::cluster",
                "global",
                ..,
            ] => {}
            _ => return form.unknown(),
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
        // What may follow: the bytes to copy or a predicate, then a cache policy.
        let hints = usize::from(form.has("L2::cache_hint"));
        let last = o.len().saturating_sub(hints);
        if last > 4 {
            return form.unknown();
        }
        if let Some(operand) = o[..last].get(3) {
            match self.pred(operand) {
                Ok(predicate) => copy.ignore = Some(predicate),
                Err(_) => copy.source_size = Some(self.w(operand)?),
            }
        }
        Ok(Op::CopyAsync(Box::new(copy)))
    }
}

/// The sum of f32 in global memory, where subnormal operands and results become zeros of their sign (PTX ISA,
/// "Parallel Synchronization and Communication Instructions: atom").
fn add_flushed(a: u64, b: u64, _: u64) -> u64 {
    out_ftz(ftz(a as u32) + ftz(b as u32)).into()
}

/// Adds both halves of a pair.
fn add_halves(format: Format, a: u64, b: u64) -> u64 {
    let half = |shift: u32| {
        let sum = format.decode(a >> shift) + format.decode(b >> shift);
        format.encode(sum, Rounding::Nearest) << shift
    };
    half(0) | half(16)
}

/// Old value, operand and second operand to new value.
fn atomic_function(operation: &str, ty: &str) -> Option<fn(u64, u64, u64) -> u64> {
    Some(match (operation, ty) {
        ("exch", "b32" | "b64") => |_, b, _| b,
        ("cas", "b16" | "b32" | "b64") => |a, b, c| if a == b { c } else { a },
        ("and", "b32" | "b64") => |a, b, _| a & b,
        ("or", "b32" | "b64") => |a, b, _| a | b,
        ("xor", "b32" | "b64") => |a, b, _| a ^ b,
        ("add", "f32") => |a, b, _| u64::from((f(a as u32) + f(b as u32)).to_bits()),
        ("add", "f64") => |a, b, _| (d(a) + d(b)).to_bits(),
        ("add", "f16") => |a, b, _| add_halves(Format::F16, a, b) & 0xffff,
        ("add", "bf16") => |a, b, _| add_halves(Format::Bf16, a, b) & 0xffff,
        ("add", "f16x2") => |a, b, _| add_halves(Format::F16, a, b),
        ("add", "bf16x2") => |a, b, _| add_halves(Format::Bf16, a, b),
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
