//! What every kernel must compute, in f64 on the CPU: naive, short and obviously right.
//!
//! The same functions give two results. With [`Exact`] they are the oracle; with [`Rounded<T>`] they
//! are the yardstick: what the same mathematics gives when every intermediate tensor is stored in `T`,
//! as an unfused implementation would. A kernel passes when its error is at most twice the yardstick's
//! ([`check`]; the rule is FlashAttention's, <https://github.com/Dao-AILab/flash-attention>, `tests/`).

mod bound;
mod norm;
mod prefill;
mod rms_norm;
mod rope;

use std::marker::PhantomData;

pub use bound::{Mismatch, check, error_bound};
pub use norm::{NormInputs, NormOutputs, norm, rms_norm_backward, scales};
pub use prefill::{Attention, AttentionOptions, prefill, prefill_with};
pub use rms_norm::rms_norm;
pub use rope::{Angles, quantise, rope};

use crate::dtype::Element;
use crate::error::LayoutError;
use crate::tensor::Layout;

/// What happens to a value when it is stored in a tensor.
pub trait Precision {
    /// The stored value.
    fn round(value: f64) -> f64;
}

/// Nothing happens: the oracle.
#[derive(Debug, Clone, Copy)]
pub struct Exact;

impl Precision for Exact {
    fn round(value: f64) -> f64 {
        value
    }
}

/// It is rounded to `T`: the yardstick.
#[derive(Debug, Clone, Copy)]
pub struct Rounded<T>(PhantomData<T>);

impl<T: Element> Precision for Rounded<T> {
    fn round(value: f64) -> f64 {
        T::from_f64(value).to_f64()
    }
}

/// A strided tensor in host memory.
#[derive(Debug, Clone, Copy)]
pub struct HostTensor<'a, T, const R: usize> {
    data: &'a [T],
    layout: Layout<R>,
}

impl<'a, T, const R: usize> HostTensor<'a, T, R> {
    /// Views `data` through `layout`.
    ///
    /// # Errors
    /// [`LayoutError`] when the layout reaches past the end of `data` or overflows.
    pub fn new(data: &'a [T], layout: Layout<R>) -> Result<Self, LayoutError> {
        layout.check_inside(data.len())?;
        Ok(Self { data, layout })
    }

    /// Extents.
    pub fn shape(&self) -> [usize; R] {
        self.layout.shape()
    }
}

impl<T: Element, const R: usize> HostTensor<'_, T, R> {
    /// The element at `index`.
    pub fn at(&self, index: [usize; R]) -> f64 {
        self.data[self.layout.position(index)].to_f64()
    }

    /// The same values, row-major.
    pub fn to_tensor(&self) -> Tensor<R> {
        let mut tensor = Tensor::filled(self.shape(), 0.0);
        for linear in 0..tensor.data.len() {
            let mut rest = linear;
            let mut index = [0; R];
            for axis in (0..R).rev() {
                index[axis] = rest % self.shape()[axis];
                rest /= self.shape()[axis];
            }
            tensor.data[linear] = self.at(index);
        }
        tensor
    }
}

/// A row-major result.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor<const R: usize> {
    shape: [usize; R],
    data: Vec<f64>,
}

impl<const R: usize> Tensor<R> {
    fn filled(shape: [usize; R], value: f64) -> Self {
        Self {
            shape,
            data: vec![value; shape.iter().product()],
        }
    }

    /// Extents.
    pub fn shape(&self) -> [usize; R] {
        self.shape
    }

    /// The element at `index`.
    pub fn at(&self, index: [usize; R]) -> f64 {
        self.data[Layout::contiguous(self.shape).position(index)]
    }

    /// The elements in row-major order.
    pub fn data(&self) -> &[f64] {
        &self.data
    }

    /// Every index, in row-major order.
    fn indices(&self) -> impl Iterator<Item = [usize; R]> + use<R> {
        let shape = self.shape;
        (0..self.data.len()).map(move |mut linear| {
            let mut index = [0; R];
            for axis in (0..R).rev() {
                index[axis] = linear % shape[axis];
                linear /= shape[axis];
            }
            index
        })
    }

    fn at_mut(&mut self, index: [usize; R]) -> &mut f64 {
        let position = Layout::contiguous(self.shape).position(index);
        &mut self.data[position]
    }
}
