//! The barriers of a block (PTX ISA, "bar").

/// Barriers of a block that PTX can name.
pub(super) const COUNT: usize = 16;

/// One barrier.
#[derive(Debug, Clone, Default)]
pub(super) struct Barrier {
    /// Warps that arrived, and of them those that wait.
    pub(super) arrived: u32,
    pub(super) waiting: Vec<usize>,
    /// Warps that must arrive, where the instruction says.
    pub(super) expected: Option<u32>,
    /// The clocks of all that arrived.
    pub(super) clocks: Vec<u32>,
}

impl Barrier {
    /// A warp arrives with its clocks; `waits` tells `bar.sync` from `bar.arrive`.
    pub(super) fn arrive(
        &mut self,
        warp: usize,
        waits: bool,
        expected: Option<u32>,
        clocks: &[u32],
    ) {
        self.arrived += 1;
        self.expected = self.expected.or(expected);
        if waits {
            self.waiting.push(warp);
        }
        self.clocks.resize(clocks.len(), 0);
        self.clocks
            .iter_mut()
            .zip(clocks)
            .for_each(|(all, &one)| *all = (*all).max(one));
    }

    /// True when all have arrived; `unfinished` warps are those that have not exited.
    pub(super) fn is_complete(&self, unfinished: u32) -> bool {
        self.arrived > 0 && self.arrived >= self.expected.unwrap_or(unfinished)
    }
}
