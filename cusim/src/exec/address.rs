//! Where the lanes of a memory instruction point.

use super::warp::{Warp, lanes_of};
use crate::memory::GLOBAL_BASE;
use crate::program::op::{Address, Reg, Space};
use crate::program::simd::vectorized;
use crate::program::window;

/// What an address is in, once its space is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Global,
    Shared,
    Local,
    Param,
    /// No window holds it.
    Nowhere,
}

impl Place {
    /// In words, for reports.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Shared => "shared",
            Self::Local => "local",
            Self::Param => "parameter",
            Self::Nowhere => "no",
        }
    }
}

/// Lanes that access one place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Targets {
    pub(super) place: Place,
    pub(super) lanes: u32,
    /// Addresses within the place; lanes that do not take part repeat another's.
    pub(super) at: [u64; 32],
}

impl Targets {
    /// The lowest and the highest address.
    #[inline(always)]
    pub(super) fn bounds(&self) -> (u64, u64) {
        vectorized(|| {
            let mut bounds = (u64::MAX, 0);
            for &at in &self.at {
                bounds = (bounds.0.min(at), bounds.1.max(at));
            }
            bounds
        })
    }

    /// One of the lanes alone.
    pub(super) fn only(&self, lane: usize) -> Self {
        Self {
            lanes: 1 << lane,
            at: [self.at[lane]; 32],
            ..*self
        }
    }

    /// Lanes for which something holds of their address.
    pub(super) fn lanes_where(&self, mut holds: impl FnMut(u64) -> bool) -> u32 {
        let lanes = lanes_of(self.lanes).filter(|&lane| holds(self.at[lane]));
        lanes.fold(0, |mask, lane| mask | 1 << lane)
    }

    /// Lanes whose address is no multiple of a power of two.
    #[inline(always)]
    pub(super) fn misaligned(&self, bytes: usize) -> u32 {
        let low = bytes as u64 - 1;
        let any = vectorized(|| self.at.iter().fold(0, |any, at| any | at));
        if any & low == 0 {
            return 0;
        }
        self.lanes_where(|at| at & low != 0)
    }
}

/// The address of every lane.
#[inline(always)]
pub(super) fn addresses(warp: &Warp, address: Address) -> [u64; 32] {
    let offset = address.offset as u64;
    match address.base {
        None => [offset; 32],
        Some(Reg::D(slot)) => {
            let base = &warp.d[slot as usize];
            vectorized(|| base.map(|base| base.wrapping_add(offset)))
        }
        Some(Reg::W(slot)) => {
            let base = &warp.w[slot as usize];
            vectorized(|| base.map(|base| u64::from(base.wrapping_add(offset as u32))))
        }
    }
}

/// Takes from `rest` the lanes that access the same place as the first of them.
#[inline(always)]
pub(super) fn next_targets(space: Space, at: &[u64; 32], rest: &mut u32) -> Targets {
    let lead = at[rest.trailing_zeros() as usize & 31];
    let (place, base) = place_of(space, lead);
    let together = match space {
        Space::Global | Space::Const | Space::Shared | Space::Local => *rest,
        Space::Param | Space::Generic => {
            let same = vectorized(|| at.map(|at| place_of(space, at).0 == place));
            *rest & crate::program::simd::mask_of(&same)
        }
    };
    *rest &= !together;
    let at = vectorized(|| {
        let mut own = [0; 32];
        for (lane, own) in own.iter_mut().enumerate() {
            let takes_part = together >> lane & 1 == 1;
            *own = if takes_part { at[lane] } else { lead }.wrapping_sub(base);
        }
        own
    });
    Targets {
        place,
        lanes: together,
        at,
    }
}

/// The place that an address of a space is in, and what to take off to get the address there.
#[inline(always)]
fn place_of(space: Space, address: u64) -> (Place, u64) {
    let inside = |base: u64| address.wrapping_sub(base) < window::SIZE;
    match space {
        Space::Global | Space::Const => (Place::Global, 0),
        Space::Shared => (Place::Shared, 0),
        Space::Local => (Place::Local, 0),
        Space::Param if address >= window::ARGUMENTS => (Place::Local, window::ARGUMENTS),
        Space::Param => (Place::Param, 0),
        Space::Generic if address >= GLOBAL_BASE => (Place::Global, 0),
        Space::Generic if inside(window::SHARED) => (Place::Shared, window::SHARED),
        Space::Generic if inside(window::LOCAL) => (Place::Local, window::LOCAL),
        Space::Generic if inside(window::PARAM) => {
            let (place, base) = place_of(Space::Param, address - window::PARAM);
            (place, window::PARAM + base)
        }
        Space::Generic => (Place::Nowhere, 0),
    }
}
