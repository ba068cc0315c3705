//! From the syntax tree to operations: the context, operands and dispatch.

mod compare;
mod control;
mod convert;
mod float;
mod half;
mod integer;
mod layout;
mod logic;
mod memory;
mod moves;
mod multiply;
mod sync;
mod tensor;
mod warp;

use std::collections::HashMap;

use super::op::{Address, Class, Decoded, Initial, Op, Reg, Slot, Special};
use super::rounding::Rounding;
use super::slots::{self, File, Slots, file_of};
use super::text::mnemonic;
use super::{Kernel, LoadError, inline, param_layout, window};
use crate::ptx::ast::{AddressBase, Body, Instruction, Module, Operand, RegId, Space, Symbol};
use crate::ptx::cfg;

pub(super) use layout::ModuleLayout;

type Result<T, E = String> = std::result::Result<T, E>;

/// Decodes one kernel.
pub(super) fn kernel(
    module: &Module,
    layout: &ModuleLayout,
    index: usize,
) -> Result<Kernel, LoadError> {
    let function = &module.functions[index];
    let at_line = |line| move |message| LoadError { line, message };
    let body = inline::flatten(module, function)?;
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
    let placed = layout.place(&body)?;
    let (params, param_bytes) = param_layout(function)?;
    let mut cx = Context {
        body: &body,
        module,
        layout,
        param_offsets: params.iter().map(|param| param.offset.into()).collect(),
        placed,
        slots: slots::allocate(&body),
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
    let slots = [p, w + count(&cx.initial_w), d + count(&cx.initial_d)];
    let Context {
        placed,
        initial_w,
        initial_d,
        ..
    } = cx;
    Ok(Kernel {
        name: function.name.clone(),
        function: index,
        slots,
        params,
        param_bytes,
        static_shared: placed.static_shared as u32,
        local_bytes: placed.local_bytes as u32,
        max_threads: function.maxntid,
        required_threads: function.reqntid,
        code,
        ranks: cfg::ranks(&body),
        initial_w,
        initial_d,
        body,
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

    /// The rounding mode of a result, if one is written.
    fn rounding(&self) -> Option<Rounding> {
        let modes = [
            ("rn", Rounding::Nearest),
            ("rna", Rounding::NearestAway),
            ("rz", Rounding::Zero),
            ("rm", Rounding::Down),
            ("rp", Rounding::Up),
        ];
        let named = modes.into_iter().find(|(name, _)| self.has(name));
        named.map(|(_, rounding)| rounding)
    }

    fn unknown<T>(&self) -> Result<T> {
        Err("this form of the instruction cannot be executed".to_owned())
    }
}

/// What decoding one kernel needs to know and collects.
pub(super) struct Context<'a> {
    body: &'a Body,
    module: &'a Module,
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
            "slct" => (self.slct(form)?, Class::Move),
            "setp" => (self.setp(form)?, Class::Integer),
            "set" => (self.set(form)?, Class::Integer),
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
            "ld" | "ldu" => (self.load(form)?, Class::Memory),
            "st" => (self.store(form)?, Class::Memory),
            "atom" | "red" => (self.atomic(form)?, Class::Memory),
            "cp" => (self.copy_async(form)?, Class::Memory),
            "prefetch" | "prefetchu" | "discard" | "applypriority" => (Op::Nothing, Class::Memory),
            "createpolicy" => (self.policy(form)?, Class::Memory),
            "ldmatrix" => (self.load_matrix(form)?, Class::Memory),
            "stmatrix" => (self.store_matrix(form)?, Class::Memory),
            "movmatrix" => (self.move_matrix(form)?, Class::Warp),
            "mma" => (self.mma(form)?, Class::Tensor),
            "shfl" => (self.shfl(form)?, Class::Warp),
            "vote" => (self.vote(form)?, Class::Warp),
            "match" => (self.match_lanes(form)?, Class::Warp),
            "redux" => (self.redux(form)?, Class::Warp),
            "elect" => (self.elect(form)?, Class::Warp),
            "activemask" => (Op::ActiveMask(self.dest_w(form.operand(0)?)?), Class::Warp),
            "bar" | "barrier" => (self.barrier(form)?, Class::Barrier),
            "mbarrier" => (self.mbarrier(form)?, Class::Barrier),
            "membar" | "fence" => (self.fence(form)?, Class::Barrier),
            "nanosleep" | "pmevent" | "griddepcontrol" | "setmaxnreg" => {
                (Op::Nothing, Class::Control)
            }
            "bra" | "brx" | "ret" | "exit" | "trap" | "brkpt" | "call" => {
                (self.control(form)?, Class::Control)
            }
            _ => (self.integer_family(form)?, Class::Integer),
        })
    }

    fn integer_family(&mut self, form: &Form<'_>) -> Result<Op> {
        match form.opcode {
            "addc" | "subc" | "madc" => self.carried(form),
            "add" | "sub" | "mad" if form.has("cc") => self.carried(form),
            "mul" | "mad" => self.multiply(form),
            "mul24" | "mad24" => self.multiply24(form),
            "sad" => self.absolute_difference(form),
            "dp4a" | "dp2a" => self.dot_product(form),
            "shl" | "shr" => self.shift(form),
            "shf" | "prmt" | "lop3" => self.funnel(form),
            "bfe" | "bfi" => self.bit_field(form),
            "szext" | "bmsk" => self.bit_mask(form),
            "bfind" | "clz" | "popc" => self.count_bits(form),
            "fns" => self.find_nth(form),
            "add" | "sub" | "div" | "rem" | "min" | "max" | "neg" | "abs" | "and" | "or"
            | "xor" | "not" | "cnot" | "brev" => self.integer(form),
            _ => form.unknown(),
        }
    }

    /// An operation of one lane's operands, all as wide as the type of the instruction.
    fn scalar(
        &mut self,
        form: &Form<'_>,
        function: impl Fn(&[u64; 4]) -> u64 + Send + Sync + 'static,
    ) -> Result<Op> {
        let wide = form.ty().ends_with("64");
        let dest = self.dest(form.operand(0)?)?;
        let sources = form.operands()[1..]
            .iter()
            .map(|operand| self.any(operand, wide));
        let sources = sources.collect::<Result<Vec<_>>>()?;
        if sources.len() > 4 {
            return form.unknown();
        }
        Ok(Op::Scalar(Box::new(function), dest, sources))
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
            Operand::Special(name) => Ok(self.constant_w(Initial::Special(special(name)?))),
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
            Symbol::Local(index) => at(self.local_address(*index)?),
            Symbol::Module(index) => match self.layout.global(*index) {
                Some(global) => Initial::GlobalAddress(global, offset),
                None => at(self.placed.module_shared(*index)?),
            },
            _ => return Err("a function or label cannot be an operand here".to_owned()),
        })
    }

    /// The address of a variable of the body. Arguments of calls are in local memory, but addressed as
    /// parameters.
    fn local_address(&self, index: u32) -> Result<u64> {
        let address = self.placed.local(index)?;
        match self.body.variables.get(index as usize).map(|v| v.space) {
            Some(Space::Param) => Ok(address + window::ARGUMENTS),
            _ => Ok(address),
        }
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
        "%gridid" => Special::Constant(0),
        // A block is a cluster of its own.
        "%clusterid" if axis < 3 => Special::Ctaid(axis),
        "%nclusterid" if axis < 3 => Special::Nctaid(axis),
        "%cluster_ctaid" if axis < 3 => Special::Constant(0),
        "%cluster_nctaid" if axis < 3 => Special::Constant(1),
        "%cluster_ctarank" => Special::Constant(0),
        "%cluster_nctarank" => Special::Constant(1),
        "WARP_SZ" => Special::Constant(32),
        "%aggr_smem_size" => Special::TotalSharedSize,
        "%reserved_smem_offset_begin"
        | "%reserved_smem_offset_end"
        | "%reserved_smem_offset_cap" => Special::Constant(0),
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
        "shared" | "shared::cta" | "shared::cluster" => window::SHARED,
        "local" => window::LOCAL,
        "param" | "param::entry" => window::PARAM,
        "global" | "const" => 0,
        _ => return None,
    })
}
