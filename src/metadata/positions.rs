//! Where tokens stand, for RoPE.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, ValidAsZeroBits};

use super::{CuSeqlens, Trust};
use crate::check;
use crate::error::Error;

/// One past the largest position: up to here angles are exact to f32 rounding (see kernels/rope/angles.cuh).
pub(crate) const POSITION_LIMIT: i64 = 1 << 36;

mod sealed {
    pub trait Sealed {}
    impl Sealed for i32 {}
    impl Sealed for i64 {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// What positions can be given as: `i32` or `i64`, from 0 to below 2^36, or, for sequences that were sampled irregularly,
/// `f32` or `f64` of magnitude up to 2^36. Sealed.
pub trait Position: sealed::Sealed + DeviceRepr + ValidAsZeroBits + Copy + Into<Number> {
    #[doc(hidden)]
    fn source(device: CudaSlice<Self>) -> Source;
}

/// A position as a value.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub enum Number {
    /// An integer.
    Whole(i64),
    /// A real number.
    Real(f64),
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Number::Whole(whole) => whole.fmt(f),
            Number::Real(real) => real.fmt(f),
        }
    }
}

/// Device memory that holds positions, or the rule they follow.
#[doc(hidden)]
#[derive(Debug)]
pub enum Source {
    I32(CudaSlice<i32>),
    I64(CudaSlice<i64>),
    F32(CudaSlice<f32>),
    F64(CudaSlice<f64>),
    /// Token `t` stands at `first + t`.
    Range {
        first: i64,
    },
    /// `[sequences + 1]` first tokens, then `[sequences]` offsets.
    Packed {
        device: CudaSlice<i64>,
        sequences: usize,
    },
}

macro_rules! position {
    ($type:ty, $source:ident, $number:ident, $wide:ty) => {
        impl Position for $type {
            fn source(device: CudaSlice<Self>) -> Source {
                Source::$source(device)
            }
        }

        impl From<$type> for Number {
            fn from(position: $type) -> Self {
                Number::$number(<$wide>::from(position))
            }
        }
    };
}
position!(i32, I32, Whole, i64);
position!(i64, I64, Whole, i64);
position!(f32, F32, Real, f64);
position!(f64, F64, Real, f64);

/// The position of every token, or of every token on each of several axes.
#[derive(Debug)]
pub struct Positions {
    source: Source,
    axes: usize,
    tokens: usize,
    trust: Trust,
    /// The largest position and its index; `None` when there is none, or nobody has looked.
    largest: Option<(usize, Number)>,
}

impl Positions {
    /// Validates `positions` `[tokens]` and uploads them on `stream`.
    ///
    /// # Errors
    /// [`Error::PositionOutOfRange`] for a position that a [`Position`] cannot be, [`Error::Driver`] when the upload fails.
    pub fn new<P: Position>(stream: &Arc<CudaStream>, positions: &[P]) -> Result<Self, Error> {
        Self::with_axes(stream, 1, positions)
    }

    /// The same for positions `[axes, tokens]`: time, height and width, for instance. Up to 4 axes.
    ///
    /// # Errors
    /// As [`Positions::new`], and [`Error::InvalidOption`] for axes that are none, more than 4, or do not divide the
    /// positions evenly.
    pub fn with_axes<P: Position>(
        stream: &Arc<CudaStream>,
        axes: usize,
        positions: &[P],
    ) -> Result<Self, Error> {
        check_axes(axes)?;
        if !positions.len().is_multiple_of(axes) {
            return Err(Error::InvalidOption {
                name: "axes",
                value: axes as f64,
                requirement: "must divide the number of positions",
            });
        }
        let mut largest: Option<(usize, Number)> = None;
        for (index, &position) in positions.iter().enumerate() {
            let position = position.into();
            let inside = match position {
                Number::Whole(whole) => (0..POSITION_LIMIT).contains(&whole),
                Number::Real(real) => real.abs() <= POSITION_LIMIT as f64,
            };
            if !inside {
                return Err(Error::PositionOutOfRange {
                    index,
                    position,
                    limit: POSITION_LIMIT as usize,
                });
            }
            if largest.is_none_or(|(_, before)| before < position) {
                largest = Some((index, position));
            }
        }
        Ok(Self {
            source: P::source(super::upload(stream, positions)?),
            axes,
            tokens: positions.len() / axes,
            trust: Trust::Validated,
            largest,
        })
    }

    /// Token `t` of `tokens` stands at `first + t`. Needs no device memory.
    ///
    /// # Errors
    /// [`Error::PositionOutOfRange`] when the last position is 2^36 or above.
    pub fn range(first: usize, tokens: usize) -> Result<Self, Error> {
        let largest = match tokens {
            0 => None,
            _ => Some(Self::last_of(tokens - 1, first, tokens)?),
        };
        Ok(Self {
            source: Source::Range {
                first: i64::try_from(first).unwrap_or(0),
            },
            axes: 1,
            tokens,
            trust: Trust::Validated,
            largest,
        })
    }

    /// Token `i` of packed sequence `s` stands at `offsets[s] + i`: `offsets` `[sequences]` are how many tokens each sequence
    /// had before. Uploaded on `stream`.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] when there are not as many offsets as sequences, [`Error::PositionOutOfRange`] when a
    /// position is 2^36 or above, [`Error::Driver`] when the upload fails.
    pub fn packed(
        stream: &Arc<CudaStream>,
        sequences: &CuSeqlens,
        offsets: &[usize],
    ) -> Result<Self, Error> {
        check::extent("offsets", "sequences", offsets.len(), sequences.sequences())?;
        let mut largest: Option<(usize, Number)> = None;
        let mut device = vec![0i64];
        for (range, &offset) in sequences.ranges().zip(offsets) {
            device.push(range.end as i64);
            if range.is_empty() {
                continue;
            }
            let last = Self::last_of(range.end - 1, offset, range.len())?;
            if largest.is_none_or(|(_, before)| before < last.1) {
                largest = Some(last);
            }
        }
        device.extend(offsets.iter().map(|&offset| offset as i64));
        Ok(Self {
            source: Source::Packed {
                device: stream.clone_htod(&device)?,
                sequences: offsets.len(),
            },
            axes: 1,
            tokens: sequences.total(),
            trust: Trust::Validated,
            largest,
        })
    }

    /// Positions `[axes, tokens]` that are on the device already, and that the kernel checks: a token with a position that is
    /// negative, too large, not a number or past a table's end is left out, and told of through
    /// [`IndexFaults`](super::IndexFaults), which the operation then needs.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for axes that are none or more than 4, [`Error::ShapeMismatch`] when `device` is too short.
    pub fn checked_on_device<P: Position>(
        device: CudaSlice<P>,
        axes: usize,
        tokens: usize,
    ) -> Result<Self, Error> {
        Self::on_device(device, axes, tokens, Trust::Checked)
    }

    /// Positions `[axes, tokens]` that are on the device already, and that nobody checks.
    ///
    /// # Safety
    /// When a kernel runs that is given them, every position must be what a [`Position`] may be, and below the number of
    /// positions of the table that the same call is given, if it is given one: the kernel reads the table there.
    ///
    /// # Errors
    /// As [`Positions::checked_on_device`].
    #[allow(unsafe_code)]
    pub unsafe fn from_device_unchecked<P: Position>(
        device: CudaSlice<P>,
        axes: usize,
        tokens: usize,
    ) -> Result<Self, Error> {
        Self::on_device(device, axes, tokens, Trust::Promised)
    }

    fn on_device<P: Position>(
        device: CudaSlice<P>,
        axes: usize,
        tokens: usize,
        trust: Trust,
    ) -> Result<Self, Error> {
        check_axes(axes)?;
        super::check_holds("positions", &device, axes.saturating_mul(tokens))?;
        Ok(Self {
            source: P::source(device),
            axes,
            tokens,
            trust,
            largest: None,
        })
    }

    /// The last of `count` positions from `first` on, with the index of its token.
    fn last_of(index: usize, first: usize, count: usize) -> Result<(usize, Number), Error> {
        let last = first.saturating_add(count - 1);
        let position = i64::try_from(last).unwrap_or(i64::MAX);
        if position < POSITION_LIMIT {
            return Ok((index, Number::Whole(position)));
        }
        Err(Error::PositionOutOfRange {
            index,
            position: Number::Whole(position),
            limit: POSITION_LIMIT as usize,
        })
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens
    }

    /// True when there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.tokens == 0
    }

    /// Positions of each token.
    pub fn axes(&self) -> usize {
        self.axes
    }

    /// True for `f32` and `f64`.
    pub fn is_real(&self) -> bool {
        matches!(self.source, Source::F32(_) | Source::F64(_))
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    pub(crate) fn is_checked(&self) -> bool {
        self.trust == Trust::Checked
    }

    /// Checks that every position that the host has seen is below `limit`.
    pub(crate) fn check_below(&self, limit: usize) -> Result<(), Error> {
        match self.largest {
            Some((index, position @ Number::Whole(whole))) if whole as usize >= limit => {
                Err(Error::PositionOutOfRange {
                    index,
                    position,
                    limit,
                })
            }
            _ => Ok(()),
        }
    }
}

fn check_axes(axes: usize) -> Result<(), Error> {
    if (1..=4).contains(&axes) {
        return Ok(());
    }
    Err(Error::InvalidOption {
        name: "axes",
        value: axes as f64,
        requirement: "must be 1 to 4",
    })
}
