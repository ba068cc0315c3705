//! Launch geometry of the RoPE kernels: a pure function of the parameter block. It mirrors
//! kernels/rope/rope.cuh, which says what the numbers mean.

use crate::launch::Geometry;
use crate::launch::params::{fflash_rope_params, fflash_strides3};
use crate::variant::RopeKind;

/// The largest block.
const MAX_THREADS: u64 = 256;
/// The largest block in z (CUDA C++ Programming Guide, "Compute Capabilities").
const MAX_BLOCK_Z: u64 = 64;
/// Heads that a thread holds at once.
const HEADS: u64 = 4;
/// Tokens from twice which on blocks get more than one: below, more blocks are worth more.
const MANY_TOKENS: u64 = 512;

/// The most dynamic shared memory that [`geometry`] asks for: cos and sin for every pair of as many
/// tokens as a block has room for, with up to 8 pairs a thread.
pub(crate) const MAX_SHARED_BYTES: u32 = MAX_THREADS as u32 * 8 * 2 * size_of::<f32>() as u32;

/// Which kernel, and with what grid, block and shared memory, for this block of parameters and
/// `element_bytes`.
pub(crate) fn geometry(block: &fflash_rope_params, element_bytes: usize) -> (RopeKind, Geometry) {
    let pairs = block.rotary_pairs as u64;
    let (kind, chunk) = if misaligned(block, element_bytes as u64) {
        (RopeKind::Narrow, 1)
    } else {
        (RopeKind::Wide, 16 / element_bytes as u64)
    };
    let chunks = pairs / chunk;
    let (q_heads, k_heads) = (block.q_heads as u64, block.k_heads as u64);
    let wanted = q_heads.div_ceil(HEADS) + k_heads.div_ceil(HEADS);
    let heads = wanted.clamp(1, MAX_THREADS / chunks);
    // Threads serve heads of q or of k, so there must be two where there are both.
    let grid_y = if heads == 1 { wanted.clamp(1, 2) } else { 1 };
    let room = (MAX_THREADS / (chunks * heads)).min(MAX_BLOCK_Z);
    let tokens = (block.tokens as u64 / MANY_TOKENS).clamp(1, room);
    let geometry = Geometry {
        grid: [
            (block.tokens as u64).div_ceil(tokens) as u32,
            grid_y as u32,
            1,
        ],
        block: [chunks as u32, heads as u32, tokens as u32],
        shared_bytes: (tokens * 2 * pairs * size_of::<f32>() as u64) as u32,
    };
    (kind, geometry)
}

/// True when the halves of the rotated part cannot be moved in whole, aligned 16-byte accesses.
fn misaligned(block: &fflash_rope_params, element_bytes: u64) -> bool {
    let bytes = |elements: u64| elements.wrapping_mul(element_bytes);
    let of = |strides: &fflash_strides3| bytes(strides.tokens as u64) | bytes(strides.heads as u64);
    let all = block.q as u64
        | block.k as u64
        | of(&block.q_strides)
        | of(&block.k_strides)
        | bytes(block.rotary_pairs as u64);
    !all.is_multiple_of(16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rope::MAX_PAIRS;

    fn block(tokens: i64, heads: [i32; 2], rotary_pairs: i32) -> fflash_rope_params {
        let strides = |heads: i32| fflash_strides3 {
            tokens: i64::from(heads) * 512,
            heads: 512,
        };
        let address = std::ptr::without_provenance_mut(256);
        fflash_rope_params {
            q: address,
            k: address,
            positions: std::ptr::null(),
            table: std::ptr::null(),
            q_strides: strides(heads[0]),
            k_strides: strides(heads[1]),
            table_position_stride: 0,
            table_part_stride: 0,
            tokens,
            q_heads: heads[0],
            k_heads: heads[1],
            rotary_pairs,
            interleaved: 0,
            turns: [0; MAX_PAIRS],
        }
    }

    #[test]
    fn usual_sizes() {
        let of = |tokens, heads, pairs, bytes| geometry(&block(tokens, heads, pairs), bytes);
        let launch = |kind, grid: [u32; 2], block, shared_bytes| {
            let geometry = Geometry {
                grid: [grid[0], grid[1], 1],
                block,
                shared_bytes,
            };
            (kind, geometry)
        };
        use RopeKind::{Narrow, Wide};
        // 32 + 8 heads of 128: 10 threads for each of 8 chunks, up to 3 tokens.
        let one = |grid| launch(Wide, [grid, 1], [8, 10, 1], 512);
        assert_eq!(of(1, [32, 8], 64, 2), one(1));
        assert_eq!(of(1000, [32, 8], 64, 2), one(1000));
        let three = launch(Wide, [1366, 1], [8, 10, 3], 3 * 512);
        assert_eq!(of(4096, [32, 8], 64, 2), three);
        // 4 + 1 heads of 256 in f32.
        let two = launch(Wide, [2048, 1], [32, 2, 4], 4 * 1024);
        assert_eq!(of(8192, [4, 1], 128, 4), two);
        // More heads than a block has room for are visited in turn.
        assert_eq!(
            of(1, [128, 128], 64, 2),
            launch(Wide, [1, 1], [8, 32, 1], 512)
        );
        // No room for threads of both tensors.
        let odd = launch(Narrow, [7, 2], [255, 1, 1], 255 * 8);
        assert_eq!(of(7, [4, 1], 255, 2), odd);
        let alone = launch(Narrow, [7, 1], [255, 1, 1], 255 * 8);
        assert_eq!(of(7, [4, 0], 255, 2), alone);
    }

    #[test]
    fn everything_must_be_aligned_for_wide_accesses() {
        let kind = |change: &dyn Fn(&mut fflash_rope_params)| {
            let mut block = block(3, [2, 1], 32);
            change(&mut block);
            geometry(&block, 2).0
        };
        assert_eq!(kind(&|_| ()), RopeKind::Wide);
        assert_eq!(kind(&|block| block.rotary_pairs = 12), RopeKind::Narrow);
        assert_eq!(kind(&|block| block.q_strides.heads += 4), RopeKind::Narrow);
        assert_eq!(kind(&|block| block.k_strides.tokens += 1), RopeKind::Narrow);
        assert_eq!(
            kind(&|block| block.k = std::ptr::without_provenance_mut(264)),
            RopeKind::Narrow
        );
        // An absent k has a null address and no strides.
        let absent = |block: &mut fflash_rope_params| {
            block.k = std::ptr::null_mut();
            block.k_heads = 0;
            block.k_strides = fflash_strides3 {
                tokens: 0,
                heads: 0,
            };
        };
        assert_eq!(kind(&absent), RopeKind::Wide);
    }

    /// What the kernel relies on.
    #[test]
    fn the_preconditions_of_the_kernel_hold() {
        for pairs in 1..=MAX_PAIRS as i32 {
            for heads in [
                [1, 0],
                [1, 1],
                [4, 1],
                [28, 4],
                [32, 8],
                [0, 3],
                [1000, 1000],
            ] {
                for (tokens, bytes) in [(1, 2), (100_000, 2), (513, 4), (i32::MAX.into(), 4)] {
                    let (kind, geometry) = geometry(&block(tokens, heads, pairs), bytes);
                    let case =
                        format!("{tokens} tokens, {heads:?} heads, {pairs} pairs: {geometry:?}");
                    let [x, y, z] = geometry.block.map(u64::from);
                    let chunk = match kind {
                        RopeKind::Wide => 16 / bytes as u64,
                        RopeKind::Narrow => 1,
                    };
                    assert_eq!(x * chunk, pairs as u64, "{case}");
                    assert!(x * y * z <= MAX_THREADS && z <= MAX_BLOCK_Z, "{case}");
                    assert!(u64::from(geometry.grid[0]) * z >= tokens as u64, "{case}");
                    assert_eq!(
                        u64::from(geometry.shared_bytes),
                        z * pairs as u64 * 8,
                        "{case}"
                    );
                    assert!(geometry.shared_bytes <= MAX_SHARED_BYTES, "{case}");
                    let both = heads.iter().all(|&heads| heads > 0);
                    assert!(!both || y * u64::from(geometry.grid[1]) >= 2, "{case}");
                }
            }
        }
    }
}
