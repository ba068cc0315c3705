//! Which combinations of options and element types have kernels: one function, that launches ask too.

use super::{Norm, Scale, Statistics};
use crate::dtype::DType;
use crate::error::Unsupported;

/// The group sizes of [`Scale::PerGroup`].
pub(crate) const GROUPS: &[usize] = &[64, 128];

/// Element types of the operands of [`Kernels::norm`](crate::Kernels::norm).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NormDTypes {
    /// The input.
    pub x: DType,
    /// The weight.
    pub weight: Option<DType>,
    /// The bias.
    pub bias: Option<DType>,
    /// The gate.
    pub gate: Option<DType>,
    /// The residual, before and after.
    pub residual: Option<DType>,
    /// The weight of the post-norm, where there is a post-norm with a weight.
    pub post_weight: Option<DType>,
    /// The output.
    pub out: DType,
}

impl NormDTypes {
    /// The same type everywhere, input, weight and output only.
    pub const fn all(dtype: DType) -> Self {
        NormDTypes {
            x: dtype,
            weight: Some(dtype),
            bias: None,
            gate: None,
            residual: None,
            post_weight: None,
            out: dtype,
        }
    }
}

impl Norm {
    /// Whether there is a kernel.
    ///
    /// # Errors
    /// [`Unsupported::DType`] where an input is no [`Float`](crate::Float), or where the output is quantised and
    /// [`Norm::scale`] is absent or the other way round; [`Unsupported::GroupSize`] for groups other than 64 and 128;
    /// [`Unsupported::Combination`] for a post-norm in a LayerNorm.
    pub fn supports(&self, dtypes: &NormDTypes) -> Result<(), Unsupported> {
        let refused = |op, dtype| Err(Unsupported::DType { op, dtype });
        let inputs = [
            Some(dtypes.x),
            dtypes.weight,
            dtypes.bias,
            dtypes.gate,
            dtypes.residual,
            dtypes.post_weight,
        ];
        if let Some(dtype) = inputs.into_iter().flatten().find(|dtype| !is_float(*dtype)) {
            return refused("an input of norm", dtype);
        }
        match self.scale {
            None if !is_float(dtypes.out) => return refused("norm without a scale", dtypes.out),
            Some(_) if is_float(dtypes.out) => return refused("norm with a scale", dtypes.out),
            Some(Scale::PerGroup(size)) if !GROUPS.contains(&size) => {
                return Err(Unsupported::GroupSize {
                    size,
                    supported: GROUPS,
                });
            }
            _ => {}
        }
        if self.statistics == Statistics::Deviation && dtypes.post_weight.is_some() {
            return Err(Unsupported::Combination {
                op: "norm",
                first: "Statistics::Deviation",
                second: "a post-norm",
            });
        }
        Ok(())
    }
}

fn is_float(dtype: DType) -> bool {
    DType::FLOATS.contains(&dtype)
}

/// One line of the support matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SupportRow {
    /// The form, for instance `add_rms_norm`.
    pub form: &'static str,
    /// Types of inputs and weights, each chosen apart.
    pub inputs: Vec<DType>,
    /// Types of the output without a scale.
    pub outputs: Vec<DType>,
    /// Types of the output with [`Scale::Static`], [`Scale::PerRow`] or [`Scale::PerGroup`].
    pub quantised: Vec<DType>,
    /// What else there is to know.
    pub notes: &'static str,
}

/// A form's name, its options, its operands where all are of one type, and notes.
type Form = (&'static str, Norm, fn(DType) -> NormDTypes, &'static str);

/// What the family supports, found by asking [`Norm::supports`] about every combination of types.
pub fn support_matrix() -> Vec<SupportRow> {
    let layer = Norm {
        statistics: Statistics::Deviation,
        ..Norm::default()
    };
    let rms = Norm::default();
    let forward: [Form; 6] = [
        (
            "rms_norm",
            rms,
            NormDTypes::all,
            "widths from 1; strided rows; in place; with or without weight; w or 1 + w; rounding Gemma or Llama; statistics of the first columns",
        ),
        (
            "add_rms_norm",
            rms,
            |dtype| NormDTypes {
                residual: Some(dtype),
                ..NormDTypes::all(dtype)
            },
            "as rms_norm; the residual in place or apart",
        ),
        (
            "gated",
            rms,
            |dtype| NormDTypes {
                gate: Some(dtype),
                ..NormDTypes::all(dtype)
            },
            "as rms_norm, times silu(gate)",
        ),
        (
            "layer_norm",
            layer,
            |dtype| NormDTypes {
                bias: Some(dtype),
                ..NormDTypes::all(dtype)
            },
            "as rms_norm, with or without bias",
        ),
        (
            "post-norm, add, pre-norm",
            rms,
            |dtype| NormDTypes {
                residual: Some(dtype),
                post_weight: Some(dtype),
                ..NormDTypes::all(dtype)
            },
            "as add_rms_norm",
        ),
        (
            "qk_norm",
            rms,
            NormDTypes::all,
            "[tokens, heads, head_dim], q and k in one launch; output not quantised",
        ),
    ];
    let mut rows: Vec<SupportRow> = forward
        .into_iter()
        .map(|(form, op, dtypes, notes)| {
            let all = DType::ALL.into_iter();
            let with = |out, scale| {
                let dtypes = NormDTypes {
                    out,
                    ..dtypes(DType::F32)
                };
                Norm { scale, ..op }.supports(&dtypes).is_ok()
            };
            SupportRow {
                form,
                inputs: all
                    .clone()
                    .filter(|&dtype| {
                        op.supports(&NormDTypes {
                            out: DType::F32,
                            ..dtypes(dtype)
                        })
                        .is_ok()
                    })
                    .collect(),
                outputs: all.clone().filter(|&out| with(out, None)).collect(),
                quantised: all
                    .filter(|&out| form != "qk_norm" && with(out, Some(Scale::PerRow)))
                    .collect(),
                notes,
            }
        })
        .collect();
    rows.push(SupportRow {
        form: "rms_norm_backward",
        inputs: DType::FLOATS.to_vec(),
        outputs: DType::FLOATS.to_vec(),
        quantised: Vec::new(),
        notes: "dx and dw, deterministic; of add_rms_norm with the gradient of the residual",
    });
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_floats_and_outputs_follow_the_scale() {
        let op = Norm::default();
        assert_eq!(op.supports(&NormDTypes::all(DType::BF16)), Ok(()));
        let mixed = NormDTypes {
            weight: Some(DType::F32),
            out: DType::F16,
            ..NormDTypes::all(DType::BF16)
        };
        assert_eq!(op.supports(&mixed), Ok(()));
        let bytes = NormDTypes {
            out: DType::F8E4M3,
            ..mixed
        };
        let refused = |op, dtype| Err(Unsupported::DType { op, dtype });
        assert_eq!(
            op.supports(&bytes),
            refused("norm without a scale", DType::F8E4M3)
        );
        let scaled = |scale| Norm {
            scale: Some(scale),
            ..op
        };
        assert_eq!(scaled(Scale::PerRow).supports(&bytes), Ok(()));
        assert_eq!(
            scaled(Scale::PerRow).supports(&mixed),
            refused("norm with a scale", DType::F16)
        );
        assert_eq!(
            op.supports(&NormDTypes::all(DType::I8)),
            refused("an input of norm", DType::I8)
        );
        assert_eq!(scaled(Scale::PerGroup(64)).supports(&bytes), Ok(()));
        let refused = Unsupported::GroupSize {
            size: 32,
            supported: GROUPS,
        };
        assert_eq!(scaled(Scale::PerGroup(32)).supports(&bytes), Err(refused));
    }

    #[test]
    fn the_matrix_is_what_supports_says() {
        let matrix = support_matrix();
        assert_eq!(matrix.len(), 7);
        for row in &matrix {
            assert_eq!(row.inputs, DType::FLOATS, "{}", row.form);
            assert_eq!(row.outputs, DType::FLOATS, "{}", row.form);
        }
        assert_eq!(matrix[0].quantised, DType::QUANTIZED);
        assert_eq!(matrix[5].quantised, []);
    }
}
