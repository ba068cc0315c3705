//! The norms of queries and keys, head by head, in one launch.

use cudarc::driver::CudaStream;

use super::forward::{Form, bind};
use super::{Norm, NormDTypes};
use crate::check;
use crate::error::Error;
use crate::kernels::Kernels;
use crate::launch::Launcher;
use crate::operand::{InOut, Operand};

/// Operands of [`Kernels::qk_norm`]. Tokens and heads may be strided; the elements of a head are contiguous.
#[derive(Debug)]
pub struct QkNormArgs<'a> {
    /// From q `[tokens, q_heads, head_dim]` to its output of the same shape.
    pub q: InOut<'a, 3>,
    /// From k `[tokens, k_heads, head_dim]`, of the element types of q, to its output.
    pub k: InOut<'a, 3>,
    /// `[head_dim]`.
    pub q_weight: Option<&'a dyn Operand<1>>,
    /// `[head_dim]`, of the element type of `q_weight`; given exactly with it.
    pub k_weight: Option<&'a dyn Operand<1>>,
}

impl Kernels {
    /// Normalises every head of q and k, as before the attention of Qwen 3 and Gemma 3: [`Kernels::norm`] of each head as a
    /// row, for both tensors in one launch.
    ///
    /// # Errors
    /// A typed [`Error`] for shapes, strides, element types, options or contexts that do not fit; nothing is launched
    /// then.
    pub fn qk_norm(
        &self,
        stream: &CudaStream,
        op: &Norm,
        args: QkNormArgs<'_>,
    ) -> Result<(), Error> {
        let launcher = Launcher::new(self, stream)?;
        let [q_layouts, k_layouts] = [&args.q, &args.k].map(InOut::layouts);
        let (q_dtypes, k_dtypes) = (args.q.dtypes(), args.k.dtypes());
        let dtype = |weight: Option<&dyn Operand<1>>| weight.map(|weight| weight.dtype());
        op.supports(&NormDTypes {
            x: q_dtypes[0],
            weight: dtype(args.q_weight),
            bias: None,
            gate: None,
            residual: None,
            post_weight: None,
            out: q_dtypes[1],
        })?;
        if op.scale.is_some() {
            return Err(crate::Unsupported::Combination {
                op: "qk_norm",
                first: "a scale",
                second: "two tensors",
            }
            .into());
        }
        for (operand, expected, found) in [
            ("k", q_dtypes[0], k_dtypes[0]),
            ("k_out", q_dtypes[1], k_dtypes[1]),
        ] {
            if expected != found {
                return Err(Error::DTypeMismatch {
                    operand,
                    expected,
                    found,
                });
            }
        }
        match (dtype(args.q_weight), dtype(args.k_weight)) {
            (Some(expected), Some(found)) if expected != found => {
                return Err(Error::DTypeMismatch {
                    operand: "k_weight",
                    expected,
                    found,
                });
            }
            (Some(_), None) | (None, Some(_)) => {
                return Err(Error::OperandMismatch {
                    operand: "k_weight",
                    requirement: "must be given exactly with q_weight",
                });
            }
            _ => {}
        }
        let [tokens, _, head_dim] = q_layouts[0].shape();
        check::extent("k", "tokens", k_layouts[0].shape()[0], tokens)?;
        check::extent("k", "head_dim", k_layouts[0].shape()[2], head_dim)?;
        for (name, [input, output]) in [("q_out", q_layouts), ("k_out", k_layouts)] {
            for (axis, index) in [("tokens", 0), ("heads", 1), ("head_dim", 2)] {
                check::extent(name, axis, output.shape()[index], input.shape()[index])?;
            }
        }
        let mut form = Form::new(op, head_dim)?;
        let q = bind(launcher, args.q, ["q", "q_out"])?;
        let k = bind(launcher, args.k, ["k", "k_out"])?;
        form.block.parts = [
            form.part(
                launcher,
                q_layouts,
                q_dtypes,
                ["q", "q_out"],
                q,
                args.q_weight,
                "q_weight",
            )?,
            form.part(
                launcher,
                k_layouts,
                k_dtypes,
                ["k", "k_out"],
                k,
                args.k_weight,
                "k_weight",
            )?,
        ];
        form.launch(launcher)
    }
}
