//! From the syntax tree to operations: the context, operands and dispatch.

mod compare;
mod control;
mod convert;
mod float;
mod guess;
mod half;
mod integer;
mod layout;
mod logic;
mod memory;
mod moves;
mod multiply;
mod numeric;
mod operand;
mod sync;
mod tensor;
mod video;
mod warp;

use std::collections::HashMap;

use super::op::{Class, Decoded, Initial, Op, Order, Slot, Space, System};
use super::rounding::Rounding;
use super::slots::{self, Slots, file_of};
use super::text::mnemonic;
use super::{Kernel, LoadError, forms, inline, param_layout};
use crate::ptx::ast::{Body, Instruction, Module, Operand};
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
        let decoded = Form::of(instruction).and_then(|form| cx.decode(&form));
        let decoded = decoded.map_err(|message| {
            let text = mnemonic(instruction);
            at_line(instruction.line)(format!("{text}: {message}"))
        })?;
        code.push(decoded);
    }
    guess::order(&body.instructions, &mut code);
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
        communicates: code.iter().any(|decoded| communicates(&decoded.op)),
        code,
        ranks: cfg::ranks(&body),
        initial_w,
        initial_d,
        body,
    })
}

/// Whether a block can learn through an operation what other blocks did before, or when they ran.
fn communicates(op: &Op) -> bool {
    let shared_by_all = |space| matches!(space, Space::Global | Space::Generic);
    match op {
        Op::Atomic(op) => shared_by_all(op.space),
        Op::Load(op) | Op::Store(op) => op.order != Order::Weak && shared_by_all(op.space),
        Op::System(call) => call.function == System::Printf,
        Op::Clock(_) => true,
        _ => false,
    }
}

/// An instruction with its modifiers at hand.
pub(super) struct Form<'a> {
    instruction: &'a Instruction,
    opcode: &'a str,
    /// In the order of the table.
    modifiers: Vec<&'static str>,
}

impl<'a> Form<'a> {
    /// An instruction that the table has, or why it cannot be executed.
    fn of(instruction: &'a Instruction) -> Result<Self> {
        let modifiers = instruction.modifiers.iter().map(AsRef::as_ref);
        let modifiers: Vec<&str> = modifiers.collect();
        Ok(Self {
            instruction,
            opcode: &instruction.opcode,
            modifiers: forms::canonical(&instruction.opcode, &modifiers)?,
        })
    }

    fn has(&self, modifier: &str) -> bool {
        self.modifiers.contains(&modifier)
    }

    /// The last modifier, which is the type of most instructions.
    fn ty(&self) -> &'static str {
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
        Ok(Decoded {
            op,
            guard,
            class,
            numeric: self.numeric(form)?,
        })
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
            "prefetch" | "prefetchu" | "applypriority" => (Op::Nothing, Class::Memory),
            "createpolicy" => (self.policy(form)?, Class::Memory),
            "ldmatrix" => (self.load_matrix(form)?, Class::Memory),
            "stmatrix" => (self.store_matrix(form)?, Class::Memory),
            "movmatrix" => (self.move_matrix(form)?, Class::Warp),
            "mma" => (self.mma(form)?, Class::Tensor),
            "wmma" if form.has("mma") => (self.wmma(form)?, Class::Tensor),
            "wmma" => (self.wmma(form)?, Class::Memory),
            "shfl" => (self.shfl(form)?, Class::Warp),
            "vote" => (self.vote(form)?, Class::Warp),
            "match" => (self.match_lanes(form)?, Class::Warp),
            "redux" => (self.redux(form)?, Class::Warp),
            "elect" => (self.elect(form)?, Class::Warp),
            "activemask" => (Op::ActiveMask(self.dest_w(form.operand(0)?)?), Class::Warp),
            "bar" if form.has("warp") => (self.barrier(form)?, Class::Warp),
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
            video if video.starts_with('v') => self.video(form),
            "sad" => self.absolute_difference(form),
            "dp4a" | "dp2a" => self.dot_product(form),
            "shl" | "shr" => self.shift(form),
            "shf" | "prmt" => self.funnel(form),
            "lop3" => self.lop3(form),
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
}
