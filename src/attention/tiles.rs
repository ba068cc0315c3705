//! Tile table of the prefill kernels.

/// The tile of one head dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tile {
    pub(crate) block_m: u32,
    pub(crate) warps: u32,
}

impl Tile {
    /// Dynamic shared memory of one block.
    pub(crate) fn shared_bytes(&self) -> u32 {
        0
    }
}

/// The tile for a head dimension, or `None` when no kernel exists for it.
pub(crate) fn tile(_head_dim: usize) -> Option<Tile> {
    None
}
