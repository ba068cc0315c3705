//! Which calls have a kernel, told before any launch.

use super::call::{self, OP};
use super::plan;
use super::prefill::Prefill;
use super::tiles::WIDE;
use crate::dtype::DType;
use crate::error::Unsupported;
use crate::variant::PrefillKind;

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
                PrefillKind::General { head_dim } => format!("d{head_dim} general"),
                PrefillKind::Wide => "wide".to_owned(),
            },
        }
    }
}

/// Head dimensions are multiples of this.
const MULTIPLE: usize = 8;

/// The support matrix in Markdown, made by what decides at run time: a section of `SUPPORT.md`.
pub fn support_matrix() -> String {
    let mut text = String::from(
        "## Attention prefill, and by which kernel\n\n\
         Head dimensions are multiples of 8. `d128` fills heads up with zeros to its own size and computes 80 at the price \
         of 128, in a pipelined loop that knows no options; `d128 general` is the same loop over gathered keys, with all of them; \
         `wide` too, at a lower rate. f32 is rounded to bf16 as it is loaded.\n",
    );
    let columns = [
        ("dense, packed", KvStorage::Packed, OptionSet::default(), 0),
        ("paged", KvStorage::Paged, OptionSet::default(), 0),
    ];
    let options = |set: fn(&mut OptionSet)| {
        let mut options = OptionSet::default();
        set(&mut options);
        options
    };
    let with = [
        ("sinks", options(|o| o.sinks = true), 0),
        ("sink tokens", OptionSet::default(), 4),
        ("ALiBi", options(|o| o.alibi = true), 0),
        ("bias", options(|o| o.bias = true), 0),
        ("bit mask", options(|o| o.bit_mask = true), 0),
        ("block mask", options(|o| o.block_mask = true), 0),
    ];
    let columns: Vec<Column> = columns
        .into_iter()
        .chain(with.map(|(name, options, tokens)| (name, KvStorage::Dense, options, tokens)))
        .collect();
    for (title, dtypes) in [
        ("f16 and bf16", &[DType::F16, DType::BF16][..]),
        ("f32", &[DType::F32][..]),
    ] {
        table(&mut text, title, dtypes, &columns);
    }
    text.push_str(
        "\nEvery mask, scale, softcap and ratio of query to key/value heads is served by each of them, and every \
         combination of columns: by the kernel without options if all of them name it. In place, `head_dim` and \
         `head_dim_v` must be equal.\n",
    );
    text
}

/// Title, storage, options, sink tokens.
type Column = (&'static str, KvStorage, OptionSet, u32);

/// A row for each range of head dimensions that the same kernels serve.
fn table(text: &mut String, title: &str, dtypes: &[DType], columns: &[Column]) {
    let kernels = |head_dim, head_dim_v| -> Vec<String> {
        let kernel = |&(_, storage, options, sink_tokens): &Column| {
            let mut names: Vec<String> = dtypes
                .iter()
                .map(|&dtype| {
                    let mut desc = PrefillDesc::new(dtype, head_dim);
                    (desc.head_dim_v, desc.storage, desc.options) = (head_dim_v, storage, options);
                    desc.op.sink_tokens = sink_tokens;
                    desc.kernel()
                })
                .collect();
            names.dedup();
            names.join(" / ")
        };
        columns.iter().map(kernel).collect()
    };
    let titles: Vec<&str> = columns.iter().map(|column| column.0).collect();
    let rule = "---|".repeat(columns.len() + 1);
    text.push_str(&format!(
        "\n| {title}: head_dim (v) | {} |\n|{rule}\n",
        titles.join(" | ")
    ));
    let mut rows: Vec<(String, Vec<String>)> = Vec::new();
    let limit = WIDE.max_head_dim_v as usize + MULTIPLE;
    let mut first = MULTIPLE;
    for head_dim in (MULTIPLE..=limit).step_by(MULTIPLE) {
        let (here, next) = (kernels(head_dim, head_dim), head_dim + MULTIPLE);
        if head_dim == limit || here != kernels(next, next) {
            let name = match head_dim == limit {
                true => format!("{head_dim} and above"),
                false => format!("{first} to {head_dim}"),
            };
            rows.push((name, here));
            first = next;
        }
    }
    for (head_dim, head_dim_v) in [(64, 128), (192, 128), (576, 512), (584, 512)] {
        let name = format!("{head_dim} ({head_dim_v})");
        rows.push((name, kernels(head_dim, head_dim_v)));
    }
    for (name, cells) in rows {
        text.push_str(&format!("| {name} | {} |\n", cells.join(" | ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_kernel_is_named() {
        let float = |dtype, head_dim| PrefillDesc::new(dtype, head_dim).supports();
        assert_eq!(float(DType::F16, 72), Ok(()));
        assert_eq!(
            float(DType::I8, 64),
            Err(Unsupported::DType {
                op: "prefill",
                dtype: DType::I8
            })
        );
        let refused = |axis, head_dim, limit| {
            Err(Unsupported::HeadDim {
                op: "prefill",
                axis,
                head_dim,
                multiple: 8,
                limit,
            })
        };
        assert_eq!(float(DType::BF16, 0), refused("head_dim", 0, 576));
        assert_eq!(float(DType::BF16, 100), refused("head_dim", 100, 576));
        assert_eq!(float(DType::F32, 584), refused("head_dim", 584, 576));
        assert_eq!(float(DType::F32, 576), refused("head_dim_v", 576, 512));
        let mut desc = PrefillDesc::new(DType::F16, 192);
        desc.head_dim_v = 128;
        assert_eq!(desc.supports(), Ok(()));
        desc.in_place = true;
        assert_eq!(
            desc.supports(),
            Err(Unsupported::InPlace {
                op: "prefill",
                head_dim: 192,
                head_dim_v: 128
            })
        );
    }
}
