//! What warps know of each other: clocks, and how barriers, fences and atomic operations hand them on.

use super::Shadow;

impl Shadow {
    /// The last stamp given.
    pub(in super::super) fn now(&self) -> u32 {
        self.now
    }

    /// What a warp that arrives somewhere hands over: what it knows, and all it has done itself.
    pub(in super::super) fn clocks_of(&mut self, warp: usize) -> Vec<u32> {
        self.handed[warp] = self.now;
        let mut clocks = self.known[warp * self.warps..(warp + 1) * self.warps].to_vec();
        clocks[warp] = self.now;
        clocks
    }

    /// `warp` takes over what others handed over.
    pub(in super::super) fn acquire(&mut self, warp: usize, clocks: &[u32]) {
        let own = &mut self.known[warp * self.warps..(warp + 1) * self.warps];
        join(own, clocks);
        let others = own.iter().enumerate().filter(|(other, _)| *other != warp);
        let floor = others.map(|(_, &known)| known).min();
        self.floors[warp] = floor.unwrap_or(u32::MAX >> 4);
    }

    /// A fence: what was done before it goes with later atomic operations, and what earlier ones
    /// found is ordered from now on.
    pub(in super::super) fn fence(&mut self, warp: usize) {
        self.fenced[warp] = Some(self.clocks_of(warp));
        let offered = std::mem::take(&mut self.offered[warp]);
        self.acquire(warp, &offered);
        self.offered[warp] = offered;
    }

    /// An atomic operation, or a load or store that is ordered like one, at an address of any memory.
    pub(in super::super) fn synchronize(
        &mut self,
        warp: usize,
        address: u64,
        acquires: bool,
        releases: bool,
    ) {
        if let Some(clocks) = self.released.get(&address) {
            join(&mut self.offered[warp], clocks);
            if acquires {
                let clocks = clocks.clone();
                self.acquire(warp, &clocks);
            }
        }
        let handed = if releases {
            Some(self.clocks_of(warp))
        } else {
            self.fenced[warp].clone()
        };
        if let Some(handed) = handed {
            let clocks = self.released.entry(address).or_default();
            clocks.resize(self.warps, 0);
            join(clocks, &handed);
        }
    }
}

pub(super) fn join(own: &mut [u32], other: &[u32]) {
    for (own, &other) in own.iter_mut().zip(other) {
        *own = (*own).max(other);
    }
}
