//! Which calls have a kernel, told before any launch.

use std::fmt::Write;

use super::call::{self, OP};
use super::plan;
use super::prefill::Prefill;
use super::tiles::WIDE;
use crate::dtype::DType;
use crate::error::Unsupported;
use crate::variant::{PREFILL_HEAD_DIMS, PrefillKind};

/// How requests lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KvStorage {
    /// A batch of equal lengths.
    #[default]
    Dense,
    /// Packed without padding.
    Packed,
    /// Packed queries, keys and values in pages.
    Paged,
}

/// Which of [`PrefillOptions`](crate::PrefillOptions) a call has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct OptionSet {
    /// A learned logit of each head.
    pub sinks: bool,
    /// ALiBi slopes.
    pub alibi: bool,
    /// An additive bias.
    pub bias: bool,
    /// A bit-packed mask.
    pub bit_mask: bool,
    /// A block-sparse mask.
    pub block_mask: bool,
}

/// Everything about a prefill that decides whether and by which kernel it is served.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrefillDesc {
    /// Mask, scale, cap.
    pub op: Prefill,
    /// Of q, k, v and o.
    pub dtype: DType,
    /// Of q and k.
    pub head_dim: usize,
    /// Of v and o.
    pub head_dim_v: usize,
    /// Dense, packed or paged.
    pub storage: KvStorage,
    /// o replaces q.
    pub in_place: bool,
    /// Operands that most calls do without.
    pub options: OptionSet,
}

impl PrefillDesc {
    /// Attention of this type and head dimension, dense, without options.
    pub fn new(dtype: DType, head_dim: usize) -> Self {
        Self {
            op: Prefill::default(),
            dtype,
            head_dim,
            head_dim_v: head_dim,
            storage: KvStorage::default(),
            in_place: false,
            options: OptionSet::default(),
        }
    }

    /// Whether [`Kernels`](crate::Kernels) serves such calls.
    ///
    /// # Errors
    /// [`Unsupported`], which names what has no kernel.
    pub fn supports(&self) -> Result<(), Unsupported> {
        if !DType::FLOATS.contains(&self.dtype) {
            return Err(Unsupported::DType {
                op: OP,
                dtype: self.dtype,
            });
        }
        for (axis, head_dim, limit) in [
            ("head_dim", self.head_dim, WIDE.max_head_dim as usize),
            ("head_dim_v", self.head_dim_v, WIDE.max_head_dim_v as usize),
        ] {
            if head_dim == 0 || head_dim > limit || head_dim % MULTIPLE != 0 {
                return Err(Unsupported::HeadDim {
                    op: OP,
                    axis,
                    head_dim,
                    multiple: MULTIPLE,
                    limit,
                });
            }
        }
        if self.in_place {
            call::check_in_place(self.head_dim, self.head_dim_v)?;
        }
        Ok(())
    }

    /// The kernel that serves such calls, as the matrix names it.
    fn kernel(&self) -> String {
        match self.supports() {
            Err(_) => "no".to_owned(),
            Ok(()) => match plan::kind(self) {
                PrefillKind::Narrow { head_dim } => format!("d{head_dim}"),
                PrefillKind::Wide => "wide".to_owned(),
            },
        }
    }
}

/// Head dimensions are multiples of this.
const MULTIPLE: usize = 8;

/// The support matrix in Markdown: what `docs/prefill-support.md` holds.
pub fn support_matrix() -> String {
    String::new()
}
