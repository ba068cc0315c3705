//! Launch geometry of the RMSNorm kernels: a pure function of the parameter block. It mirrors
//! kernels/norm/rms_norm.cuh, which says what the numbers mean.

use crate::launch::Geometry;
use crate::launch::params::fflash_rms_norm_params;
use crate::variant::RmsNormKind;

const WARP: u64 = 32;
/// The largest block.
const MAX_THREADS: u64 = 512;
/// Chunks of 16 bytes that a thread keeps in registers.
const SLOTS: u64 = 8;
/// The same for chunks of one element.
const NARROW_SLOTS: u64 = 16;
/// Rows of up to this many threads are short: they lie inside a warp.
const SHORT_LANES: u64 = 16;
/// Warps in a block of several rows, when there are enough rows.
const WARPS_OF_ROWS: u64 = 4;
/// Warps of rows from which on blocks get more than one: below, more blocks are worth more.
const MANY_WARPS: u64 = 1024;

/// The most dynamic shared memory that [`geometry`] asks for.
pub(crate) const MAX_SHARED_BYTES: u32 = 96 * 1024;

/// Which kernel, and with what grid, block and shared memory, for this block of parameters and
/// `element_bytes`.
pub(crate) fn geometry(
    block: &fflash_rms_norm_params,
    element_bytes: usize,
) -> (RmsNormKind, Geometry) {
    let (width, element_bytes) = (block.width as u64, element_bytes as u64);
    let narrow = misaligned(block, element_bytes);
    let (chunk, slots) = if narrow {
        (1, NARROW_SLOTS)
    } else {
        (16 / element_bytes, SLOTS)
    };
    let chunks = width / chunk;
    let short = !narrow && chunks <= SHORT_LANES * slots;
    let lanes = if short {
        // Two threads make a sector of 32 bytes.
        chunks
            .div_ceil(slots)
            .next_power_of_two()
            .max(chunks.min(2))
    } else {
        (chunks.div_ceil(slots).next_multiple_of(WARP)).min(MAX_THREADS)
    };
    let rows = rows_of_block(block.rows as u64, lanes);
    let shared =
        (chunks.saturating_sub(lanes * slots) * chunk * element_bytes).min(MAX_SHARED_BYTES.into());
    let kind = match (narrow, short) {
        (true, _) => RmsNormKind::Narrow,
        (false, true) => RmsNormKind::Short,
        (false, false) => RmsNormKind::Long,
    };
    let geometry = Geometry {
        grid: [(block.rows as u64).div_ceil(rows) as u32, 1, 1],
        block: [lanes as u32, rows as u32, 1],
        shared_bytes: shared as u32,
    };
    (kind, geometry)
}

/// True when a row cannot be read and written in whole, aligned 16-byte accesses.
fn misaligned(block: &fflash_rms_norm_params, element_bytes: u64) -> bool {
    let bytes = |elements: u64| elements.wrapping_mul(element_bytes);
    let all = block.x as u64
        | block.weight as u64
        | block.out as u64
        | bytes(block.width as u64)
        | bytes(block.x_row_stride as u64)
        | bytes(block.out_row_stride as u64);
    !all.is_multiple_of(16)
}

/// Rows of a block: whole warps of them where a row does not span warps.
fn rows_of_block(rows: u64, lanes: u64) -> u64 {
    if lanes > WARP {
        return 1;
    }
    let in_warp = WARP / lanes;
    let warps = rows.div_ceil(in_warp) / MANY_WARPS;
    in_warp * warps.clamp(1, WARPS_OF_ROWS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(rows: i64, width: i32, stride: i64, address: usize) -> fflash_rms_norm_params {
        let address = std::ptr::without_provenance_mut(address);
        fflash_rms_norm_params {
            x: address,
            weight: address,
            out: address,
            x_row_stride: stride,
            out_row_stride: stride,
            rows,
            width,
            eps: 0.0,
            weight_offset: 0.0,
        }
    }

    fn of(rows: i64, width: i32, element_bytes: usize) -> (RmsNormKind, Geometry) {
        geometry(&block(rows, width, width.into(), 256), element_bytes)
    }

    fn launch(grid: u32, block: [u32; 2], shared_bytes: u32) -> Geometry {
        Geometry {
            grid: [grid, 1, 1],
            block: [block[0], block[1], 1],
            shared_bytes,
        }
    }

    #[test]
    fn usual_sizes() {
        use RmsNormKind::{Long, Short};
        assert_eq!(of(4096, 4096, 2), (Long, launch(4096, [64, 1], 0)));
        assert_eq!(of(4096, 8192, 4), (Long, launch(4096, [256, 1], 0)));
        assert_eq!(of(1, 5120, 2), (Long, launch(1, [96, 1], 0)));
        // Heads of 128 and 256.
        assert_eq!(of(1 << 20, 128, 2), (Short, launch(1 << 14, [2, 64], 0)));
        assert_eq!(of(1 << 20, 256, 2), (Short, launch(1 << 15, [4, 32], 0)));
        assert_eq!(of(5, 256, 2), (Short, launch(1, [4, 8], 0)));
        assert_eq!(of(1, 8, 2), (Short, launch(1, [1, 32], 0)));
        assert_eq!(of(1, 1024, 2), (Short, launch(1, [16, 2], 0)));
        assert_eq!(of(1, 1032, 2), (Long, launch(1, [32, 1], 0)));
    }

    #[test]
    fn long_rows_continue_in_shared_memory() {
        use RmsNormKind::{Long, Narrow};
        assert_eq!(of(1, 32768, 2), (Long, launch(1, [512, 1], 0)));
        assert_eq!(of(1, 32776, 2), (Long, launch(1, [512, 1], 16)));
        assert_eq!(of(1, 40960, 4), (Long, launch(1, [512, 1], 96 * 1024)));
        assert_eq!(of(1, 1 << 20, 4), (Long, launch(1, [512, 1], 96 * 1024)));
        assert_eq!(of(1, 8193, 2), (Narrow, launch(1, [512, 1], 2)));
    }

    #[test]
    fn everything_must_be_aligned_for_wide_accesses() {
        let kind = |block| geometry(&block, 2).0;
        assert_eq!(kind(block(9, 64, 64, 16)), RmsNormKind::Short);
        assert_eq!(
            kind(block(9, 60, 64, 16)),
            RmsNormKind::Narrow,
            "the width is not a number of chunks"
        );
        assert_eq!(
            kind(block(9, 64, 68, 16)),
            RmsNormKind::Narrow,
            "later rows are misaligned"
        );
        assert_eq!(
            kind(block(9, 64, 64, 8)),
            RmsNormKind::Narrow,
            "the first row is misaligned"
        );
        // A single row has stride 0.
        assert_eq!(kind(block(1, 64, 0, 16)), RmsNormKind::Short);
    }

    /// What the kernel relies on, for every width up to 20,000 and some beyond.
    #[test]
    fn the_preconditions_of_the_kernel_hold() {
        let widths = (1..20_000).chain([32_768, 40_961, 81_920, 1 << 24, i32::MAX]);
        for width in widths {
            for (element_bytes, rows) in [(2, 1), (2, 100_003), (4, 1), (4, i64::from(i32::MAX))] {
                let (kind, geometry) = of(rows, width, element_bytes);
                let [lanes, y, z] = geometry.block.map(u64::from);
                let case =
                    format!("{rows} x {width}, {element_bytes} bytes: {kind:?}, {geometry:?}");
                assert!(lanes * y <= MAX_THREADS && z == 1, "{case}");
                assert!((lanes * y).is_multiple_of(WARP), "{case}");
                assert!(u64::from(geometry.grid[0]) * y >= rows as u64, "{case}");
                let (chunk, slots) = match kind {
                    RmsNormKind::Narrow => (1, NARROW_SLOTS),
                    _ => (16 / element_bytes as u64, SLOTS),
                };
                let chunks = width as u64 / chunk;
                assert_eq!(chunks * chunk, width as u64, "{case}");
                let beyond = chunks.saturating_sub(lanes * slots) * chunk * element_bytes as u64;
                let shared = u64::from(geometry.shared_bytes);
                assert_eq!(shared, beyond.min(MAX_SHARED_BYTES.into()), "{case}");
                match kind {
                    RmsNormKind::Short => {
                        assert!(lanes.is_power_of_two() && lanes <= SHORT_LANES, "{case}");
                        assert_eq!(beyond, 0, "{case}");
                    }
                    _ => {
                        assert!(lanes.is_multiple_of(WARP), "{case}");
                        assert!(y == 1 || lanes == WARP, "{case}");
                        assert!(beyond == 0 || lanes == MAX_THREADS, "{case}");
                    }
                }
            }
        }
    }
}
