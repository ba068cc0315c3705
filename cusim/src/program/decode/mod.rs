//! From the syntax tree to operations: the context, operands and dispatch.

mod compare;
mod control;
mod convert;
mod float;
mod half;
mod integer;
mod layout;
mod memory;
mod moves;
mod tensor;
mod warp;

use std::collections::HashMap;

use super::op::{Address, Class, Decoded, Initial, Op, Reg, Slot, Special};
use super::slots::{self, File, Slots, file_of};
use super::{Kernel, LoadError, param_layout, window};
use crate::ptx::ast::{AddressBase, Body, Instruction, Module, Operand, RegId, Symbol, Type};
use crate::ptx::cfg;

pub(super) use layout::ModuleLayout;

type Result<T, E = String> = std::result::Result<T, E>;

/// An instruction as it would be written, without operands.
pub(super) fn mnemonic(instruction: &Instruction) -> String {
    let mut text = instruction.opcode.to_string();
    for modifier in &instruction.modifiers {
        text.push('.');
        text.push_str(modifier);
    }
    text
}

/// Decodes one kernel.
pub(super) fn kernel(
    module: &Module,
    layout: &ModuleLayout,
    index: usize,
) -> Result<Kernel, LoadError> {
    let function = &module.functions[index];
    let at_line = |line| move |message| LoadError { line, message };
    let Some(body) = &function.body else {
        return Err(at_line(function.line)(format!(
            "{} has no body",
            function.name
        )));
    };
    if let Some(register) = body
        .registers
        .iter()
        .find(|register| file_of(register.ty).is_none())
    {
        let message = format!("register {} of type {:?}", register.name, register.ty);
        return Err(at_line(function.line)(format!(
            "{message} cannot be executed"
        )));
    }
    let placed = layout.place(body)?;
    let (params, param_bytes) = param_layout(function)?;
    let mut cx = Context {
        body,
        layout,
        param_offsets: params.iter().map(|param| param.offset.into()).collect(),
        placed,
        slots: slots::allocate(body),
        initial: HashMap::new(),
        initial_w: Vec::new(),
        initial_d: Vec::new(),
    };
    let mut code = Vec::with_capacity(body.instructions.len());
    for instruction in &body.instructions {
        let form = Form::of(instruction);
        let decoded = cx.decode(&form).map_err(|message| {
            let text = mnemonic(instruction);
            at_line(instruction.line)(format!("{text}: {message}"))
        })?;
        code.push(decoded);
    }
    let [p, w, d] = cx.slots.count;
    let count = |initial: &[(Slot, Initial)]| initial.len() as u32;
    Ok(Kernel {
        name: function.name.clone(),
        function: index,
        slots: [p, w + count(&cx.initial_w), d + count(&cx.initial_d)],
        params,
        param_bytes,
        static_shared: cx.placed.static_shared as u32,
        local_bytes: cx.placed.local_bytes as u32,
        max_threads: function.maxntid,
        required_threads: function.reqntid,
        code,
        ranks: cfg::ranks(body),
        initial_w: cx.initial_w,
        initial_d: cx.initial_d,
    })
}

/// An instruction with its modifiers at hand.
pub(super) struct Form<'a> {
    instruction: &'a Instruction,
    opcode: &'a str,
    modifiers: Vec<&'a str>,
}

impl<'a> Form<'a> {
    fn of(instruction: &'a Instruction) -> Self {
        let modifiers = instruction.modifiers.iter().map(AsRef::as_ref).collect();
        Self {
            instruction,
            opcode: &instruction.opcode,
            modifiers,
        }
    }

    fn has(&self, modifier: &str) -> bool {
        self.modifiers.contains(&modifier)
    }

    /// The last modifier, which is the type of most instructions.
    fn ty(&self) -> &'a str {
        self.modifiers.last().copied().unwrap_or_default()
    }

    fn operands(&self) -> &'a [Operand] {
        &self.instruction.operands
    }

    fn operand(&self, at: usize) -> Result<&'a Operand> {
        self.operands()
            .get(at)
            .ok_or_else(|| format!("operand {at} is missing"))
    }

    /// Refuses modifiers that are not in the list: what is not understood is not executed.
    fn only(&self, known: &[&str]) -> Result<()> {
        match self
            .modifiers
            .iter()
            .find(|modifier| !known.contains(modifier))
        {
            Some(modifier) => Err(format!("the modifier .{modifier} cannot be executed")),
            None => Ok(()),
        }
    }

    fn unknown<T>(&self) -> Result<T> {
        Err("this form of the instruction cannot be executed".to_owned())
    }
}

/// What decoding one kernel needs to know and collects.
pub(super) struct Context<'a> {
    body: &'a Body,
    layout: &'a ModuleLayout,
    param_offsets: Vec<u64>,
    placed: layout::Placed,
    slots: Slots,
    /// Constants that have a slot already, by file.
    initial: HashMap<(bool, Initial), Slot>,
    initial_w: Vec<(Slot, Initial)>,
    initial_d: Vec<(Slot, Initial)>,
}

impl Context<'_> {
    fn decode(&mut self, form: &Form<'_>) -> Result<Decoded> {
        let guard = match form.instruction.guard {
            Some(guard) => Some((self.pred_slot(guard.reg)?, guard.negated)),
            None => None,
        };
        let (op, class) = self.operation(form)?;
        Ok(Decoded { op, guard, class })
    }

    fn operation(&mut self, form: &Form<'_>) -> Result<(Op, Class)> {
        let floating = matches!(
            form.ty(),
            "f32" | "f64" | "f16" | "f16x2" | "bf16" | "bf16x2"
        );
        Ok(match form.opcode {
            "mov" => (self.mov(form)?, Class::Move),
            "cvta" => (self.cvta(form)?, Class::Move),
            "isspacep" => (self.isspacep(form)?, Class::Move),
            "selp" => (self.selp(form)?, Class::Move),
            "setp" => (self.setp(form)?, Class::Integer),
            "testp" => (self.testp(form)?, Class::Float),
            "cvt" => (self.cvt(form)?, Class::Convert),
            "fma" | "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh"
            | "copysign" => (self.float(form)?, Class::Float),
            "add" | "sub" | "mul" | "div" | "min" | "max" | "neg" | "abs" | "mad" if floating => {
                (self.float(form)?, Class::Float)
            }
            "and" | "or" | "xor" | "not" if form.ty() == "pred" => {
                (self.predicate_logic(form)?, Class::Integer)
            }
            "add" | "sub" | "mul" | "mad" | "div" | "rem" | "min" | "max" | "neg" | "abs"
            | "and" | "or" | "xor" | "not" | "cnot" | "lop3" | "shl" | "shr" | "shf" | "prmt"
            | "bfe" | "bfi" | "bfind" | "clz" | "popc" | "brev" => {
                (self.integer(form)?, Class::Integer)
            }
            "ld" | "ldu" => (self.load(form)?, Class::Memory),
            "st" => (self.store(form)?, Class::Memory),
            "atom" | "red" => (self.atomic(form)?, Class::Memory),
            "cp" => (self.copy_async(form)?, Class::Memory),
            "prefetch" | "prefetchu" | "discard" | "applypriority" => (Op::Nothing, Class::Memory),
            "ldmatrix" => (self.ldmatrix(form)?, Class::Memory),
            "mma" => (self.mma(form)?, Class::Tensor),
            "shfl" => (self.shfl(form)?, Class::Warp),
            "vote" => (self.vote(form)?, Class::Warp),
            "match" => (self.match_lanes(form)?, Class::Warp),
            "redux" => (self.redux(form)?, Class::Warp),
            "activemask" => (Op::ActiveMask(self.dest_w(form.operand(0)?)?), Class::Warp),
            "bar" | "barrier" => (self.barrier(form)?, Class::Barrier),
            "membar" | "fence" | "nanosleep" => (Op::Nothing, Class::Barrier),
            "bra" | "brx" | "ret" | "exit" | "trap" => (self.control(form)?, Class::Control),
            _ => return form.unknown(),
        })
    }

    fn pred_slot(&self, reg: RegId) -> Result<Slot> {
        match self.reg(reg)? {
            (File::P, slot) => Ok(slot),
            _ => Err("the operand must be a predicate".to_owned()),
        }
    }

    fn reg(&self, reg: RegId) -> Result<(File, Slot)> {
        let ty = self.body.registers[reg.0 as usize].ty;
        let file = file_of(ty).ok_or("a register of this type cannot be executed")?;
        Ok((file, self.slots.slot[reg.0 as usize]))
    }

    /// A predicate read, and whether negated.
    fn pred(&self, operand: &Operand) -> Result<(Slot, bool)> {
        match operand {
            Operand::Register(reg) => Ok((self.pred_slot(*reg)?, false)),
            Operand::NotRegister(reg) => Ok((self.pred_slot(*reg)?, true)),
            _ => Err("the operand must be a predicate".to_owned()),
        }
    }

    fn dest_p(&self, operand: &Operand) -> Result<Option<Slot>> {
        match operand {
            Operand::Sink => Ok(None),
            Operand::Register(reg) => self.pred_slot(*reg).map(Some),
            _ => Err("the destination must be a predicate".to_owned()),
        }
    }

    fn dest_w(&self, operand: &Operand) -> Result<Slot> {
        match self.dest(operand)? {
            Reg::W(slot) => Ok(slot),
            Reg::D(_) => Err("the destination must have at most 32 bits".to_owned()),
        }
    }

    fn dest_d(&self, operand: &Operand) -> Result<Slot> {
        match self.dest(operand)? {
            Reg::D(slot) => Ok(slot),
            Reg::W(_) => Err("the destination must have 64 bits".to_owned()),
        }
    }

    fn dest(&self, operand: &Operand) -> Result<Reg> {
        let Operand::Register(reg) = operand else {
            return Err("the destination must be a register".to_owned());
        };
        match self.reg(*reg)? {
            (File::W, slot) => Ok(Reg::W(slot)),
            (File::D, slot) => Ok(Reg::D(slot)),
            (File::P, _) => Err("the destination must not be a predicate".to_owned()),
        }
    }

    fn dest_or_sink(&self, operand: &Operand) -> Result<Option<Reg>> {
        if *operand == Operand::Sink {
            Ok(None)
        } else {
            self.dest(operand).map(Some)
        }
    }

    /// A source of at most 32 bits.
    fn w(&mut self, operand: &Operand) -> Result<Slot> {
        match operand {
            Operand::Register(reg) => match self.reg(*reg)? {
                (File::W, slot) => Ok(slot),
                _ => Err("the operand must have at most 32 bits".to_owned()),
            },
            Operand::Int(value) => Ok(self.constant_w(Initial::Value(*value & 0xffff_ffff))),
            Operand::F32(bits) => Ok(self.constant_w(Initial::Value((*bits).into()))),
            // A double literal where an f32 is meant.
            Operand::F64(bits) => {
                let narrow = f64::from_bits(*bits) as f32;
                Ok(self.constant_w(Initial::Value(narrow.to_bits().into())))
            }
            Operand::Special(name) => {
                let special = special(name)?;
                Ok(self.constant_w(Initial::Special(special)))
            }
            Operand::Symbol(symbol, offset) => {
                let initial = self.symbol(symbol, *offset)?;
                Ok(self.constant_w(initial))
            }
            _ => Err("this kind of operand cannot be executed here".to_owned()),
        }
    }

    /// A 64-bit source.
    fn d(&mut self, operand: &Operand) -> Result<Slot> {
        match operand {
            Operand::Register(reg) => match self.reg(*reg)? {
                (File::D, slot) => Ok(slot),
                _ => Err("the operand must have 64 bits".to_owned()),
            },
            Operand::Int(value) => Ok(self.constant_d(Initial::Value(*value))),
            Operand::F64(bits) => Ok(self.constant_d(Initial::Value(*bits))),
            Operand::F32(bits) => {
                let wide = f64::from(f32::from_bits(*bits));
                Ok(self.constant_d(Initial::Value(wide.to_bits())))
            }
            Operand::Symbol(symbol, offset) => {
                let initial = self.symbol(symbol, *offset)?;
                Ok(self.constant_d(initial))
            }
            _ => Err("this kind of operand cannot be executed here".to_owned()),
        }
    }

    /// A source of either width; constants take the width asked for.
    fn any(&mut self, operand: &Operand, wide: bool) -> Result<Reg> {
        match operand {
            Operand::Register(_) => self.dest(operand),
            _ if wide => self.d(operand).map(Reg::D),
            _ => self.w(operand).map(Reg::W),
        }
    }

    fn constant_w(&mut self, initial: Initial) -> Slot {
        let next = self.slots.count[1] + self.initial_w.len() as u32;
        let slot = *self.initial.entry((false, initial)).or_insert(next);
        if slot == next {
            self.initial_w.push((slot, initial));
        }
        slot
    }

    fn constant_d(&mut self, initial: Initial) -> Slot {
        let next = self.slots.count[2] + self.initial_d.len() as u32;
        let slot = *self.initial.entry((true, initial)).or_insert(next);
        if slot == next {
            self.initial_d.push((slot, initial));
        }
        slot
    }

    /// The value of a symbol: an address in its own space.
    fn symbol(&self, symbol: &Symbol, offset: i64) -> Result<Initial> {
        let at = |address: u64| Initial::Value(address.wrapping_add_signed(offset));
        Ok(match symbol {
            Symbol::Param(index) => at(self.param_offsets[*index as usize]),
            Symbol::Local(index) => at(self.placed.local(*index)?),
            Symbol::Module(index) => match self.layout.global(*index) {
                Some(global) => Initial::GlobalAddress(global, offset),
                None => at(self.placed.module_shared(*index)?),
            },
            _ => return Err("a function or label cannot be an operand here".to_owned()),
        })
    }

    /// The address of a memory operand.
    fn address(&mut self, operand: &Operand) -> Result<Address> {
        let Operand::Address(base, offset) = operand else {
            return Err("the operand must be an address".to_owned());
        };
        Ok(match base {
            AddressBase::Register(reg) => {
                let base = self.dest(&Operand::Register(*reg))?;
                Address {
                    base: Some(base),
                    offset: *offset,
                }
            }
            AddressBase::Absolute => Address {
                base: None,
                offset: *offset,
            },
            AddressBase::Symbol(symbol) => match self.symbol(symbol, *offset)? {
                Initial::Value(address) => Address {
                    base: None,
                    offset: address as i64,
                },
                initial => {
                    let base = Reg::D(self.constant_d(initial));
                    Address {
                        base: Some(base),
                        offset: 0,
                    }
                }
            },
            AddressBase::Tuple(_) => {
                return Err("tensor coordinates cannot be executed".to_owned());
            }
        })
    }

    /// The bits of a register's type.
    fn register_bits(&self, operand: &Operand) -> u32 {
        let Operand::Register(reg) = operand else {
            return 64;
        };
        match self.body.registers[reg.0 as usize].ty {
            Type::Pred => 1,
            Type::B8 | Type::U8 | Type::S8 => 8,
            Type::B16 | Type::U16 | Type::S16 | Type::F16 | Type::Bf16 => 16,
            Type::B64 | Type::U64 | Type::S64 | Type::F64 => 64,
            _ => 32,
        }
    }
}

/// Special registers that are constant while a warp runs (PTX ISA, "Special Registers").
fn special(name: &str) -> Result<Special> {
    let axis = match name.rsplit_once('.') {
        Some((_, "x")) => 0,
        Some((_, "y")) => 1,
        Some((_, "z")) => 2,
        _ => 3,
    };
    Ok(match name.split('.').next().unwrap_or(name) {
        "%tid" if axis < 3 => Special::Tid(axis),
        "%ntid" if axis < 3 => Special::Ntid(axis),
        "%ctaid" if axis < 3 => Special::Ctaid(axis),
        "%nctaid" if axis < 3 => Special::Nctaid(axis),
        "%laneid" => Special::LaneId,
        "%warpid" => Special::WarpId,
        "%nwarpid" => Special::NWarpId,
        "%smid" => Special::SmId,
        "%nsmid" => Special::NSmId,
        "%gridid" => Special::GridId,
        "%lanemask_eq" => Special::LaneMaskEq,
        "%lanemask_le" => Special::LaneMaskLe,
        "%lanemask_lt" => Special::LaneMaskLt,
        "%lanemask_ge" => Special::LaneMaskGe,
        "%lanemask_gt" => Special::LaneMaskGt,
        "%dynamic_smem_size" => Special::DynamicSharedSize,
        "%total_smem_size" => Special::TotalSharedSize,
        _ => {
            return Err(format!(
                "the special register {name} cannot be executed here"
            ));
        }
    })
}

/// The window of a space in generic addressing.
fn window_of(space: &str) -> Option<u64> {
    Some(match space {
        "shared" | "shared::cta" => window::SHARED,
        "local" => window::LOCAL,
        "param" | "param::entry" => window::PARAM,
        "global" | "const" => 0,
        _ => return None,
    })
}
