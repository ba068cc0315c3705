//! Which kernel runs: the bridge between typed choices and symbols.

use std::fmt;

use crate::dtype::DType;
use crate::norm;

/// One entry point of the kernel modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Variant {
    /// Fused attention for one element type.
    Prefill { dtype: DType, kind: PrefillKind },
    /// The RMSNorm family, forward.
    Norm(norm::Kernel),
    /// The same, backward.
    NormBackward(norm::BackwardKernel),
    /// RoPE for one element type, alone or with QK-norm and the paged cache.
    Rope {
        dtype: DType,
        kind: RopeKind,
        fused: bool,
    },
    /// RoPE's cos/sin table of one element type.
    RopeTable { dtype: DType },
}

/// Which calls an attention kernel is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum PrefillKind {
    /// Heads of up to so many elements; keys and values in rows, options that cost the inner loop nothing.
    Narrow { head_dim: usize },
    /// Heads of up to so many elements and every option.
    General { head_dim: usize },
    /// Any heads and every option.
    Wide,
}

/// Which heads a RoPE kernel is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum RopeKind {
    /// Heads in 16-byte accesses.
    Wide,
    /// Any heads, element by element.
    Narrow,
}

/// Head dimensions that attention kernels are compiled for.
pub(crate) const PREFILL_HEAD_DIMS: &[usize] = &[64, 128, 256];

/// Element types that attention kernels are compiled for.
pub(crate) const PREFILL_DTYPES: &[DType] = &[DType::F16, DType::BF16];

impl Variant {
    /// Every variant that a complete build carries.
    pub(crate) fn all() -> Vec<Variant> {
        let prefill = PREFILL_DTYPES.iter().flat_map(|&dtype| {
            let of_head_dim = PREFILL_HEAD_DIMS.iter().flat_map(|&head_dim| {
                [
                    PrefillKind::Narrow { head_dim },
                    PrefillKind::General { head_dim },
                ]
            });
            of_head_dim
                .chain([PrefillKind::Wide])
                .map(move |kind| Variant::Prefill { dtype, kind })
        });
        let norm = norm::Kernel::all().map(Variant::Norm);
        let norm_backward = norm::BackwardKernel::all().map(Variant::NormBackward);
        let rope = DType::FLOATS.into_iter().flat_map(|dtype| {
            [RopeKind::Wide, RopeKind::Narrow]
                .into_iter()
                .flat_map(move |kind| {
                    [false, true].map(|fused| Variant::Rope { dtype, kind, fused })
                })
                .chain([Variant::RopeTable { dtype }])
        });
        prefill
            .chain(norm)
            .chain(norm_backward)
            .chain(rope)
            .collect()
    }
}

/// The symbol of the entry point.
impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Variant::Prefill { dtype, kind } => match kind {
                PrefillKind::Narrow { head_dim } => write!(f, "fflash_prefill_{dtype}_d{head_dim}"),
                PrefillKind::General { head_dim } => {
                    write!(f, "fflash_prefill_{dtype}_d{head_dim}_general")
                }
                PrefillKind::Wide => write!(f, "fflash_prefill_{dtype}_wide"),
            },
            Variant::Norm(kernel) => kernel.fmt(f),
            Variant::NormBackward(kernel) => kernel.fmt(f),
            Variant::Rope { dtype, kind, fused } => {
                let suffix = match kind {
                    RopeKind::Wide => "",
                    RopeKind::Narrow => "_narrow",
                };
                let fused = if *fused { "_fused" } else { "" };
                write!(f, "fflash_rope{fused}_{dtype}{suffix}")
            }
            Variant::RopeTable { dtype } => write!(f, "fflash_rope_table_{dtype}"),
        }
    }
}

#[cfg(all(test, ferroflash_kernels))]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::kernels::IMAGES;

    #[test]
    fn variants_and_symbols_correspond() {
        let variants: BTreeSet<String> = Variant::all()
            .iter()
            .map(|variant| variant.to_string())
            .collect();
        let symbols: BTreeSet<String> = IMAGES
            .iter()
            .flat_map(|image| image.symbols.iter().map(|symbol| (*symbol).to_owned()))
            .collect();
        assert_eq!(variants, symbols);
    }
}
