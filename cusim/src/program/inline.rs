//! Calls: the bodies of called functions are put in the place of the calls, so that a kernel is one
//! stretch of code and a lane needs no stack. Recursion cannot be executed that way and is refused. An
//! indirect call becomes a choice among the functions whose address the module takes.

use std::collections::{BTreeSet, HashMap};

use super::LoadError;
use crate::ptx::ast::{
    AddressBase, Body, Function, Guard, Instruction, Label, LabelId, Module, Operand, RegId,
    Register, Space, Symbol, Type,
};

/// The most instructions of a kernel with all it calls.
const LARGEST: usize = 1 << 20;

/// The address of a function, by index: a number that is nothing else's.
pub(super) fn function_address(index: u32) -> u64 {
    0x1000 + 16 * u64::from(index)
}

/// The body of an entry with every call of a function of the module replaced by that function.
pub(super) fn flatten(module: &Module, entry: &Function) -> Result<Body, LoadError> {
    let mut inliner = Inliner {
        module,
        result: Body::default(),
        shared: HashMap::new(),
        active: Vec::new(),
        addressed: addressed(module),
    };
    if let Some(body) = &entry.body {
        let frame = inliner.frame(body, None, &[], &[]);
        inliner.append(body, &frame)?;
    }
    Ok(inliner.result)
}

struct Inliner<'a> {
    module: &'a Module,
    result: Body,
    /// Shared variables exist once, however often their function is called.
    shared: HashMap<(usize, u32), u32>,
    /// Functions that the current instruction is in, by index.
    active: Vec<usize>,
    /// Functions whose address is taken.
    addressed: BTreeSet<u32>,
}

/// The functions that something other than a call names.
fn addressed(module: &Module) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let bodies = module
        .functions
        .iter()
        .filter_map(|function| function.body.as_ref());
    for instruction in bodies.flat_map(|body| &body.instructions) {
        for operand in &instruction.operands {
            if let Operand::Symbol(Symbol::Function(index), _) = operand
                && &*instruction.opcode != "call"
            {
                found.insert(*index);
            }
        }
    }
    let initial = module
        .variables
        .iter()
        .filter_map(|variable| variable.init.as_ref());
    for (_, symbol, _, _) in initial.flat_map(|init| &init.relocations) {
        if let Symbol::Function(index) = symbol {
            found.insert(*index);
        }
    }
    found
}

/// Where the names of one copy of a function lead.
struct Frame {
    registers: u32,
    variables: Vec<u32>,
    labels: u32,
    params: Vec<Symbol>,
    returns: Vec<Symbol>,
    /// Where `ret` goes; the entry's own `ret` stays.
    end: Option<LabelId>,
}

impl<'a> Inliner<'a> {
    /// Makes room for a copy of a body.
    fn frame(
        &mut self,
        body: &Body,
        function: Option<usize>,
        params: &[Symbol],
        returns: &[Symbol],
    ) -> Frame {
        let registers = self.result.registers.len() as u32;
        self.result.registers.extend(body.registers.iter().cloned());
        let labels = self.result.labels.len() as u32;
        self.result.labels.extend(body.labels.iter().cloned());
        let mut variables = Vec::new();
        for (at, variable) in body.variables.iter().enumerate() {
            let next = self.result.variables.len() as u32;
            let key = function.filter(|_| variable.space == Space::Shared);
            let place = match key {
                Some(function) => *self.shared.entry((function, at as u32)).or_insert(next),
                None => next,
            };
            if place == next {
                self.result.variables.push(variable.clone());
            }
            variables.push(place);
        }
        let end = function.map(|_| self.label("return"));
        Frame {
            registers,
            variables,
            labels,
            params: params.to_vec(),
            returns: returns.to_vec(),
            end,
        }
    }

    /// Copies the instructions of a body.
    fn append(&mut self, body: &Body, frame: &Frame) -> Result<(), LoadError> {
        for (&label, symbols) in &body.targets {
            let symbols = symbols.iter().map(|symbol| frame.symbol(symbol));
            let label = LabelId(label.0 + frame.labels);
            self.result.targets.insert(label, symbols.collect());
        }
        let mut places = Vec::with_capacity(body.instructions.len() + 1);
        for instruction in &body.instructions {
            places.push(self.result.instructions.len() as u32);
            let mut copy = frame.instruction(instruction);
            match (&*copy.opcode, frame.end) {
                ("call", _) => self.call(copy)?,
                ("ret", Some(end)) => {
                    copy.opcode = "bra".into();
                    copy.operands = vec![Operand::Symbol(Symbol::Label(end), 0)];
                    self.result.instructions.push(copy);
                }
                _ => self.result.instructions.push(copy),
            }
        }
        let end = self.result.instructions.len() as u32;
        places.push(end);
        for (at, label) in body.labels.iter().enumerate() {
            let label_at = frame.labels as usize + at;
            self.result.labels[label_at].target = places[label.target as usize];
        }
        if let Some(label) = frame.end {
            self.place(label);
        }
        Ok(())
    }

    /// Replaces a call by what it calls; calls of functions without a body stay.
    fn call(&mut self, call: Instruction) -> Result<(), LoadError> {
        let refuse = |message: String| LoadError {
            line: call.line,
            message: format!("call: {message}"),
        };
        if self.result.instructions.len() > LARGEST {
            return Err(refuse(
                "the kernel and what it calls are too large".to_owned(),
            ));
        }
        let is_function =
            |operand: &Operand| matches!(operand, Operand::Symbol(Symbol::Function(_), 0));
        let Some(at) = call.operands.iter().position(is_function) else {
            return self.indirect_call(&call);
        };
        let Operand::Symbol(Symbol::Function(index), _) = call.operands[at] else {
            return Err(refuse("the target must be a function".to_owned()));
        };
        let module = self.module;
        let index = index as usize;
        let function = &module.functions[index];
        let Some(body) = &function.body else {
            self.result.instructions.push(call);
            return Ok(());
        };
        if self.active.contains(&index) {
            let message = format!("{} calls itself, which cannot be executed", function.name);
            return Err(refuse(message));
        }
        let (returns, params) = arguments(&call, at);
        if params.len() != function.params.len() || returns.len() != function.returns.len() {
            let message = format!(
                "{} takes or returns another number of values",
                function.name
            );
            return Err(refuse(message));
        }
        let frame = self.frame(body, Some(index), &symbols(&params), &symbols(&returns));
        if let (Some(guard), Some(end)) = (call.guard, frame.end) {
            let negated = !guard.negated;
            self.branch(&call, Some(Guard { negated, ..guard }), end);
        }
        // Parameters in registers are the first registers of a function, then its returns.
        let in_registers = |space: &[crate::ptx::ast::Variable]| {
            space.iter().filter(|v| v.space == Space::Reg).count() as u32
        };
        let values = registers(&params);
        for (at, value) in values.iter().enumerate() {
            let to = RegId(frame.registers + at as u32);
            self.copy(&call, Operand::Register(to), value.clone(), to);
        }
        self.active.push(index);
        self.append(body, &frame)?;
        self.active.pop();
        let first = frame.registers + in_registers(&function.params);
        for (at, value) in registers(&returns).into_iter().enumerate() {
            let from = RegId(first + at as u32);
            self.copy(&call, value, Operand::Register(from), from);
        }
        Ok(())
    }

    /// Compares the address with that of every function that it can be, and calls that one.
    fn indirect_call(&mut self, call: &Instruction) -> Result<(), LoadError> {
        let is_register = |operand: &Operand| matches!(operand, Operand::Register(_));
        let Some(at) = call.operands.iter().position(is_register) else {
            return Err(LoadError {
                line: call.line,
                message: "call: the target must be a function or a register".to_owned(),
            });
        };
        let (returns, params) = arguments(call, at);
        let end = self.label("return");
        if let Some(guard) = call.guard {
            let negated = !guard.negated;
            self.branch(call, Some(Guard { negated, ..guard }), end);
        }
        let module = self.module;
        for index in self.addressed.clone() {
            let function = &module.functions[index as usize];
            let fits = function.body.is_some()
                && !self.active.contains(&(index as usize))
                && (function.params.len(), function.returns.len()) == (params.len(), returns.len());
            if !fits {
                continue;
            }
            let differs = RegId(self.result.registers.len() as u32);
            self.result.registers.push(Register {
                name: "%target".into(),
                ty: Type::Pred,
            });
            let next = self.label("next");
            let address = Operand::Int(function_address(index));
            self.result.instructions.push(Instruction {
                guard: None,
                opcode: "setp".into(),
                modifiers: vec!["ne".into(), "b64".into()],
                operands: vec![
                    Operand::Register(differs),
                    call.operands[at].clone(),
                    address,
                ],
                ..call.clone()
            });
            let guard = Guard {
                reg: differs,
                negated: false,
            };
            self.branch(call, Some(guard), next);
            self.call(Instruction {
                guard: None,
                operands: vec![
                    Operand::List(returns.clone()),
                    Operand::Symbol(Symbol::Function(index), 0),
                    Operand::List(params.clone()),
                ],
                ..call.clone()
            })?;
            self.branch(call, None, end);
            self.place(next);
        }
        // The address is that of no function.
        self.result.instructions.push(Instruction {
            guard: None,
            opcode: "trap".into(),
            modifiers: Vec::new(),
            operands: Vec::new(),
            ..call.clone()
        });
        self.place(end);
        Ok(())
    }

    /// A label that is not placed yet.
    fn label(&mut self, name: &str) -> LabelId {
        let id = LabelId(self.result.labels.len() as u32);
        self.result.labels.push(Label {
            name: name.into(),
            target: 0,
        });
        id
    }

    /// Places a label here.
    fn place(&mut self, label: LabelId) {
        self.result.labels[label.0 as usize].target = self.result.instructions.len() as u32;
    }

    fn branch(&mut self, call: &Instruction, guard: Option<Guard>, to: LabelId) {
        self.result.instructions.push(Instruction {
            guard,
            opcode: "bra".into(),
            modifiers: Vec::new(),
            operands: vec![Operand::Symbol(Symbol::Label(to), 0)],
            ..call.clone()
        });
    }

    fn copy(&mut self, call: &Instruction, to: Operand, from: Operand, typed: RegId) {
        let ty = match self.result.registers[typed.0 as usize].ty {
            Type::Pred => "pred",
            Type::B64 | Type::U64 | Type::S64 | Type::F64 => "b64",
            _ => "b32",
        };
        self.result.instructions.push(Instruction {
            guard: None,
            opcode: "mov".into(),
            modifiers: vec![ty.into()],
            operands: vec![to, from],
            ..call.clone()
        });
    }
}

/// The returns and parameters of a call whose target is operand `at`.
fn arguments(call: &Instruction, at: usize) -> (Vec<Operand>, Vec<Operand>) {
    let list = |operand: Option<&Operand>| match operand {
        Some(Operand::List(list)) => list.clone(),
        _ => Vec::new(),
    };
    let returns = if at == 0 { None } else { call.operands.first() };
    (list(returns), list(call.operands.get(at + 1)))
}

/// The variables of an argument list; what is in registers stands for nothing here.
fn symbols(arguments: &[Operand]) -> Vec<Symbol> {
    let symbol = |operand: &Operand| match operand {
        Operand::Symbol(symbol, _) => symbol.clone(),
        _ => Symbol::Local(u32::MAX),
    };
    arguments.iter().map(symbol).collect()
}

/// The arguments that are passed in registers.
fn registers(arguments: &[Operand]) -> Vec<Operand> {
    let is_value = |operand: &&Operand| !matches!(operand, Operand::Symbol(..));
    arguments.iter().filter(is_value).cloned().collect()
}

impl Frame {
    fn register(&self, reg: RegId) -> RegId {
        RegId(reg.0 + self.registers)
    }

    fn symbol(&self, symbol: &Symbol) -> Symbol {
        let passed = |symbols: &[Symbol], at: u32| symbols.get(at as usize).cloned();
        match symbol {
            Symbol::Local(at) => Symbol::Local(self.variables[*at as usize]),
            Symbol::Label(id) => Symbol::Label(LabelId(id.0 + self.labels)),
            Symbol::Param(at) => passed(&self.params, *at).unwrap_or(Symbol::Param(*at)),
            Symbol::Return(at) => passed(&self.returns, *at).unwrap_or(Symbol::Return(*at)),
            other => other.clone(),
        }
    }

    fn operand(&self, operand: &Operand) -> Operand {
        let all = |list: &[Operand]| list.iter().map(|operand| self.operand(operand)).collect();
        match operand {
            Operand::Register(reg) => Operand::Register(self.register(*reg)),
            Operand::NotRegister(reg) => Operand::NotRegister(self.register(*reg)),
            Operand::Symbol(symbol, offset) => Operand::Symbol(self.symbol(symbol), *offset),
            Operand::Address(base, offset) => Operand::Address(self.base(base), *offset),
            Operand::Vector(list) => Operand::Vector(all(list)),
            Operand::List(list) => Operand::List(all(list)),
            Operand::Pair(a, b) => {
                Operand::Pair(Box::new(self.operand(a)), Box::new(self.operand(b)))
            }
            other => other.clone(),
        }
    }

    fn base(&self, base: &AddressBase) -> AddressBase {
        match base {
            AddressBase::Register(reg) => AddressBase::Register(self.register(*reg)),
            AddressBase::Symbol(symbol) => AddressBase::Symbol(self.symbol(symbol)),
            AddressBase::Tuple(list) => {
                AddressBase::Tuple(list.iter().map(|operand| self.operand(operand)).collect())
            }
            AddressBase::Absolute => AddressBase::Absolute,
        }
    }

    fn instruction(&self, instruction: &Instruction) -> Instruction {
        let operands = instruction.operands.iter();
        Instruction {
            guard: instruction.guard.map(|guard| Guard {
                reg: self.register(guard.reg),
                ..guard
            }),
            operands: operands.map(|operand| self.operand(operand)).collect(),
            ..instruction.clone()
        }
    }
}
