//! Everything about a call of RoPE that can be known without an address.

use super::args::{CacheScale, CacheWrite, Heads, RopeArgs};
use super::{Frequencies, MAX_PAIRS, Rope};
use crate::check;
use crate::dtype::Float;
use crate::error::{Error, Unsupported};
use crate::metadata::POSITION_LIMIT;

/// Sizes of a call that fits together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) tokens: usize,
    pub(crate) head_dim: usize,
    pub(crate) rotary_pairs: usize,
    /// One past the largest position allowed.
    pub(crate) position_limit: i64,
}

/// Checks shapes, options and indices.
pub(crate) fn check<T: Float>(op: &Rope, args: &RopeArgs<'_, T>) -> Result<Sizes, Error> {
    let [tokens, _, head_dim] = args.q.shape();
    check_heads("q", &args.q, tokens, head_dim)?;
    if let Some(k) = &args.k {
        check_heads("k", k, tokens, head_dim)?;
    }
    op.check_rotated(head_dim)?;
    let rotary_pairs = op.rotary_dim.unwrap_or(head_dim) / 2;
    op.check_options(rotary_pairs, args.positions.is_real())?;
    check::extent("positions", "tokens", args.positions.len(), tokens)?;
    check::extent("positions", "axes", args.positions.axes(), op.axes.count())?;
    let position_limit = check_table(op, args, rotary_pairs)?;
    check_weights(op, args, head_dim)?;
    if let Some(cache) = &args.cache {
        let Some(k) = &args.k else {
            return Err(Error::OperandMissing {
                operand: "k",
                option: "the cache is written",
            });
        };
        check_cache(cache, k.shape())?;
    }
    check_destinations(args)?;
    Ok(Sizes {
        tokens,
        head_dim,
        rotary_pairs,
        position_limit,
    })
}

fn check_heads<T>(
    operand: &'static str,
    heads: &Heads<'_, T>,
    tokens: usize,
    head_dim: usize,
) -> Result<(), Error> {
    let shape = heads.shape();
    check::extent(operand, "tokens", shape[0], tokens)?;
    check::extent(operand, "head_dim", shape[2], head_dim)?;
    check::last_contiguous(operand, heads.layout())?;
    if let Heads::Into { out, .. } = heads {
        let operand = if operand == "q" { "q out" } else { "k out" };
        for (axis, name) in ["tokens", "heads", "head_dim"].into_iter().enumerate() {
            check::extent(operand, name, out.shape()[axis], shape[axis])?;
        }
        check::last_contiguous(operand, out.layout())?;
    }
    Ok(())
}

impl Rope {
    /// Checks where the rotated part lies in the head.
    pub(super) fn check_rotated(&self, head_dim: usize) -> Result<(), Unsupported> {
        let rotary_dim = self.rotary_dim.unwrap_or(head_dim);
        let limit = 2 * MAX_PAIRS;
        if rotary_dim == 0 || !rotary_dim.is_multiple_of(2) || rotary_dim > head_dim.min(limit) {
            return Err(Unsupported::RotaryDim {
                rotary_dim,
                head_dim,
                limit,
            });
        }
        if self.rotary_offset > head_dim - rotary_dim {
            return Err(Unsupported::RotaryOffset {
                rotary_offset: self.rotary_offset,
                rotary_dim,
                head_dim,
            });
        }
        Ok(())
    }

    /// Checks what does not depend on shapes beyond the number of pairs.
    pub(super) fn check_options(&self, pairs: usize, real_positions: bool) -> Result<(), Error> {
        self.axes.check(pairs)?;
        match &self.frequencies {
            &Frequencies::Base { base, scale } => {
                check::option("base", base, "must be finite and positive", |base| {
                    base > 0.0
                })?;
                check::option("scale", scale, "must be finite", |_| true)?;
            }
            Frequencies::Explicit(radians) => {
                check::extent("inv_freq", "pairs", radians.len(), pairs)?;
            }
            Frequencies::Table => {
                if real_positions {
                    return Err(Unsupported::Combination {
                        op: "rope",
                        first: "real positions",
                        second: "Frequencies::Table",
                    }
                    .into());
                }
            }
        }
        if let Some(norm) = &self.norm {
            let eps = f64::from(norm.eps);
            check::option("eps", eps, "must be finite and not negative", |eps| {
                eps >= 0.0
            })?;
        }
        let frequencies = self.axes.frequencies(&self.frequencies, pairs);
        if let (true, Some(frequencies)) = (real_positions, frequencies) {
            for radians in frequencies.radians() {
                // The kernel multiplies the fraction of a position by turns in (-1/2, 1/2).
                check::option(
                    "inv_freq",
                    radians,
                    "must be below half a turn per position where positions are real",
                    |radians| radians.abs() < std::f64::consts::PI,
                )?;
            }
        }
        Ok(())
    }
}

/// Returns one past the largest position allowed.
fn check_table<T: Float>(op: &Rope, args: &RopeArgs<'_, T>, pairs: usize) -> Result<i64, Error> {
    match (&op.frequencies, &args.table) {
        (Frequencies::Table, Some(table)) => {
            let [positions, parts, table_pairs] = table.layout().shape();
            check::extent("table", "parts", parts, 2)?;
            check::extent("table", "pairs", table_pairs, pairs)?;
            check::last_contiguous("table", table.layout())?;
            args.positions.check_below(positions)?;
            Ok(i64::try_from(positions).map_or(POSITION_LIMIT, |limit| limit.min(POSITION_LIMIT)))
        }
        (Frequencies::Table, None) | (_, Some(_)) => Err(Error::TableMismatch),
        (_, None) => Ok(POSITION_LIMIT),
    }
}

fn check_weights<T: Float>(
    op: &Rope,
    args: &RopeArgs<'_, T>,
    head_dim: usize,
) -> Result<(), Error> {
    let Some(weights) = &args.weights else {
        return Ok(());
    };
    let of = [("q weight", &weights.q), ("k weight", &weights.k)];
    for (operand, weight) in of {
        let Some(weight) = weight else { continue };
        if op.norm.is_none() {
            return Err(Error::OperandUnused {
                operand,
                option: "no norm is asked for",
            });
        }
        check::extent(operand, "head_dim", weight.shape()[0], head_dim)?;
        check::last_contiguous(operand, weight.layout())?;
    }
    if weights.k.is_some() && args.k.is_none() {
        return Err(Error::OperandUnused {
            operand: "k weight",
            option: "there is no k",
        });
    }
    Ok(())
}

fn check_cache<T: Float>(cache: &CacheWrite<'_, T>, k: [usize; 3]) -> Result<(), Error> {
    let [tokens, heads, head_dim] = k;
    for (axis, name) in ["tokens", "heads", "head_dim"].into_iter().enumerate() {
        check::extent("v", name, cache.v.shape()[axis], k[axis])?;
    }
    check::last_contiguous("v", cache.v.layout())?;
    check::extent("slots", "tokens", cache.slots.len(), tokens)?;
    let [page_axis, token_axis, head_axis] = cache.layout.axes();
    let layouts = cache.pages.layouts();
    let (num_pages, page_size) = (
        layouts[0].shape()[page_axis],
        layouts[0].shape()[token_axis],
    );
    for (operand, layout) in ["k pages", "v pages"].into_iter().zip(&layouts) {
        let shape = layout.shape();
        check::extent(operand, "num_pages", shape[page_axis], num_pages)?;
        check::extent(operand, "page_size", shape[token_axis], page_size)?;
        check::extent(operand, "heads", shape[head_axis], heads)?;
        check::extent(operand, "head_dim", shape[3], head_dim)?;
        check::last_contiguous(operand, layout)?;
    }
    cache
        .slots
        .check_below(num_pages.saturating_mul(page_size))?;
    for (operand, scale) in ["k scale", "v scale"]
        .into_iter()
        .zip(cache.pages.scales().into_iter().flatten())
    {
        match scale {
            CacheScale::Tensor(scale) => {
                let inverse = f64::from(1.0 / scale);
                check::option(
                    operand,
                    f64::from(*scale),
                    "must be positive, and so must be 1 / scale",
                    |scale| scale > 0.0 && inverse.is_finite() && inverse > 0.0,
                )?;
            }
            CacheScale::PerHead(scales) => {
                check::extent(operand, "heads", scales.shape()[0], heads)?
            }
        }
    }
    Ok(())
}

/// Checks that q and k go somewhere, and that there is a word for what is checked on the device.
fn check_destinations<T: Float>(args: &RopeArgs<'_, T>) -> Result<(), Error> {
    if let Heads::ToCache(_) = args.q {
        return Err(Error::OperandMissing {
            operand: "q out",
            option: "queries are not cached",
        });
    }
    if matches!(args.k, Some(Heads::ToCache(_))) && args.cache.is_none() {
        return Err(Error::OperandMissing {
            operand: "cache",
            option: "k goes there only",
        });
    }
    if args.faults.is_some() {
        return Ok(());
    }
    let slots_are_checked = args
        .cache
        .as_ref()
        .is_some_and(|cache| cache.slots.is_checked());
    for (is_checked, option) in [
        (
            args.positions.is_checked(),
            "positions are checked on the device",
        ),
        (slots_are_checked, "slots are checked on the device"),
    ] {
        if is_checked {
            return Err(Error::OperandMissing {
                operand: "faults",
                option,
            });
        }
    }
    Ok(())
}
