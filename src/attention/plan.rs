//! Which kernel runs a call, and with which grid: pure functions.

use super::call::Problem;
use super::mask::Mask;
use super::support::{KvStorage, OptionSet, PrefillDesc};
use super::tiles::{self, Tile, WIDE};
use crate::dtype::DType;
use crate::error::Error;
use crate::launch::Geometry;
use crate::launch::params::fflash_divisor;
use crate::variant::{PREFILL_HEAD_DIMS, PrefillKind};

/// Rows of a head group stay at or below this, so that `fflash_divisor` divides them.
const MAX_ROWS: u64 = 1 << 29;

/// The kernel that serves `desc`, which is supported.
pub(super) fn kind(desc: &PrefillDesc) -> PrefillKind {
    let largest = desc.head_dim.max(desc.head_dim_v);
    let compiled = PREFILL_HEAD_DIMS.iter().find(|&&dim| largest <= dim);
    let Some(&head_dim) = compiled else {
        return PrefillKind::Wide;
    };
    let sinks_alone = OptionSet {
        sinks: desc.options.sinks,
        ..OptionSet::default()
    };
    let costs_nothing = desc.options == sinks_alone && desc.op.sink_tokens == 0;
    let in_rows = desc.storage != KvStorage::Paged && desc.dtype != DType::F32;
    if costs_nothing && in_rows && desc.head_dim == desc.head_dim_v {
        PrefillKind::Narrow { head_dim }
    } else {
        PrefillKind::General { head_dim }
    }
}

/// What f32 is computed in: see [`Kernels::prefill`](crate::Kernels::prefill).
pub(super) fn compute_dtype(dtype: DType) -> DType {
    match dtype {
        DType::F32 => DType::BF16,
        other => other,
    }
}

/// Heads of a group that share the rows of a block: `group_size` where that reads fewer tiles of keys and values than a
/// block for each head, else 1.
///
/// A mask that moves with the queries lets a block see the fewer keys the fewer queries it spans, so that packing never
/// reads more and at most lengths less. Where every query sees every key it reads less when the last blocks of the heads
/// are not full, and the same otherwise.
pub(super) fn pack(
    mask: Mask,
    group_size: u64,
    block_m: u64,
    seqlens_q: impl Iterator<Item = u64>,
) -> u64 {
    let (mut apart, mut packed, mut longest) = (0u64, 0u64, 0u64);
    for seqlen in seqlens_q {
        apart += group_size * seqlen.div_ceil(block_m);
        packed += (group_size * seqlen).div_ceil(block_m);
        longest = longest.max(seqlen);
    }
    let is_cheaper = !mask.is_full() || packed < apart;
    if is_cheaper && longest.saturating_mul(group_size) <= MAX_ROWS {
        group_size
    } else {
        1
    }
}

/// One block for each tile of rows of each head group; `None` when there is nothing to compute.
pub(super) fn geometry(
    kind: PrefillKind,
    problem: &Problem,
    pack: u64,
) -> Result<Option<Geometry>, Error> {
    let (block_m, warps, shared_bytes) = tile_of(kind);
    let tiles = (problem.seqlen_q as u64 * pack).div_ceil(block_m);
    let groups = problem.num_qo_heads as u64 / pack * problem.batch as u64;
    let blocks = tiles.saturating_mul(groups);
    // CUDA C++ Programming Guide, "Compute Capabilities": grid.x is below 2^31.
    let limit = i32::MAX as usize;
    if blocks > limit as u64 {
        let found = usize::try_from(blocks).unwrap_or(usize::MAX);
        return Err(Error::TooLarge {
            operand: "q",
            axis: "tiles",
            found,
            limit,
        });
    }
    Ok((blocks > 0).then(|| Geometry {
        grid: [blocks as u32, 1, 1],
        block: [warps * 32, 1, 1],
        shared_bytes,
    }))
}

/// Dynamic shared memory of a block.
pub(crate) fn shared_bytes(kind: PrefillKind) -> u32 {
    tile_of(kind).2
}

/// Rows, warps and shared memory of a block.
pub(super) fn tile_of(kind: PrefillKind) -> (u64, u32, u32) {
    let (tile, shared_bytes): (_, fn(&Tile) -> u32) = match kind {
        PrefillKind::Narrow { head_dim } => (tiles::tile(head_dim), Tile::shared_bytes),
        PrefillKind::General { head_dim } => (tiles::tile(head_dim), Tile::general_shared_bytes),
        PrefillKind::Wide => (None, Tile::shared_bytes),
    };
    match tile {
        Some(tile) => (tile.block_m.into(), tile.warps, shared_bytes(&tile)),
        None => (WIDE.block_m.into(), WIDE.warps, WIDE.shared_bytes),
    }
}

/// `n / divisor` for `n` below 2^30 as a product: with `shift = 30 + ceil(log2(divisor))` and the multiplier rounded up, the
/// quotient is off by less than `n / 2^shift`, which is less than `1 / divisor` (Granlund and Montgomery, PLDI 1994).
pub(super) fn divisor(divisor: u32) -> fflash_divisor {
    // A larger one gives 0 too.
    let divisor = divisor.clamp(1, 1 << 30);
    let shift = 30 + divisor.next_power_of_two().trailing_zeros();
    fflash_divisor {
        divisor: divisor as i32,
        multiplier: (1u64 << shift).div_ceil(divisor.into()) as u32,
        shift,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_packed_where_that_reads_fewer_tiles() {
        let one = |mask, group, seqlen| pack(mask, group, 128, [seqlen].into_iter());
        // One query each: eight blocks of one row, or one of eight.
        assert_eq!(one(Mask::Full, 8, 1), 8);
        // Full blocks either way.
        assert_eq!(one(Mask::Full, 8, 256), 1);
        assert_eq!(one(Mask::Full, 8, 257), 8);
        assert_eq!(one(Mask::Causal, 8, 256), 8);
        assert_eq!(one(Mask::Causal, 1, 256), 1);
        // The blocks of all requests count.
        assert_eq!(pack(Mask::Full, 2, 128, [128, 1].into_iter()), 2);
        assert_eq!(pack(Mask::Full, 2, 128, [128, 128].into_iter()), 1);
        assert_eq!(pack(Mask::Full, 2, 128, [].into_iter()), 1);
        // Row numbers would not fit.
        assert_eq!(one(Mask::Causal, 8, 1 << 28), 1);
    }

    #[test]
    fn division_by_multiplication_is_exact() {
        let divisors =
            (1..=130).chain([255, 256, 257, 4095, 65_537, (1 << 29) - 1, 1 << 29, 1 << 30]);
        for d in divisors {
            let magic = divisor(d);
            let near = |q: u64| [q.saturating_sub(1), q, q + 1];
            let ends = [0, 1, 2, (1 << 29) - 1, (1 << 30) - 1];
            let multiples = [1u64, 2, 3, 1000, (1 << 30) / u64::from(d)];
            let edges = multiples.into_iter().flat_map(|m| near(m * u64::from(d)));
            for n in ends.into_iter().chain(edges).filter(|&n| n < 1 << 30) {
                let quotient = (n * u64::from(magic.multiplier)) >> magic.shift;
                assert_eq!(quotient, n / u64::from(d), "{n} / {d}");
            }
        }
    }
}
