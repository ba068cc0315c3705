//! Mutation testing of kernels and of the checks: a kernel is broken in one place at a time, and what it
//! did on recorded launches is done again.
//!
//! A change that nothing tells from the original is either harmless, and can be explained, or shows that
//! something is not checked: by the emulator, or by the launches that were recorded.
//!
//! ```no_run
//! # use cusim::mutation::Subject;
//! cusim::record(true);
//! // … launches, small ones that reach every path …
//! for subject in Subject::all(cusim::take_recordings(), 2)? {
//!     for mutant in subject.mutants() {
//!         println!("{mutant}: {:?}", subject.judge(&mutant));
//!     }
//! }
//! # Ok::<(), cusim::mutation::SubjectError>(())
//! ```

mod change;
mod explain;
mod judge;
mod slice;
#[cfg(test)]
mod tests;

use std::fmt;
use std::iter::successors;
use std::sync::Arc;

pub use explain::{Explanation, Explanations, Site};
pub use judge::{Judgement, Subject, SubjectError, Verdict, judge_all};

use crate::program::text::Names;
use crate::ptx::ast::{Instruction, Loc, Module};

/// What a mutant is a test of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// The order of accesses: barriers, waits, commits, fences. Such a mutant must be reported; that
    /// it computes something else is not enough.
    Synchronisation,
    /// Which accesses are made at all.
    Bounds,
    /// Where accesses to shared memory go, and which lane a lane takes a value from.
    Place,
}

/// What is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A barrier, wait, commit or fence is gone.
    Remove,
    /// A wait lets one more group be in flight.
    WaitForFewer,
    /// A barrier for some threads is another barrier.
    OtherBarrier,
    /// A fence or atomic for the device orders within the block only.
    NarrowScope,
    /// An acquire or release is relaxed.
    Relax,
    /// A guarded access is made always.
    Unguard,
    /// A guarded branch or exit is never taken.
    NeverTaken,
    /// A guarded branch or exit is always taken.
    AlwaysTaken,
    /// A comparison of integers lets the equal through, or no longer does.
    OffByOne,
    /// A copy that fills a part with zeros copies all.
    CopyInFull,
    /// An access to shared memory is 16 bytes further on.
    ShiftUp,
    /// An access to shared memory is 16 bytes further back.
    ShiftDown,
    /// A selection that leads to a shared address takes the other operand.
    SwapSelection,
    /// A mask or toggle that leads to a shared address does nothing.
    ZeroMask,
    /// A factor that leads to a shared address is twice as large, or half where it divides.
    Scale,
    /// A constant that is added on the way to a shared address is 16 more.
    Add,
    /// A shuffle takes another lane's value.
    OtherLane,
}

impl Kind {
    /// What it is a test of.
    pub fn class(self) -> Class {
        match self {
            Self::Remove
            | Self::WaitForFewer
            | Self::OtherBarrier
            | Self::NarrowScope
            | Self::Relax => Class::Synchronisation,
            Self::Unguard
            | Self::NeverTaken
            | Self::AlwaysTaken
            | Self::OffByOne
            | Self::CopyInFull => Class::Bounds,
            Self::ShiftUp
            | Self::ShiftDown
            | Self::SwapSelection
            | Self::ZeroMask
            | Self::Scale
            | Self::Add
            | Self::OtherLane => Class::Place,
        }
    }

    /// The name it has in lists of explanations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Remove => "remove",
            Self::WaitForFewer => "wait-for-fewer",
            Self::OtherBarrier => "other-barrier",
            Self::NarrowScope => "narrow-scope",
            Self::Relax => "relax",
            Self::Unguard => "unguard",
            Self::NeverTaken => "never-taken",
            Self::AlwaysTaken => "always-taken",
            Self::OffByOne => "off-by-one",
            Self::CopyInFull => "copy-in-full",
            Self::ShiftUp => "shift-up",
            Self::ShiftDown => "shift-down",
            Self::SwapSelection => "swap-selection",
            Self::ZeroMask => "zero-mask",
            Self::Scale => "scale",
            Self::Add => "add",
            Self::OtherLane => "other-lane",
        }
    }
}

/// One change of one instruction of a kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Mutant {
    /// The kernel.
    pub kernel: Arc<str>,
    /// What is changed.
    pub kind: Kind,
    /// The instruction before the change.
    pub instruction: String,
    /// Its line in the PTX text.
    pub ptx_line: u32,
    /// File and line of the CUDA source, where the module tells, and behind it those of the calls that this
    /// was inlined through, the innermost first.
    pub source: Vec<(Arc<str>, u32)>,
    /// Index of the function, and of the instruction in it.
    at: (usize, usize),
    /// What stands there instead; `None` when nothing does.
    change: Option<Instruction>,
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kernel,
            kind,
            instruction,
            ptx_line,
            ..
        } = self;
        write!(f, "{kernel}: {} `{instruction}`", kind.name())?;
        match self.source.first() {
            Some((path, line)) => write!(f, " at {path}:{line} (PTX line {ptx_line})"),
            None => write!(f, " at PTX line {ptx_line}"),
        }
    }
}

/// Every mutant of a kernel, in the order of its instructions, and of the functions of its module.
pub fn mutants(module: &Module, kernel: &str) -> Vec<Mutant> {
    let mut all = Vec::new();
    for (at, function) in module.functions.iter().enumerate() {
        let Some(body) = function.body.as_ref() else {
            continue;
        };
        if function.is_entry && *function.name != *kernel {
            continue;
        }
        let names = Names {
            module,
            entry: function,
            body,
        };
        let addresses = slice::shared_addresses(body);
        for (index, instruction) in body.instructions.iter().enumerate() {
            for (kind, change) in change::changes(instruction, &addresses) {
                let caller = |loc: &Loc| module.callers.get(loc.caller? as usize).copied();
                let places = successors(instruction.loc, caller);
                let source = places.map_while(|loc| {
                    let path = module.files.get(&loc.file)?;
                    Some((path.clone(), loc.line))
                });
                all.push(Mutant {
                    kernel: kernel.into(),
                    kind,
                    instruction: names.instruction(instruction),
                    ptx_line: instruction.line,
                    source: source.collect(),
                    at: (at, index),
                    change,
                });
            }
        }
    }
    all
}

impl Mutant {
    /// The module with this change, all others lines as they were.
    ///
    /// A mutant of another module changes nothing.
    pub fn apply(&self, module: &Module) -> Module {
        let mut module = module.clone();
        let (function, index) = self.at;
        let body = module.functions.get_mut(function);
        let Some(body) = body.and_then(|function| function.body.as_mut()) else {
            return module;
        };
        match &self.change {
            Some(instruction) => {
                if let Some(place) = body.instructions.get_mut(index) {
                    place.clone_from(instruction);
                }
            }
            None if index < body.instructions.len() => {
                body.instructions.remove(index);
                for label in &mut body.labels {
                    label.target -= u32::from(label.target as usize > index);
                }
            }
            None => {}
        }
        module
    }
}

/// A module with one kernel alone, and all its functions.
pub(crate) fn alone(mut module: Module, kernel: &str) -> Module {
    for function in &mut module.functions {
        if function.is_entry && *function.name != *kernel {
            function.body = None;
        }
    }
    module
}
