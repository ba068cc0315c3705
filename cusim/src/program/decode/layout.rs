//! Where variables lie.

use super::super::inline::function_address;
use super::super::{GlobalVar, LoadError, initial_bytes};
use crate::ptx::ast::{AddressBase, Body, Module, Operand, Space, Symbol, Variable};

/// Where module-scope variables lie.
pub(in super::super) struct ModuleLayout {
    variables: Vec<Place>,
    shared: Vec<(u64, u64, bool)>,
}

enum Place {
    /// Index among the variables in device memory.
    Global(u32),
    /// Index among the shared variables.
    Shared(usize),
}

/// Where the variables of one kernel lie.
pub(super) struct Placed {
    pub(super) static_shared: u64,
    pub(super) local_bytes: u64,
    /// Offset of each variable of the body in its space.
    locals: Vec<Option<u64>>,
    /// Offset of each module-scope shared variable, by its index in the module.
    module_shared: Vec<Option<u64>>,
}

impl ModuleLayout {
    pub(in super::super) fn of(module: &Module) -> Result<Self, LoadError> {
        let mut layout = Self {
            variables: Vec::new(),
            shared: Vec::new(),
        };
        let mut globals = 0;
        for variable in &module.variables {
            let refuse = |message: &str| {
                let message = format!("{}: {message}", variable.name);
                Err(LoadError {
                    line: variable.line,
                    message,
                })
            };
            let place = match variable.space {
                Space::Shared => {
                    layout.shared.push((
                        variable.size.unwrap_or(0),
                        variable.align,
                        variable.size.is_none(),
                    ));
                    Place::Shared(layout.shared.len() - 1)
                }
                Space::Global | Space::Const => {
                    if variable.is_extern || variable.size.is_none() {
                        return refuse("the variable is not defined in this module");
                    }
                    globals += 1;
                    Place::Global(globals - 1)
                }
                _ => return refuse("a variable of this space cannot be executed"),
            };
            layout.variables.push(place);
        }
        Ok(layout)
    }

    /// The variables that the driver places in device memory.
    pub(in super::super) fn globals(&self, module: &Module) -> Vec<GlobalVar> {
        let in_memory = self.variables.iter().zip(&module.variables);
        in_memory
            .filter(|(place, _)| matches!(place, Place::Global(_)))
            .map(|(_, variable)| {
                let size = variable.size.unwrap_or(0);
                let init = variable.init.as_ref();
                let relocations = init.map_or(&[][..], |init| &init.relocations);
                let relocations = relocations.iter().filter_map(|(at, symbol, addend, _)| {
                    let Symbol::Module(index) = symbol else {
                        return None;
                    };
                    Some((*at, self.global(*index)? as usize, *addend))
                });
                let mut bytes = initial_bytes(init, size);
                // Tables of functions are filled here, since functions are not placed.
                for (at, symbol, _, _) in init.map_or(&[][..], |init| &init.relocations) {
                    let end = *at as usize + 8;
                    if let (Symbol::Function(index), Some(to)) =
                        (symbol, bytes.get_mut(*at as usize..end))
                    {
                        to.copy_from_slice(&function_address(*index).to_le_bytes());
                    }
                }
                GlobalVar {
                    name: variable.name.clone(),
                    size,
                    align: variable.align,
                    bytes,
                    relocations: relocations.collect(),
                }
            })
            .collect()
    }

    /// The index in device memory of a module-scope variable.
    pub(super) fn global(&self, variable: u32) -> Option<u32> {
        match self.variables.get(variable as usize)? {
            Place::Global(index) => Some(*index),
            Place::Shared(_) => None,
        }
    }

    /// Which module-scope shared variables a body names.
    fn used_shared(&self, body: &Body) -> Vec<bool> {
        let mut used = vec![false; self.shared.len()];
        for instruction in &body.instructions {
            for operand in &instruction.operands {
                let symbol = match operand {
                    Operand::Symbol(symbol, _)
                    | Operand::Address(AddressBase::Symbol(symbol), _) => symbol,
                    _ => continue,
                };
                if let Symbol::Module(variable) = symbol
                    && let Some(Place::Shared(index)) = self.variables.get(*variable as usize)
                {
                    used[*index] = true;
                }
            }
        }
        used
    }

    /// Lays out shared and local memory for a kernel: static variables in order, and all dynamic
    /// ones together behind them.
    pub(super) fn place(&self, body: &Body) -> Result<Placed, LoadError> {
        let mut shared = 0u64;
        let mut dynamic_align = 16;
        let mut local = 0u64;
        let put = |end: &mut u64, size: u64, align: u64| {
            let offset = end.next_multiple_of(align.max(1));
            *end = offset + size;
            offset
        };
        let mut statics: Vec<Option<u64>> = Vec::new();
        let used = self.used_shared(body);
        for (&(size, align, dynamic), used) in self.shared.iter().zip(&used) {
            let is_static = *used && !dynamic;
            if *used && dynamic {
                dynamic_align = align.max(dynamic_align);
            }
            statics.push(is_static.then(|| put(&mut shared, size, align)));
        }
        let mut locals = Vec::new();
        for Variable {
            name,
            space,
            size,
            align,
            line,
            ..
        } in &body.variables
        {
            let refuse = || LoadError {
                line: *line,
                message: format!("{name}: a variable of this space cannot be executed"),
            };
            locals.push(match (space, size) {
                (Space::Shared, Some(size)) => Some(put(&mut shared, *size, *align)),
                // Arguments of calls lie in local memory; the calls are inlined.
                (Space::Local | Space::Param, Some(size)) => Some(put(&mut local, *size, *align)),
                _ => return Err(refuse()),
            });
        }
        let too_large = shared > 1 << 20 || local > 1 << 19;
        if too_large {
            let message = "shared or local variables are too large".to_owned();
            return Err(LoadError { line: 0, message });
        }
        let dynamic = shared.next_multiple_of(dynamic_align);
        let has_dynamic = self
            .shared
            .iter()
            .zip(&used)
            .any(|(shared, &used)| used && shared.2);
        let module_shared = self
            .variables
            .iter()
            .map(|place| match place {
                Place::Shared(index) => Some(statics[*index].unwrap_or(dynamic)),
                Place::Global(_) => None,
            })
            .collect();
        let static_shared = if has_dynamic { dynamic } else { shared };
        Ok(Placed {
            static_shared,
            local_bytes: local,
            locals,
            module_shared,
        })
    }
}

impl Placed {
    pub(super) fn local(&self, variable: u32) -> Result<u64, String> {
        let offset = self.locals.get(variable as usize).copied().flatten();
        offset.ok_or_else(|| "the variable has no address".to_owned())
    }

    pub(super) fn module_shared(&self, variable: u32) -> Result<u64, String> {
        let offset = self.module_shared.get(variable as usize).copied().flatten();
        offset.ok_or_else(|| "the variable has no address".to_owned())
    }
}
