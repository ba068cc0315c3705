//! Operands: registers, constants, symbols and addresses.

use super::super::inline::function_address;
use super::super::op::{Address, Initial, Reg, Slot, Special};
use super::super::slots::{File, file_of};
use super::super::window;
use super::{Context, Result};
use crate::ptx::ast::{AddressBase, Operand, RegId, Space, Symbol};

impl Context<'_> {
    pub(super) fn pred_slot(&self, reg: RegId) -> Result<Slot> {
        match self.reg(reg)? {
            (File::P, slot) => Ok(slot),
            _ => Err("the operand must be a predicate".to_owned()),
        }
    }

    pub(super) fn reg(&self, reg: RegId) -> Result<(File, Slot)> {
        let ty = self.body.registers[reg.0 as usize].ty;
        let file = file_of(ty).ok_or("a register of this type cannot be executed")?;
        Ok((file, self.slots.slot[reg.0 as usize]))
    }

    /// A predicate read, and whether negated.
    pub(super) fn pred(&self, operand: &Operand) -> Result<(Slot, bool)> {
        match operand {
            Operand::Register(reg) => Ok((self.pred_slot(*reg)?, false)),
            Operand::NotRegister(reg) => Ok((self.pred_slot(*reg)?, true)),
            _ => Err("the operand must be a predicate".to_owned()),
        }
    }

    pub(super) fn dest_p(&self, operand: &Operand) -> Result<Option<Slot>> {
        match operand {
            Operand::Sink => Ok(None),
            Operand::Register(reg) => self.pred_slot(*reg).map(Some),
            _ => Err("the destination must be a predicate".to_owned()),
        }
    }

    pub(super) fn dest_w(&self, operand: &Operand) -> Result<Slot> {
        match self.dest(operand)? {
            Reg::W(slot) => Ok(slot),
            Reg::D(_) => Err("the destination must have at most 32 bits".to_owned()),
        }
    }

    pub(super) fn dest_d(&self, operand: &Operand) -> Result<Slot> {
        match self.dest(operand)? {
            Reg::D(slot) => Ok(slot),
            Reg::W(_) => Err("the destination must have 64 bits".to_owned()),
        }
    }

    pub(super) fn dest(&self, operand: &Operand) -> Result<Reg> {
        let Operand::Register(reg) = operand else {
            return Err("the destination must be a register".to_owned());
        };
        match self.reg(*reg)? {
            (File::W, slot) => Ok(Reg::W(slot)),
            (File::D, slot) => Ok(Reg::D(slot)),
            (File::P, _) => Err("the destination must not be a predicate".to_owned()),
        }
    }

    pub(super) fn dest_or_sink(&self, operand: &Operand) -> Result<Option<Reg>> {
        if *operand == Operand::Sink {
            Ok(None)
        } else {
            self.dest(operand).map(Some)
        }
    }

    pub(super) fn dest_w_or_sink(&self, operand: &Operand) -> Result<Option<Slot>> {
        if *operand == Operand::Sink {
            Ok(None)
        } else {
            self.dest_w(operand).map(Some)
        }
    }

    /// A source of at most 32 bits.
    pub(super) fn w(&mut self, operand: &Operand) -> Result<Slot> {
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
    pub(super) fn d(&mut self, operand: &Operand) -> Result<Slot> {
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
    pub(super) fn any(&mut self, operand: &Operand, wide: bool) -> Result<Reg> {
        match operand {
            Operand::Register(_) => self.dest(operand),
            _ if wide => self.d(operand).map(Reg::D),
            _ => self.w(operand).map(Reg::W),
        }
    }

    pub(super) fn constant_w(&mut self, initial: Initial) -> Slot {
        let next = self.slots.count[1] + self.initial_w.len() as u32;
        let slot = *self.initial.entry((false, initial)).or_insert(next);
        if slot == next {
            self.initial_w.push((slot, initial));
        }
        slot
    }

    pub(super) fn constant_d(&mut self, initial: Initial) -> Slot {
        let next = self.slots.count[2] + self.initial_d.len() as u32;
        let slot = *self.initial.entry((true, initial)).or_insert(next);
        if slot == next {
            self.initial_d.push((slot, initial));
        }
        slot
    }

    /// The value of a symbol: an address in its own space.
    pub(super) fn symbol(&self, symbol: &Symbol, offset: i64) -> Result<Initial> {
        let at = |address: u64| Initial::Value(address.wrapping_add_signed(offset));
        Ok(match symbol {
            Symbol::Param(index) => at(self.param_offsets[*index as usize]),
            Symbol::Local(index) => at(self.local_address(*index)?),
            Symbol::Module(index) => match self.layout.global(*index) {
                Some(global) => Initial::GlobalAddress(global, offset),
                None => at(self.placed.module_shared(*index)?),
            },
            Symbol::Function(index) => at(function_address(*index)),
            _ => return Err("a label cannot be an operand here".to_owned()),
        })
    }

    /// The address of a variable of the body. Arguments of calls are in local memory, but addressed as
    /// parameters.
    pub(super) fn local_address(&self, index: u32) -> Result<u64> {
        let address = self.placed.local(index)?;
        match self.body.variables.get(index as usize).map(|v| v.space) {
            Some(Space::Param) => Ok(address + window::ARGUMENTS),
            _ => Ok(address),
        }
    }

    /// The address of a memory operand.
    pub(super) fn address(&mut self, operand: &Operand) -> Result<Address> {
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
        // How cooperative groups find the barrier of the grid; the PTX ISA leaves these to the driver.
        "%envreg1" => Special::Workspace(1),
        "%envreg2" => Special::Workspace(0),
        "%total_smem_size" => Special::TotalSharedSize,
        _ => {
            return Err(format!(
                "the special register {name} cannot be executed here"
            ));
        }
    })
}

/// The window of a space in generic addressing.
pub(super) fn window_of(space: &str) -> Option<u64> {
    Some(match space {
        "shared" | "shared::cta" | "shared::cluster" => window::SHARED,
        "local" => window::LOCAL,
        "param" | "param::entry" => window::PARAM,
        "global" | "const" => 0,
        _ => return None,
    })
}
