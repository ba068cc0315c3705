//! Which kernel runs: the bridge between typed choices and symbols.

use std::fmt;

use crate::dtype::DType;

/// One entry point of the kernel modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Variant {
    /// Fused attention for one element type.
    Prefill { dtype: DType, kind: PrefillKind },
    /// RMSNorm for one element type.
    RmsNorm { dtype: DType, kind: RmsNormKind },
    /// RoPE for one element type.
    Rope { dtype: DType, kind: RopeKind },
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

/// Which rows an RMSNorm kernel is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum RmsNormKind {
    /// Rows of one or more warps, in 16-byte accesses.
    Long,
    /// Several rows to a warp, in 16-byte accesses.
    Short,
    /// Any rows, element by element.
    Narrow,
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
        let norm = DType::FLOATS.into_iter().flat_map(|dtype| {
            [RmsNormKind::Long, RmsNormKind::Short, RmsNormKind::Narrow]
                .map(|kind| Variant::RmsNorm { dtype, kind })
        });
        let rope = DType::FLOATS.into_iter().flat_map(|dtype| {
            [RopeKind::Wide, RopeKind::Narrow].map(|kind| Variant::Rope { dtype, kind })
        });
        prefill.chain(norm).chain(rope).collect()
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
            Variant::RmsNorm { dtype, kind } => {
                let suffix = match kind {
                    RmsNormKind::Long => "",
                    RmsNormKind::Short => "_short",
                    RmsNormKind::Narrow => "_narrow",
                };
                write!(f, "fflash_rms_norm_{dtype}{suffix}")
            }
            Variant::Rope { dtype, kind } => {
                let suffix = match kind {
                    RopeKind::Wide => "",
                    RopeKind::Narrow => "_narrow",
                };
                write!(f, "fflash_rope_{dtype}{suffix}")
            }
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
