//! Operands whose element type is chosen at run time, for operations that take many combinations of types.

// The sealed traits' methods can be called by nobody who cannot name them.
#![allow(private_interfaces)]

use crate::dtype::{DType, Element};
use crate::error::Error;
use crate::launch::{Bound, Launcher};
use crate::tensor::{Layout, TensorView, TensorViewMut};

mod sealed {
    use super::{Bound, Error, Launcher};

    pub trait Read {
        #[doc(hidden)]
        fn read<'a>(
            &'a self,
            launcher: Launcher<'a>,
            operand: &'static str,
        ) -> Result<Bound<'a>, Error>;
    }

    pub trait Write {
        #[doc(hidden)]
        fn write<'a>(
            &'a mut self,
            launcher: Launcher<'a>,
            operand: &'static str,
        ) -> Result<Bound<'a>, Error>;
    }
}

/// A tensor that an operation reads: a [`TensorView`] of any element type. Sealed.
pub trait Operand<const R: usize>: sealed::Read {
    /// The element type.
    fn dtype(&self) -> DType;

    /// The layout.
    fn layout(&self) -> &Layout<R>;
}

/// A tensor that an operation writes: a [`TensorViewMut`] of any element type. Sealed.
pub trait OperandMut<const R: usize>: sealed::Write {
    /// The element type.
    fn dtype(&self) -> DType;

    /// The layout.
    fn layout(&self) -> &Layout<R>;
}

impl<T: Element, const R: usize> sealed::Read for TensorView<'_, T, R> {
    fn read<'a>(
        &'a self,
        launcher: Launcher<'a>,
        operand: &'static str,
    ) -> Result<Bound<'a>, Error> {
        launcher.read(operand, self)
    }
}

impl<T: Element, const R: usize> Operand<R> for TensorView<'_, T, R> {
    fn dtype(&self) -> DType {
        T::DTYPE
    }

    fn layout(&self) -> &Layout<R> {
        TensorView::layout(self)
    }
}

impl<T: Element, const R: usize> sealed::Write for TensorViewMut<'_, T, R> {
    fn write<'a>(
        &'a mut self,
        launcher: Launcher<'a>,
        operand: &'static str,
    ) -> Result<Bound<'a>, Error> {
        launcher.write(operand, self)
    }
}

impl<T: Element, const R: usize> OperandMut<R> for TensorViewMut<'_, T, R> {
    fn dtype(&self) -> DType {
        T::DTYPE
    }

    fn layout(&self) -> &Layout<R> {
        TensorViewMut::layout(self)
    }
}

/// Where something is read, and where what becomes of it is written.
pub enum InOut<'a, const R: usize> {
    /// At the same place.
    InPlace(&'a mut (dyn OperandMut<R> + 'a)),
    /// Apart.
    Apart {
        /// What is read.
        input: &'a (dyn Operand<R> + 'a),
        /// What is written; its element type may be another.
        output: &'a mut (dyn OperandMut<R> + 'a),
    },
}

impl<const R: usize> InOut<'_, R> {
    /// Element types of what is read and of what is written.
    pub fn dtypes(&self) -> [DType; 2] {
        match self {
            InOut::InPlace(tensor) => [tensor.dtype(); 2],
            InOut::Apart { input, output } => [input.dtype(), output.dtype()],
        }
    }

    /// Layouts of what is read and of what is written.
    pub fn layouts(&self) -> [Layout<R>; 2] {
        match self {
            InOut::InPlace(tensor) => [*tensor.layout(); 2],
            InOut::Apart { input, output } => [*input.layout(), *output.layout()],
        }
    }
}

impl<const R: usize> std::fmt::Debug for InOut<'_, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self {
            InOut::InPlace(_) => "InPlace",
            InOut::Apart { .. } => "Apart",
        };
        let types = self.dtypes().into_iter().zip(self.layouts());
        f.debug_list()
            .entry(&name)
            .entries(types.collect::<Vec<_>>())
            .finish()
    }
}
