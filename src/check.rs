//! Checks that several operations share.

use crate::error::Error;
use crate::tensor::Layout;

/// Checks one extent of an operand against what the other operands imply.
pub(crate) fn extent(
    operand: &'static str,
    axis: &'static str,
    found: usize,
    expected: usize,
) -> Result<(), Error> {
    if found == expected {
        return Ok(());
    }
    Err(Error::ShapeMismatch {
        operand,
        axis,
        expected,
        found,
    })
}

/// The largest extent the kernels count with, and the most blocks in a grid's x dimension (CUDA C++
/// Programming Guide, "Compute Capabilities").
pub(crate) const MAX_COUNT: usize = i32::MAX as usize;

/// Converts an extent to what the kernels count with.
pub(crate) fn count(
    operand: &'static str,
    axis: &'static str,
    found: usize,
    limit: usize,
) -> Result<i32, Error> {
    match i32::try_from(found) {
        Ok(count) if found <= limit => Ok(count),
        _ => Err(Error::TooLarge {
            operand,
            axis,
            found,
            limit,
        }),
    }
}

/// Checks that the last dimension is contiguous, as every kernel requires.
pub(crate) fn last_contiguous<const R: usize>(
    operand: &'static str,
    layout: &Layout<R>,
) -> Result<(), Error> {
    let stride = layout.strides()[R - 1];
    if stride == 1 || layout.shape()[R - 1] <= 1 {
        return Ok(());
    }
    Err(Error::LastDimensionStrided { operand, stride })
}

/// The stride of an axis as a parameter block holds it. The stride of an axis that has one index is
/// never used, and 0 is aligned to everything.
pub(crate) fn stride<const R: usize>(layout: &Layout<R>, axis: usize) -> i64 {
    if layout.shape()[axis] <= 1 {
        0
    } else {
        layout.strides()[axis] as i64
    }
}

/// Checks that a float option is finite and, as told, positive or non-negative.
pub(crate) fn option(
    name: &'static str,
    value: f64,
    requirement: &'static str,
    holds: impl Fn(f64) -> bool,
) -> Result<(), Error> {
    if value.is_finite() && holds(value) {
        return Ok(());
    }
    Err(Error::InvalidOption {
        name,
        value,
        requirement,
    })
}

/// Checks one extent of an operand that may be larger than needed.
pub(crate) fn at_least(
    operand: &'static str,
    axis: &'static str,
    found: usize,
    expected: usize,
) -> Result<(), Error> {
    extent(operand, axis, found.min(expected), expected)
}

/// Checks all extents of an operand.
pub(crate) fn shape<const R: usize>(
    operand: &'static str,
    axes: [&'static str; R],
    found: [usize; R],
    expected: [usize; R],
) -> Result<(), Error> {
    for ((axis, found), expected) in axes.into_iter().zip(found).zip(expected) {
        extent(operand, axis, found, expected)?;
    }
    Ok(())
}
