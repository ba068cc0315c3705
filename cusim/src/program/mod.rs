//! A module decoded for execution.

mod decode;
mod forms;
pub(crate) mod fragment;
mod inline;
pub(crate) mod lanes;
pub(crate) mod op;
pub(crate) mod rounding;
pub(crate) mod simd;
mod slots;
pub(crate) mod text;

use std::collections::HashMap;
use std::sync::Arc;

use thiserror::Error;

use crate::fault::Site;
use crate::memory::GLOBAL_BASE;
use crate::ptx::ast::{self, Function, Initializer, Module};
pub use forms::{Opcode, opcode, opcodes};
use op::{Decoded, Initial};

/// Where each space begins in generic addressing. All windows lie below global memory.
pub(crate) mod window {
    /// Bytes of each window.
    pub(crate) const SIZE: u64 = 0x1_0000_0000;
    /// Shared memory.
    pub(crate) const SHARED: u64 = 0x1_0000_0000;
    /// Local memory.
    pub(crate) const LOCAL: u64 = 0x2_0000_0000;
    /// Kernel parameters.
    pub(crate) const PARAM: u64 = 0x3_0000_0000;
    /// In the space of parameters: where arguments of inlined calls begin, which are in local memory.
    pub(crate) const ARGUMENTS: u64 = 0x1_0000;
}
const _: () = assert!(window::PARAM + window::SIZE <= GLOBAL_BASE);

/// The most calls that a report names of those an instruction was inlined through.
const MOST_CALLERS: usize = 8;

/// Why a module cannot be executed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("PTX line {line}: {message}")]
pub struct LoadError {
    /// Line in the PTX text.
    pub line: u32,
    /// What cannot be executed.
    pub message: String,
}

/// Index of a kernel in its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KernelId(usize);

/// A parameter of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParamInfo {
    /// Byte offset in the parameter buffer.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
    /// Alignment in bytes.
    pub align: u32,
}

/// A module-scope variable that the driver places in device memory.
#[derive(Debug, Clone, PartialEq)]
pub struct GlobalVar {
    /// Name.
    pub name: Arc<str>,
    /// Bytes.
    pub size: u64,
    /// Alignment in bytes.
    pub align: u64,
    /// Initial contents; zeros where there is none. Relocations name other variables by index.
    pub bytes: Vec<u8>,
    /// (byte offset, index of the variable whose address goes there, addend).
    pub relocations: Vec<(u64, usize, i64)>,
}

/// An executable module.
pub struct Program {
    module: Module,
    /// The text it was parsed from, where that is kept.
    text: Arc<str>,
    kernels: Vec<Kernel>,
    names: HashMap<Arc<str>, KernelId>,
    globals: Vec<GlobalVar>,
}

/// An executable kernel.
pub struct Kernel {
    name: Arc<str>,
    function: usize,
    /// The body with all calls inlined.
    body: ast::Body,
    params: Vec<ParamInfo>,
    param_bytes: u32,
    static_shared: u32,
    local_bytes: u32,
    max_threads: Option<[u32; 3]>,
    required_threads: Option<[u32; 3]>,
    pub(crate) code: Vec<Decoded>,
    pub(crate) ranks: Vec<u32>,
    /// Slots of each file: P, W, D; constants behind the registers.
    pub(crate) slots: [u32; 3],
    /// Blocks can learn from each other, through atomic operations or accesses that are ordered like them, or
    /// can be seen to run in some order.
    pub(crate) communicates: bool,
    /// What slots hold when a warp starts: those of W, then of D.
    pub(crate) initial_w: Vec<(u32, Initial)>,
    pub(crate) initial_d: Vec<(u32, Initial)>,
}

impl Program {
    /// Decodes every kernel of a module.
    ///
    /// # Errors
    /// [`LoadError`] for the first instruction or declaration that cannot be executed.
    pub fn load(module: &Module) -> Result<Program, LoadError> {
        let layout = decode::ModuleLayout::of(module)?;
        let mut kernels = Vec::new();
        let mut names = HashMap::new();
        for (index, function) in module.functions.iter().enumerate() {
            if function.is_entry && function.body.is_some() {
                names.insert(function.name.clone(), KernelId(kernels.len()));
                kernels.push(decode::kernel(module, &layout, index)?);
            }
        }
        let globals = layout.globals(module);
        Ok(Program {
            module: module.clone(),
            text: Arc::default(),
            kernels,
            names,
            globals,
        })
    }

    /// Keeps the text it was parsed from, for recordings.
    pub(crate) fn with_text(mut self, text: Arc<str>) -> Self {
        self.text = text;
        self
    }

    pub(crate) fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// Every kernel.
    pub fn kernels(&self) -> impl Iterator<Item = &Kernel> {
        self.kernels.iter()
    }

    /// The kernel of this name.
    pub fn kernel(&self, name: &str) -> Option<KernelId> {
        self.names.get(name).copied()
    }

    /// A kernel of this program.
    ///
    /// # Panics
    /// When `id` is of another program with more kernels.
    pub fn get(&self, id: KernelId) -> &Kernel {
        &self.kernels[id.0]
    }

    /// Module-scope variables (`.global` and `.const`), in the order that a launch takes their addresses.
    pub fn globals(&self) -> &[GlobalVar] {
        &self.globals
    }

    /// Where instruction `pc` of a kernel stands.
    pub(crate) fn site(&self, kernel: &Kernel, pc: usize) -> Site {
        let Some(instruction) = kernel.body.instructions.get(pc) else {
            return Site {
                instruction: "end of kernel".to_owned(),
                ..Site::default()
            };
        };
        let names = text::Names {
            module: &self.module,
            entry: &self.module.functions[kernel.function],
            body: &kernel.body,
        };
        let source = |loc: &ast::Loc| {
            let path = self.module.files.get(&loc.file)?;
            Some(format!("{path}:{}", loc.line))
        };
        let callers = std::iter::successors(instruction.loc, |loc| {
            self.module.callers.get(loc.caller? as usize).copied()
        });
        let callers = callers.skip(1).take(MOST_CALLERS);
        Site {
            instruction: names.instruction(instruction),
            source: instruction.loc.as_ref().and_then(source),
            callers: callers.filter_map(|loc| source(&loc)).collect(),
            ptx_line: instruction.line,
        }
    }
}

impl Kernel {
    /// Name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Parameters in order.
    pub fn params(&self) -> &[ParamInfo] {
        &self.params
    }

    /// Bytes of the parameter buffer.
    pub fn param_bytes(&self) -> u32 {
        self.param_bytes
    }

    /// Bytes of statically declared shared memory.
    pub fn static_shared(&self) -> u32 {
        self.static_shared
    }

    /// Line in the PTX text of each instruction.
    pub(crate) fn ptx_lines(&self) -> impl Iterator<Item = u32> {
        let instructions = self.body.instructions.iter();
        instructions.map(|instruction| instruction.line)
    }

    /// Bytes of local memory of one thread.
    pub fn local_bytes(&self) -> u32 {
        self.local_bytes
    }

    /// `.maxntid`: the most threads of a block, by axis.
    pub fn max_threads(&self) -> Option<[u32; 3]> {
        self.max_threads
    }

    /// `.reqntid`: the threads a block must have, by axis.
    pub fn required_threads(&self) -> Option<[u32; 3]> {
        self.required_threads
    }
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.kernels.iter().map(|kernel| &kernel.name).collect();
        f.debug_struct("Program")
            .field("kernels", &names)
            .finish_non_exhaustive()
    }
}

/// The bytes of an initialiser, or zeros.
fn initial_bytes(init: Option<&Initializer>, size: u64) -> Vec<u8> {
    init.map_or_else(|| vec![0; size as usize], |init| init.bytes.clone())
}

/// Parameter offsets by the rules of the kernel parameter buffer: each at its own alignment.
fn param_layout(function: &Function) -> Result<(Vec<ParamInfo>, u32), LoadError> {
    let mut params = Vec::new();
    let mut end = 0u64;
    for ast::Variable {
        align, size, line, ..
    } in &function.params
    {
        let size = size.unwrap_or(0);
        let offset = end.next_multiple_of(*align);
        end = offset + size;
        // CUDA C++ Programming Guide, "Kernel parameters": at most 32,764 bytes.
        if end > 32764 {
            let message = format!("the parameters of {} are too large", function.name);
            return Err(LoadError {
                line: *line,
                message,
            });
        }
        params.push(ParamInfo {
            offset: offset as u32,
            size: size as u32,
            align: *align as u32,
        });
    }
    Ok((params, end as u32))
}
