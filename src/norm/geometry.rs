//! Launch geometry of the RMSNorm kernels: a pure function of the parameter block.

use crate::launch::Geometry;
use crate::launch::params::fflash_rms_norm_params;

/// The most dynamic shared memory that [`geometry`] asks for.
pub(crate) const MAX_SHARED_BYTES: u32 = 0;

/// Grid, block and shared memory for this block of parameters and `element_bytes`.
pub(crate) fn geometry(block: &fflash_rms_norm_params, _element_bytes: usize) -> Geometry {
    Geometry {
        grid: [block.rows as u32, 1, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
    }
}
