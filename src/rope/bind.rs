//! From operands to the parameter block.

use super::args::{CacheScale, CacheWrite, Heads, KvPages, QuantisedPages, RopeArgs, RopeTable};
use super::check::Sizes;
use super::{Direction, Frequencies, Rope, RopeStyle};
use crate::check::{self, MAX_COUNT};
use crate::dtype::{Element, Float};
use crate::error::Error;
use crate::launch::params::*;
use crate::launch::{Bound, Launcher, optional, optional_mut};
use crate::metadata::{PageLayout, Positions, Source};
use crate::norm::WeightForm;
use crate::tensor::{Layout, TensorView, TensorViewMut};

/// A parameter block, and what it holds addresses of.
pub(super) struct Call<'a> {
    pub(super) block: fflash_rope_params,
    pub(super) operands: Vec<Option<Bound<'a>>>,
}

const NO_STRIDES: fflash_strides3 = fflash_strides3 {
    tokens: 0,
    heads: 0,
};

pub(super) const NO_HEADS: fflash_rope_heads = fflash_rope_heads {
    x: std::ptr::null(),
    out: std::ptr::null_mut(),
    weight: std::ptr::null(),
    x_strides: NO_STRIDES,
    out_strides: NO_STRIDES,
    heads: 0,
    threads: 0,
};

pub(super) const NO_PAGES: fflash_rope_pages = fflash_rope_pages {
    pages: std::ptr::null_mut(),
    scales: std::ptr::null(),
    page_stride: 0,
    token_stride: 0,
    head_stride: 0,
    scale_stride: 0,
    inverse_scale: 1.0,
    reserved: 0.0,
};

/// Binds every operand. `args` fit `op` and have `sizes`.
pub(super) fn bind<'a, T: Float>(
    launcher: Launcher<'a>,
    op: &Rope,
    args: &'a mut RopeArgs<'_, T>,
    sizes: &Sizes,
) -> Result<Call<'a>, Error> {
    let mut call = Call {
        block: options(op, args, sizes)?,
        operands: Vec::with_capacity(16),
    };
    let weights = args.weights.as_ref();
    let q_weight = weights.and_then(|weights| weights.q.as_ref());
    let k_weight = weights.and_then(|weights| weights.k.as_ref());
    call.heads(launcher, 0, ["q", "q out"], &mut args.q)?;
    call.weight(launcher, 0, "q weight", q_weight)?;
    if let Some(k) = &mut args.k {
        call.heads(launcher, 1, ["k", "k out"], k)?;
        call.weight(launcher, 1, "k weight", k_weight)?;
    }
    call.positions(launcher, args.positions)?;
    if let Some(table) = &args.table {
        call.table(launcher, table)?;
    }
    if let Some(cache) = &mut args.cache {
        call.cache(launcher, cache)?;
    }
    let slots_are_checked = call.block.check_slots != 0;
    if let (true, Some(faults)) = (
        args.positions.is_checked() || slots_are_checked,
        &mut args.faults,
    ) {
        let faults = launcher.write_slice("faults", faults.device_mut())?;
        call.block.faults = faults.as_mut_ptr();
        call.operands.push(Some(faults));
    }
    Ok(call)
}

/// Everything but addresses and strides.
fn options<T: Float>(
    op: &Rope,
    args: &RopeArgs<'_, T>,
    sizes: &Sizes,
) -> Result<fflash_rope_params, Error> {
    let frequencies = op.axes.frequencies(&op.frequencies, sizes.rotary_pairs);
    let factor = frequencies
        .as_ref()
        .map_or(1.0, |frequencies| frequencies.attention_factor() as f32);
    let head_dim = check::count("q", "head_dim", sizes.head_dim, MAX_COUNT / 4)?;
    Ok(fflash_rope_params {
        heads: [NO_HEADS; 3],
        pages: [NO_PAGES; 2],
        slots: std::ptr::null(),
        positions: std::ptr::null(),
        table: std::ptr::null(),
        faults: std::ptr::null_mut(),
        tokens: check::count("q", "tokens", sizes.tokens, MAX_COUNT)?.into(),
        first_position: 0,
        position_limit: sizes.position_limit,
        num_slots: 0,
        table_position_stride: 0,
        table_part_stride: 0,
        page_size: 1,
        sequences: 0,
        axes: op.axes.count() as i32,
        position_type: FFLASH_POSITIONS_RANGE as i32,
        table_type: FFLASH_TABLE_F32 as i32,
        cache_type: FFLASH_PAGES_SAME as i32,
        check_positions: i32::from(args.positions.is_checked()),
        check_slots: 0,
        head_dim,
        rotary_offset: op.rotary_offset as i32,
        rotary_pairs: sizes.rotary_pairs as i32,
        interleaved: i32::from(op.style == RopeStyle::Interleaved),
        columns: 0,
        lots: 0,
        angle_region: 0,
        normalise: i32::from(op.norm.is_some()),
        cos_factor: factor,
        sin_factor: match op.direction {
            Direction::Forward => factor,
            Direction::Inverse => -factor,
        },
        eps: op.norm.map_or(0.0, |norm| norm.eps),
        weight_offset: match op.norm.map(|norm| norm.weight) {
            Some(WeightForm::OnePlus) => 1.0,
            _ => 0.0,
        },
        inverse_head_dim: 1.0 / head_dim.max(1) as f32,
        cache_joined: 0,
        axis_of_pair: op.axes.map(sizes.rotary_pairs),
        turns: match (&op.frequencies, frequencies) {
            (Frequencies::Table, _) | (_, None) => [0; super::MAX_PAIRS],
            (_, Some(frequencies)) => frequencies.turns(),
        },
    })
}

impl<'a> Call<'a> {
    fn heads<T>(
        &mut self,
        launcher: Launcher<'a>,
        role: usize,
        names: [&'static str; 2],
        heads: &'a mut Heads<'_, T>,
    ) -> Result<(), Error> {
        let into = &mut self.block.heads[role];
        into.heads = check::count(names[0], "heads", heads.shape()[1], MAX_COUNT / 4)?;
        into.x_strides = strides(heads.layout());
        match heads {
            Heads::InPlace(x) => {
                let x = launcher.write(names[0], x)?;
                (into.x, into.out) = (x.as_ptr(), x.as_mut_ptr());
                into.out_strides = into.x_strides;
                self.operands.push(Some(x));
            }
            Heads::Into { x, out } => {
                into.out_strides = strides(out.layout());
                let (x, out) = (launcher.read(names[0], x)?, launcher.write(names[1], out)?);
                (into.x, into.out) = (x.as_ptr(), out.as_mut_ptr());
                self.operands.extend([Some(x), Some(out)]);
            }
            Heads::ToCache(x) => {
                let x = launcher.read(names[0], x)?;
                into.x = x.as_ptr();
                self.operands.push(Some(x));
            }
        }
        Ok(())
    }

    fn weight<T>(
        &mut self,
        launcher: Launcher<'a>,
        role: usize,
        name: &'static str,
        weight: Option<&'a TensorView<'_, T, 1>>,
    ) -> Result<(), Error> {
        let weight = weight
            .map(|weight| launcher.read(name, weight))
            .transpose()?;
        self.block.heads[role].weight = optional(weight.as_ref());
        self.operands.push(weight);
        Ok(())
    }

    fn positions(&mut self, launcher: Launcher<'a>, positions: &'a Positions) -> Result<(), Error> {
        let name = "positions";
        let (kind, bound) = match positions.source() {
            Source::I32(slice) => (FFLASH_POSITIONS_I32, launcher.read_slice(name, slice)?),
            Source::I64(slice) => (FFLASH_POSITIONS_I64, launcher.read_slice(name, slice)?),
            Source::F32(slice) => (FFLASH_POSITIONS_F32, launcher.read_slice(name, slice)?),
            Source::F64(slice) => (FFLASH_POSITIONS_F64, launcher.read_slice(name, slice)?),
            Source::Packed { device, sequences } => {
                self.block.sequences = check::count(name, "sequences", *sequences, MAX_COUNT / 2)?;
                (FFLASH_POSITIONS_PACKED, launcher.read_slice(name, device)?)
            }
            Source::Range { first } => {
                self.block.first_position = *first;
                return Ok(());
            }
        };
        self.block.position_type = kind as i32;
        self.block.positions = bound.as_ptr();
        self.operands.push(Some(bound));
        Ok(())
    }

    fn table(&mut self, launcher: Launcher<'a>, table: &'a RopeTable<'_>) -> Result<(), Error> {
        let (kind, bound) = match table {
            RopeTable::F32(table) => (FFLASH_TABLE_F32, launcher.read("table", table)?),
            RopeTable::F16(table) => (FFLASH_TABLE_F16, launcher.read("table", table)?),
            RopeTable::BF16(table) => (FFLASH_TABLE_BF16, launcher.read("table", table)?),
        };
        let layout = table.layout();
        self.block.table_type = kind as i32;
        self.block.table = bound.as_ptr();
        self.block.table_position_stride = check::stride(layout, 0);
        self.block.table_part_stride = check::stride(layout, 1);
        self.operands.push(Some(bound));
        Ok(())
    }

    fn cache<T: Float>(
        &mut self,
        launcher: Launcher<'a>,
        cache: &'a mut CacheWrite<'_, T>,
    ) -> Result<(), Error> {
        let v = launcher.read("v", &cache.v)?;
        self.block.heads[2] = fflash_rope_heads {
            x: v.as_ptr(),
            x_strides: strides(cache.v.layout()),
            heads: check::count("v", "heads", cache.v.shape()[1], MAX_COUNT / 4)?,
            ..NO_HEADS
        };
        let slots = launcher.read_slice("slots", cache.slots.device())?;
        self.block.slots = slots.as_ptr();
        self.block.check_slots = i32::from(cache.slots.is_checked());
        self.operands.extend([Some(v), Some(slots)]);
        let [pages, tokens, _] = cache.layout.axes();
        let shape = cache.pages.layouts()[0].shape();
        self.block.page_size =
            check::count("k pages", "page_size", shape[tokens].max(1), MAX_COUNT)?;
        // No more than the elements of the pages, which fit.
        self.block.num_slots = (shape[pages] * shape[tokens]) as i64;
        let layout = cache.layout;
        match &mut cache.pages {
            KvPages::Same { k, v } => {
                self.pages(launcher, 0, layout, "k pages", k)?;
                self.pages(launcher, 1, layout, "v pages", v)
            }
            KvPages::E4M3(pages) => {
                self.block.cache_type = FFLASH_PAGES_E4M3 as i32;
                self.quantised(launcher, layout, pages)
            }
            KvPages::E5M2(pages) => {
                self.block.cache_type = FFLASH_PAGES_E5M2 as i32;
                self.quantised(launcher, layout, pages)
            }
        }
    }

    fn quantised<C: Element>(
        &mut self,
        launcher: Launcher<'a>,
        layout: PageLayout,
        pages: &'a mut QuantisedPages<'_, C>,
    ) -> Result<(), Error> {
        self.pages(launcher, 0, layout, "k pages", &mut pages.k)?;
        self.pages(launcher, 1, layout, "v pages", &mut pages.v)?;
        self.scale(launcher, 0, "k scale", &pages.k_scale)?;
        self.scale(launcher, 1, "v scale", &pages.v_scale)
    }

    fn pages<C>(
        &mut self,
        launcher: Launcher<'a>,
        which: usize,
        layout: PageLayout,
        name: &'static str,
        pages: &'a mut TensorViewMut<'_, C, 4>,
    ) -> Result<(), Error> {
        let [page, token, head] = layout.axes();
        let of = *pages.layout();
        let bound = launcher.write(name, pages)?;
        self.block.pages[which] = fflash_rope_pages {
            pages: optional_mut(Some(&bound)),
            page_stride: check::stride(&of, page),
            token_stride: check::stride(&of, token),
            head_stride: check::stride(&of, head),
            ..NO_PAGES
        };
        self.operands.push(Some(bound));
        Ok(())
    }

    fn scale(
        &mut self,
        launcher: Launcher<'a>,
        which: usize,
        name: &'static str,
        scale: &'a CacheScale<'_>,
    ) -> Result<(), Error> {
        let pages = &mut self.block.pages[which];
        match scale {
            CacheScale::Tensor(scale) => pages.inverse_scale = 1.0 / scale,
            CacheScale::PerHead(scales) => {
                let bound = launcher.read(name, scales)?;
                pages.scales = bound.as_ptr();
                pages.scale_stride = check::stride(scales.layout(), 0);
                self.operands.push(Some(bound));
            }
        }
        Ok(())
    }
}

fn strides(layout: &Layout<3>) -> fflash_strides3 {
    fflash_strides3 {
        tokens: check::stride(layout, 0),
        heads: check::stride(layout, 1),
    }
}
