//! The tile table of the prefill kernels: what a launch must know of `kernels/attention/traits.cuh`.

/// Buffers that tiles of k rotate through.
const STAGES_K: u32 = 2;

/// Buffers that tiles of v rotate through, where warps work alone and where they work in teams.
const STAGES_V: [u32; 2] = [3, 2];

/// Bytes of an element of q, k and v.
const ELEMENT_BYTES: u32 = 2;

/// The tile of one head dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tile {
    pub(crate) head_dim: u32,
    /// Query rows of a block.
    pub(crate) block_m: u32,
    /// Keys of a tile.
    pub(crate) block_n: u32,
    pub(crate) warps: u32,
    /// Leading columns of q that are kept in registers; if all are, q leaves its shared memory to k and v.
    pub(crate) held_q: u32,
    /// Warps that share their rows of o.
    pub(crate) team: u32,
}

/// The tile of the kernel for wide heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WideTile {
    pub(crate) block_m: u32,
    pub(crate) block_n: u32,
    pub(crate) warps: u32,
    pub(crate) max_head_dim: u32,
    pub(crate) max_head_dim_v: u32,
    pub(crate) shared_bytes: u32,
}

/// What a launch must know of `kernels/attention/wide.cuh`: q, slices of k and v for each warp; for two tiles, four summands
/// of the logits, probabilities and a factor for each row.
pub(crate) const WIDE: WideTile = WideTile {
    block_m: 32,
    block_n: 16,
    warps: 8,
    max_head_dim: 576,
    max_head_dim_v: 512,
    shared_bytes: 32 * 576 * 2
        + 8 * (8 * 192 + 16 * 64) * 2
        + 2 * (4 * 32 * 16 * 4 + 32 * 16 * 2 + 32 * 4),
};

/// One row for each head dimension, in the order of the macro in traits.cuh.
const TILES: [Tile; 3] = [
    Tile::new([64, 128, 64, 4, 0, 1]),
    Tile::new([128, 128, 32, 4, 0, 1]),
    Tile::new([256, 128, 32, 8, 256, 2]),
];

impl Tile {
    /// In the order of the macro.
    const fn new([head_dim, block_m, block_n, warps, held_q, team]: [u32; 6]) -> Self {
        Self {
            head_dim,
            block_m,
            block_n,
            warps,
            held_q,
            team,
        }
    }

    /// Dynamic shared memory of one block: the rotating tiles of k and of v, what a team shares (the weights of two
    /// tiles and a factor for each row), q, and a reference for each row of each of the 4 threads that share it.
    pub(crate) const fn shared_bytes(&self) -> u32 {
        let row_bytes = self.head_dim * ELEMENT_BYTES;
        let (stages_v, shared_by_teams) = match self.team {
            1 => (STAGES_V[0], 0),
            _ => {
                let weights = self.block_m * self.block_n * ELEMENT_BYTES;
                (STAGES_V[1], 2 * weights + self.block_m * 4)
            }
        };
        let tiles = (STAGES_K + stages_v) * self.block_n * row_bytes + shared_by_teams;
        let q = self.block_m * row_bytes;
        let references = self.block_m * 4 * 4;
        if self.held_q < self.head_dim {
            tiles + q + references
        } else if q > tiles {
            q + references
        } else {
            tiles + references
        }
    }

    /// The same of the kernel with every option (`kernels/attention/general.cuh`): beside all this, what options need to
    /// know of each row and of the block, and what each warp knows of its keys in the next tiles.
    pub(crate) const fn general_shared_bytes(&self) -> u32 {
        let steps = if self.team > 1 { 16 } else { 8 };
        let rows = self.block_m * 16 + 32;
        let places = steps * (self.block_n + 4) * 16;
        self.shared_bytes() + rows + places + self.warps * 76 + 64
    }
}

/// The tile for a head dimension, or `None` when no kernel exists for it.
pub(crate) fn tile(head_dim: usize) -> Option<Tile> {
    TILES
        .into_iter()
        .find(|tile| tile.head_dim as usize == head_dim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::variant::PREFILL_HEAD_DIMS;

    const TRAITS: &str = include_str!("../../kernels/attention/traits.cuh");

    /// A row of the table in traits.cuh: `FFLASH_PREFILL_TILE(64, 128, 64, 4, 0, 1);`.
    fn row(line: &str) -> Option<Tile> {
        let fields = line
            .strip_prefix("FFLASH_PREFILL_TILE(")?
            .strip_suffix(");")?;
        let fields = fields.split(", ").map(|field| field.parse().ok());
        let fields: Option<Vec<u32>> = fields.collect();
        Some(Tile::new(fields?.try_into().ok()?))
    }

    #[test]
    fn the_table_is_the_kernels_own() {
        let kernels: Vec<Tile> = TRAITS.lines().filter_map(row).collect();
        assert_eq!(kernels, TILES);
        assert!(TRAITS.contains(&format!("kStagesK = {STAGES_K};")));
        let [alone, team] = STAGES_V;
        assert!(TRAITS.contains(&format!("kStagesV = kTeam == 1 ? {alone} : {team};")));
    }

    #[test]
    fn the_wide_tile_is_the_kernels_own() {
        let wide = include_str!("../../kernels/attention/wide.cuh");
        for (name, value) in [
            ("kBlockM", WIDE.block_m),
            ("kBlockN", WIDE.block_n),
            ("kWarps", WIDE.warps),
            ("kMaxHeadDim", WIDE.max_head_dim),
            ("kMaxHeadDimV", WIDE.max_head_dim_v),
        ] {
            let line = format!("    static constexpr int {name} = {value};");
            assert!(wide.contains(&line), "{line}");
        }
        assert!(wide.contains(&format!("of rows 256 (two tiles); {}.", WIDE.shared_bytes)));
    }

    #[test]
    fn the_general_kernels_shared_memory_is_what_they_lay_out() {
        let general = include_str!("../../kernels/attention/general.cuh");
        for tile in TILES {
            let total = format!(", {}\n", tile.general_shared_bytes());
            assert!(general.contains(&total), "{total}");
            assert!(tile.general_shared_bytes() <= 99 * 1024);
        }
    }

    #[test]
    fn every_supported_head_dim_has_a_tile() {
        for &head_dim in PREFILL_HEAD_DIMS {
            assert_eq!(
                tile(head_dim).map(|tile| tile.head_dim as usize),
                Some(head_dim)
            );
        }
        assert_eq!(tile(96), None);
    }

    #[test]
    fn shared_memory_is_what_the_kernels_lay_out() {
        let bytes = TILES.map(|tile| tile.shared_bytes());
        assert_eq!(bytes, [59392, 75776, 84480]);
        // The least that any architecture from sm_80 on lets a block have.
        assert!(bytes.iter().all(|&bytes| bytes <= 99 * 1024));
    }
}
