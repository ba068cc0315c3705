//! What RoPE supports, asked without operands.

use super::geometry::longest_head;
use super::{Axes, Frequencies, Rope, RopeStyle};
use crate::dtype::DType;
use crate::error::Unsupported;
use crate::variant::RopeKind;

/// A call of RoPE as far as support for it depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RopeCall {
    /// Of q, k and v.
    pub dtype: DType,
    /// Of q, k and v.
    pub head_dim: usize,
    /// What the pages of the cache hold; `None` without a cache.
    pub cache: Option<DType>,
    /// True where q and k are overwritten.
    pub in_place: bool,
    /// True where addresses and strides are multiples of 16 bytes.
    pub aligned: bool,
    /// True for positions that are real numbers.
    pub real_positions: bool,
}

impl Rope {
    /// Whether [`Kernels::rope`](crate::Kernels::rope) has a kernel for `call` with these options.
    ///
    /// # Errors
    /// [`Unsupported`], as the call itself would give.
    pub fn supports(&self, call: &RopeCall) -> Result<(), Unsupported> {
        let op = "rope";
        if !DType::FLOATS.contains(&call.dtype) {
            let dtype = call.dtype;
            return Err(Unsupported::DType { op, dtype });
        }
        if let Some(dtype) = call.cache
            && dtype != call.dtype
            && !matches!(dtype, DType::F8E4M3 | DType::F8E5M2)
        {
            let op = "rope's cache";
            return Err(Unsupported::DType { op, dtype });
        }
        self.check_rotated(call.head_dim)?;
        let limit = 4;
        match self.axes.count() {
            1..=4 => {}
            axes => return Err(Unsupported::Axes { axes, limit }),
        }
        if call.real_positions && self.frequencies == Frequencies::Table {
            return Err(Unsupported::Combination {
                op,
                first: "real positions",
                second: "Frequencies::Table",
            });
        }
        if call.in_place && call.cache.is_none() && self.norm.is_none() {
            return Ok(());
        }
        let bytes = call.dtype.size();
        let pairs = self.rotary_dim.unwrap_or(call.head_dim) / 2;
        let elements = [pairs, self.rotary_offset, call.head_dim];
        let whole = elements.iter().all(|n| (n * bytes).is_multiple_of(16));
        let kind = if call.aligned && whole {
            RopeKind::Wide
        } else {
            RopeKind::Narrow
        };
        let limit = longest_head(kind, bytes);
        let columns = pairs + (call.head_dim - 2 * pairs).div_ceil(2);
        if columns > limit / 2 {
            return Err(Unsupported::HeadTooLong {
                op,
                head_dim: call.head_dim,
                limit,
            });
        }
        Ok(())
    }
}

/// A line of the support matrix: what is asked for, and the element types that have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SupportRow {
    /// The operation with its options.
    pub what: String,
    /// Types of q, k and v for which [`Rope::supports`] says yes.
    pub dtypes: Vec<DType>,
    /// The longest head that is supported, with aligned tensors.
    pub longest_head: Option<usize>,
}

/// The support matrix of RoPE, made by asking [`Rope::supports`].
pub fn support_rows() -> Vec<SupportRow> {
    let norm = Some(super::QkNorm {
        eps: 1e-6,
        weight: crate::norm::WeightForm::Plain,
    });
    let plain = Rope::default;
    let with = |frequencies| Rope {
        frequencies,
        ..plain()
    };
    let ops = [
        ("half-split", plain()),
        (
            "interleaved",
            Rope {
                style: RopeStyle::Interleaved,
                ..plain()
            },
        ),
        (
            "part of the head, at an offset",
            Rope {
                rotary_dim: Some(32),
                rotary_offset: 32,
                ..plain()
            },
        ),
        (
            "inverse",
            Rope {
                direction: super::Direction::Inverse,
                ..plain()
            },
        ),
        (
            "2 to 4 axes by sections (M-RoPE, vision)",
            Rope {
                axes: Axes::Sections(vec![16, 24, 24]),
                ..plain()
            },
        ),
        ("cos/sin table", with(Frequencies::Table)),
        ("QK-norm", Rope { norm, ..plain() }),
    ];
    let mut rows = Vec::new();
    for (name, op) in &ops {
        for (how, in_place) in [("in place", true), ("out of place", false)] {
            rows.push(row(format!("{name}, {how}"), op, in_place, |_| None));
        }
    }
    let real = |op: &Rope, call: RopeCall| {
        op.supports(&RopeCall {
            real_positions: true,
            ..call
        })
    };
    rows.push(row_by(
        "fractional positions".into(),
        &plain(),
        true,
        |_| None,
        real,
    ));
    for (name, op) in [
        ("RoPE", plain()),
        ("QK-norm + RoPE", Rope { norm, ..plain() }),
    ] {
        rows.push(row(format!("{name} + paged cache"), &op, false, Some));
        for dtype in [DType::F8E4M3, DType::F8E5M2] {
            let what = format!("{name} + paged cache in {dtype}");
            rows.push(row(what, &op, false, move |_| Some(dtype)));
        }
    }
    rows
}

fn row(
    what: String,
    op: &Rope,
    in_place: bool,
    cache: impl Fn(DType) -> Option<DType>,
) -> SupportRow {
    row_by(what, op, in_place, cache, |op, call| op.supports(&call))
}

fn row_by(
    what: String,
    op: &Rope,
    in_place: bool,
    cache: impl Fn(DType) -> Option<DType>,
    supports: impl Fn(&Rope, RopeCall) -> Result<(), Unsupported>,
) -> SupportRow {
    let call = |dtype, head_dim| RopeCall {
        dtype,
        head_dim,
        cache: cache(dtype),
        in_place,
        aligned: true,
        real_positions: false,
    };
    let dtypes: Vec<DType> = DType::ALL
        .into_iter()
        .filter(|&dtype| supports(op, call(dtype, 128)).is_ok())
        .collect();
    // Longer heads rotate a part, as every kernel allows.
    let longest_head = (7..17).rev().map(|log2| 1 << log2).find(|&head_dim| {
        let op = Rope {
            rotary_dim: Some(op.rotary_dim.unwrap_or(128)),
            ..op.clone()
        };
        dtypes
            .iter()
            .all(|&dtype| supports(&op, call(dtype, head_dim)).is_ok())
    });
    SupportRow {
        what,
        dtypes,
        longest_head,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_the_types_that_kernels_compute_with() {
        for row in support_rows() {
            assert_eq!(row.dtypes, DType::FLOATS, "{}", row.what);
            assert!(row.longest_head >= Some(2048), "{row:?}");
        }
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let call = RopeCall {
            dtype: DType::F16,
            head_dim: 128,
            cache: None,
            in_place: false,
            aligned: true,
            real_positions: true,
        };
        let op = Rope::default();
        assert_eq!(op.supports(&call), Ok(()));
        let table = Rope {
            frequencies: Frequencies::Table,
            ..Rope::default()
        };
        assert!(matches!(
            table.supports(&call),
            Err(Unsupported::Combination { .. })
        ));
        let int = RopeCall {
            cache: Some(DType::I8),
            ..call
        };
        assert!(matches!(op.supports(&int), Err(Unsupported::DType { .. })));
        let other = RopeCall {
            cache: Some(DType::BF16),
            ..call
        };
        assert!(op.supports(&other).is_err());
        let part = Rope {
            rotary_dim: Some(64),
            ..Rope::default()
        };
        let long = RopeCall {
            head_dim: 1024,
            aligned: false,
            ..call
        };
        let refused = Unsupported::HeadTooLong {
            op: "rope",
            head_dim: 1024,
            limit: 512,
        };
        assert_eq!(part.supports(&long), Err(refused));
        assert_eq!(
            part.supports(&RopeCall {
                aligned: true,
                ..long
            }),
            Ok(())
        );
    }
}
