//! Strided views of device memory, proven to lie inside their buffers.

use cudarc::driver::{CudaView, CudaViewMut};

use crate::error::LayoutError;

/// Shape, strides and offset of a rank-`R` tensor, in elements.
///
/// Index `[i0, i1, …]` names element `offset + i0 * strides[0] + i1 * strides[1] + …` of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layout<const R: usize> {
    shape: [usize; R],
    strides: [usize; R],
    offset: usize,
}

impl<const R: usize> Layout<R> {
    /// Row-major, without gaps, from the start of the buffer.
    pub fn contiguous(shape: [usize; R]) -> Self {
        let mut strides = [1usize; R];
        for axis in (1..R).rev() {
            strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
        }
        Self {
            shape,
            strides,
            offset: 0,
        }
    }

    /// Any strides and offset. Stride 0 repeats an element along an axis (read-only views only).
    pub fn strided(shape: [usize; R], strides: [usize; R], offset: usize) -> Self {
        Self {
            shape,
            strides,
            offset,
        }
    }

    /// Extents.
    pub fn shape(&self) -> [usize; R] {
        self.shape
    }

    /// Strides in elements.
    pub fn strides(&self) -> [usize; R] {
        self.strides
    }

    /// Index of the first element.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Number of indices.
    ///
    /// # Errors
    /// [`LayoutError::Overflow`] when the product of the extents does not fit.
    pub fn len(&self) -> Result<usize, LayoutError> {
        if self.is_empty() {
            return Ok(0);
        }
        self.shape
            .iter()
            .try_fold(1usize, |len, &extent| len.checked_mul(extent))
            .ok_or(LayoutError::Overflow)
    }

    /// True when an extent is zero.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// Position in the buffer of the element at `index`, which must lie inside the shape.
    pub fn position(&self, index: [usize; R]) -> usize {
        debug_assert!(index.iter().zip(self.shape).all(|(&i, extent)| i < extent));
        self.offset
            + index
                .iter()
                .zip(self.strides)
                .map(|(&i, stride)| i * stride)
                .sum::<usize>()
    }

    /// One past the highest element the layout reaches; the offset alone when it is empty.
    ///
    /// # Errors
    /// [`LayoutError::Overflow`] when that index, or a stride, does not fit in 63 bits.
    pub fn span(&self) -> Result<usize, LayoutError> {
        let limit = i64::MAX as usize;
        if self.strides.iter().any(|&stride| stride > limit) {
            return Err(LayoutError::Overflow);
        }
        let mut last = self.offset;
        if !self.is_empty() {
            for (&extent, &stride) in self.shape.iter().zip(&self.strides) {
                last = (extent - 1)
                    .checked_mul(stride)
                    .and_then(|reach| last.checked_add(reach))
                    .ok_or(LayoutError::Overflow)?;
            }
            last = last.checked_add(1).ok_or(LayoutError::Overflow)?;
        }
        if last > limit {
            Err(LayoutError::Overflow)
        } else {
            Ok(last)
        }
    }

    /// True when no two indices name the same element, as every nesting of axes has it: sorted by
    /// stride, each axis steps over all that the smaller ones reach. (Layouts that interleave axes
    /// without collision, which no tensor library produces, are reported as overlapping.)
    pub fn is_injective(&self) -> bool {
        if self.is_empty() {
            return true;
        }
        let mut axes: Vec<(usize, usize)> = self
            .strides
            .iter()
            .copied()
            .zip(self.shape)
            .filter(|&(_, extent)| extent > 1)
            .collect();
        axes.sort_unstable();
        let mut reach = 0usize;
        for (stride, extent) in axes {
            if stride <= reach {
                return false;
            }
            reach = reach.saturating_add(stride.saturating_mul(extent - 1));
        }
        true
    }

    /// The layout with two axes exchanged: of the same elements.
    pub(crate) fn swapped(mut self, a: usize, b: usize) -> Self {
        self.shape.swap(a, b);
        self.strides.swap(a, b);
        self
    }

    pub(crate) fn check_inside(&self, buffer: usize) -> Result<(), LayoutError> {
        let span = self.span()?;
        self.len()?;
        if span > buffer {
            Err(LayoutError::OutOfBounds { span, buffer })
        } else {
            Ok(())
        }
    }
}

/// A read-only tensor in device memory.
#[derive(Debug)]
pub struct TensorView<'a, T, const R: usize> {
    data: CudaView<'a, T>,
    layout: Layout<R>,
}

impl<'a, T, const R: usize> TensorView<'a, T, R> {
    /// Views `data` through `layout`.
    ///
    /// # Errors
    /// [`LayoutError`] when the layout reaches past the end of `data` or overflows.
    pub fn new(data: CudaView<'a, T>, layout: Layout<R>) -> Result<Self, LayoutError> {
        layout.check_inside(data.len())?;
        Ok(Self { data, layout })
    }

    /// Views the start of `data` as a row-major tensor.
    ///
    /// # Errors
    /// As [`TensorView::new`].
    pub fn contiguous(data: CudaView<'a, T>, shape: [usize; R]) -> Result<Self, LayoutError> {
        Self::new(data, Layout::contiguous(shape))
    }

    /// The layout.
    pub fn layout(&self) -> &Layout<R> {
        &self.layout
    }

    /// Extents.
    pub fn shape(&self) -> [usize; R] {
        self.layout.shape
    }

    /// The same elements with two axes exchanged.
    pub(crate) fn swapped(self, a: usize, b: usize) -> Self {
        Self {
            data: self.data,
            layout: self.layout.swapped(a, b),
        }
    }

    pub(crate) fn data(&self) -> &CudaView<'a, T> {
        &self.data
    }
}

/// A writable tensor in device memory, no two indices of which name the same element.
#[derive(Debug)]
pub struct TensorViewMut<'a, T, const R: usize> {
    data: CudaViewMut<'a, T>,
    layout: Layout<R>,
}

impl<'a, T, const R: usize> TensorViewMut<'a, T, R> {
    /// Views `data` through `layout`.
    ///
    /// # Errors
    /// [`LayoutError`] when the layout reaches past the end of `data`, overflows or overlaps itself.
    pub fn new(data: CudaViewMut<'a, T>, layout: Layout<R>) -> Result<Self, LayoutError> {
        layout.check_inside(data.len())?;
        if !layout.is_injective() {
            return Err(LayoutError::Overlapping {
                shape: layout.shape.to_vec(),
                strides: layout.strides.to_vec(),
            });
        }
        Ok(Self { data, layout })
    }

    /// Views the start of `data` as a row-major tensor.
    ///
    /// # Errors
    /// As [`TensorViewMut::new`].
    pub fn contiguous(data: CudaViewMut<'a, T>, shape: [usize; R]) -> Result<Self, LayoutError> {
        Self::new(data, Layout::contiguous(shape))
    }

    /// The layout.
    pub fn layout(&self) -> &Layout<R> {
        &self.layout
    }

    /// Extents.
    pub fn shape(&self) -> [usize; R] {
        self.layout.shape
    }

    pub(crate) fn data(&self) -> &CudaViewMut<'a, T> {
        &self.data
    }

    pub(crate) fn data_mut(&mut self) -> &mut CudaViewMut<'a, T> {
        &mut self.data
    }
}

macro_rules! in_a_batch_of_one {
    ($view:ident, $rank:literal, $more:literal, $($axis:literal),*) => {
        impl<'a, T> $view<'a, T, $rank> {
            /// The same elements with an outermost axis of extent 1.
            pub(crate) fn in_a_batch_of_one(self) -> $view<'a, T, $more> {
                let Layout { shape, strides, offset } = self.layout;
                $view {
                    data: self.data,
                    layout: Layout {
                        shape: [1, $(shape[$axis]),*],
                        strides: [0, $(strides[$axis]),*],
                        offset,
                    },
                }
            }
        }
    };
}
in_a_batch_of_one!(TensorView, 3, 4, 0, 1, 2);
in_a_batch_of_one!(TensorViewMut, 3, 4, 0, 1, 2);
in_a_batch_of_one!(TensorViewMut, 2, 3, 0, 1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contiguous_layout_is_row_major() {
        let layout = Layout::contiguous([2, 3, 4]);
        assert_eq!(layout.strides(), [12, 4, 1]);
        assert_eq!(layout.span(), Ok(24));
        assert_eq!(layout.position([1, 2, 3]), 23);
        assert!(layout.is_injective());
    }

    #[test]
    fn span_is_one_past_the_last_element() {
        assert_eq!(
            Layout::strided([2, 3], [10, 2], 5).span(),
            Ok(5 + 10 + 4 + 1)
        );
        assert_eq!(Layout::strided([0, 3], [10, 2], 5).span(), Ok(5));
        assert_eq!(Layout::strided([4], [0], 5).span(), Ok(6));
    }

    #[test]
    fn absurd_extents_overflow_instead_of_wrapping() {
        let huge = usize::MAX / 2;
        assert_eq!(
            Layout::strided([huge, 3], [huge, 1], 0).span(),
            Err(LayoutError::Overflow)
        );
        assert_eq!(
            Layout::strided([1], [usize::MAX], 0).span(),
            Err(LayoutError::Overflow)
        );
        assert_eq!(
            Layout::strided([2, 2], [1, 1], usize::MAX).span(),
            Err(LayoutError::Overflow)
        );
        assert_eq!(
            Layout::contiguous([huge, huge]).len(),
            Err(LayoutError::Overflow)
        );
        assert_eq!(Layout::contiguous([huge, huge, 0]).len(), Ok(0));
    }

    #[test]
    fn injective_layouts_are_told_from_overlapping_ones() {
        assert!(
            Layout::strided([4, 3], [1, 4], 0).is_injective(),
            "transposed"
        );
        assert!(
            Layout::strided([4, 1, 3], [3, 0, 1], 0).is_injective(),
            "unit axes do not count"
        );
        assert!(
            Layout::strided([0, 3], [0, 0], 0).is_injective(),
            "nothing overlaps in nothing"
        );
        assert!(
            !Layout::strided([4, 3], [2, 1], 0).is_injective(),
            "rows overlap"
        );
        assert!(
            !Layout::strided([4, 3], [0, 1], 0).is_injective(),
            "broadcast"
        );
    }
}
