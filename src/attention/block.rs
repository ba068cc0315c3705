//! From a checked call to a launch: binds the operands and writes the parameter block. Here options become what the
//! kernels read: null pointers, zeros and [`FFLASH_UNBOUNDED`].

use cudarc::driver::CudaStream;

use super::call::{Call, Lengths, MAX_SEQLEN, Problem, Queries, VECTOR_BYTES};
use super::plan;
use super::prefill::{Bias, Prefill, PrefillOptions};
use crate::check;
use crate::dtype::{DType, Float};
use crate::error::Error;
use crate::kernels::Kernels;
use crate::launch::params::{
    FFLASH_DTYPE_BF16, FFLASH_DTYPE_F16, FFLASH_DTYPE_F32, FFLASH_UNBOUNDED, fflash_logits,
    fflash_mask, fflash_prefill_params, fflash_requests, fflash_strides4,
};
use crate::launch::{Bound, Launcher, optional, optional_mut};
use crate::metadata::Contents;
use crate::tensor::Layout;
use crate::variant::Variant;

impl<T: Float> Call<'_, T> {
    /// Checks, plans and launches.
    pub(super) fn launch(
        mut self,
        kernels: &Kernels,
        stream: &CudaStream,
        op: &Prefill,
    ) -> Result<(), Error> {
        let (desc, problem) = self.check(op)?;
        let launcher = Launcher::new(kernels, stream)?;
        let kind = plan::kind(&desc);
        let group_size = problem.num_qo_heads / problem.num_kv_heads.max(1);
        let pack = self.pack(op, &problem, plan::tile_of(kind).0);
        let layouts = [*self.queries.q(), *self.k.layout(), *self.v.layout()];
        let o_layout = *self.queries.o();
        let lse_layout = self.lse.as_ref().map(|lse| *lse.layout());

        let k = launcher.read("k", &self.k)?;
        let v = launcher.read("v", &self.v)?;
        let (q, o) = match &mut self.queries {
            Queries::Apart { q, o } => (Some(launcher.read("q", q)?), launcher.write("o", o)?),
            Queries::InPlace { qo } => (None, launcher.write("qo", qo)?),
        };
        let lse = self
            .lse
            .as_mut()
            .map(|lse| launcher.write("lse", lse))
            .transpose()?;
        for (operand, bound) in [
            ("q", q.as_ref().unwrap_or(&o)),
            ("k", &k),
            ("v", &v),
            ("o", &o),
        ] {
            bound.check_aligned(operand, VECTOR_BYTES)?;
        }
        let (requests, lengths) = requests(launcher, &mut self.lengths, &problem, layouts[1])?;
        let (mask, masks) = mask(launcher, op, &self.options)?;
        let scale = op.scale_for(desc.head_dim);
        let (logits, logit_operands) = logits(launcher, op, scale, &self.options)?;
        let Some(geometry) = plan::geometry(kind, &problem, pack)? else {
            return Ok(());
        };
        let block = fflash_prefill_params {
            q: q.as_ref().unwrap_or(&o).as_ptr(),
            k: k.as_ptr(),
            v: v.as_ptr(),
            o: o.as_mut_ptr(),
            lse: optional_mut(lse.as_ref()),
            q_strides: strides(&layouts[0]),
            k_strides: strides(&layouts[1]),
            v_strides: strides(&layouts[2]),
            o_strides: strides(&o_layout),
            lse_batch_stride: optional_stride(lse_layout.as_ref(), 0),
            lse_head_stride: optional_stride(lse_layout.as_ref(), 1),
            lse_seqlen_stride: optional_stride(lse_layout.as_ref(), 2),
            requests,
            mask,
            logits,
            num_qo_heads: problem.num_qo_heads,
            num_kv_heads: problem.num_kv_heads,
            group_size,
            head_dim: problem.head_dim,
            head_dim_v: problem.head_dim_v,
            is_f32: (T::DTYPE == DType::F32).into(),
            pack: plan::divisor(pack as u32),
        };
        let variant = Variant::Prefill {
            dtype: plan::compute_dtype(T::DTYPE),
            kind,
        };
        let [a, b, c, d] = lengths;
        let [e, f, g] = masks;
        let [h, i, j] = logit_operands;
        let tensors = [q, Some(k), Some(v), Some(o), lse];
        let [q, k, v, o, lse] = tensors;
        let operands = [q, k, v, o, lse, a, b, c, d, e, f, g, h, i, j];
        launcher.submit(variant, geometry, &block, operands)
    }

    /// Heads of a group that share the rows of a block.
    fn pack(&self, op: &Prefill, problem: &Problem, block_m: u64) -> u64 {
        let group_size = (problem.num_qo_heads / problem.num_kv_heads.max(1)).max(1) as u64;
        match self.lengths.cu_seqlens_q() {
            Some(lengths) => {
                let lengths = lengths.ranges().map(|range| range.len() as u64);
                plan::pack(op.mask, group_size, block_m, lengths)
            }
            None => {
                let seqlen = [problem.seqlen_q as u64];
                plan::pack(op.mask, group_size, block_m, seqlen.into_iter())
            }
        }
    }
}

/// Lengths and pages; `k` is the layout of the keys.
fn requests<'a>(
    launcher: Launcher<'a>,
    lengths: &'a mut Lengths<'_>,
    problem: &Problem,
    k: Layout<4>,
) -> Result<(fflash_requests, [Option<Bound<'a>>; 4]), Error> {
    let mut requests = fflash_requests {
        cu_seqlens_q: std::ptr::null(),
        cu_seqlens_k: std::ptr::null(),
        kv_lens: std::ptr::null(),
        page_table: std::ptr::null(),
        page_error: std::ptr::null_mut(),
        page_table_stride: 0,
        page_size: plan::divisor(1),
        num_pages: 0,
        batch: problem.batch,
        seqlen_q: problem.seqlen_q,
        seqlen_k: problem.seqlen_k,
    };
    let mut operands = [None, None, None, None];
    match lengths {
        Lengths::Dense => {}
        Lengths::Packed { q, k } => {
            let q = launcher.read_slice("cu_seqlens_q", q.device())?;
            let k = launcher.read_slice("cu_seqlens_k", k.device())?;
            requests.cu_seqlens_q = q.as_ptr();
            requests.cu_seqlens_k = k.as_ptr();
            operands = [Some(q), Some(k), None, None];
        }
        Lengths::Paged { q, pages, error } => {
            let q = launcher.read_slice("cu_seqlens_q", q.device())?;
            let table = launcher.read_slice("page_table", pages.table())?;
            let lens = launcher.read_slice("kv_lens", pages.kv_lens())?;
            let error = error
                .as_mut()
                .map(|error| launcher.write("page_error", error))
                .transpose()?;
            requests.cu_seqlens_q = q.as_ptr();
            requests.page_table = table.as_ptr();
            requests.kv_lens = lens.as_ptr();
            requests.page_error = optional_mut(error.as_ref());
            requests.page_table_stride = pages.max_pages() as i64;
            requests.page_size = plan::divisor(pages.page_size() as u32);
            requests.num_pages = match pages.contents() {
                Contents::Trusted => i32::MAX,
                Contents::Validated { .. } | Contents::Unknown => k.shape()[0] as i32,
            };
            operands = [Some(q), Some(table), Some(lens), error];
        }
    }
    Ok((requests, operands))
}

fn mask<'a>(
    launcher: Launcher<'a>,
    op: &Prefill,
    options: &'a PrefillOptions<'_>,
) -> Result<(fflash_mask, [Option<Bound<'a>>; 3]), Error> {
    let prefixes = options.prefix_lens.as_ref();
    let bits = options.bit_mask.as_ref();
    let blocks = options.block_mask;
    let bound_prefixes = prefixes
        .map(|view| launcher.read("prefix_lens", view))
        .transpose()?;
    let bound_bits = bits
        .map(|view| launcher.read("bit_mask", view))
        .transpose()?;
    let bound_blocks = blocks
        .map(|blocks| launcher.read_slice("block_mask", blocks.device()))
        .transpose()?;
    let (left, right) = op.mask.window();
    let chunk = op.mask.chunk().map(|size| size.get());
    let bits_stride = |axis| optional_stride(bits.map(|view| view.layout()), axis);
    let [batch, head, row] = blocks.map_or([0; 3], |blocks| blocks.strides());
    let (block_q, block_k) = blocks.map_or((1, 1), |blocks| {
        let shape = blocks.shape();
        (shape.block_q.get(), shape.block_k.get())
    });
    let mask = fflash_mask {
        window_left: bound(left),
        window_right: bound(right),
        // A chunk longer than any sequence is one chunk.
        chunk: chunk.map_or(0, |chunk| chunk.min(MAX_SEQLEN as u32) as i32),
        sink_tokens: op.sink_tokens.min(MAX_SEQLEN as u32) as i32,
        prefix_lens: optional(bound_prefixes.as_ref()),
        prefix_lens_stride: optional_stride(prefixes.map(|view| view.layout()), 0),
        bits: optional(bound_bits.as_ref()),
        bits_batch_stride: bits_stride(0),
        bits_seqlen_stride: bits_stride(1),
        blocks: optional(bound_blocks.as_ref()),
        blocks_batch_stride: batch,
        blocks_head_stride: head,
        blocks_row_stride: row,
        block_q: plan::divisor(block_q),
        block_k: plan::divisor(block_k),
    };
    Ok((mask, [bound_prefixes, bound_bits, bound_blocks]))
}

fn logits<'a>(
    launcher: Launcher<'a>,
    op: &Prefill,
    softmax_scale: f32,
    options: &'a PrefillOptions<'_>,
) -> Result<(fflash_logits, [Option<Bound<'a>>; 3]), Error> {
    let (sinks, slopes) = (options.sinks.as_ref(), options.alibi_slopes.as_ref());
    let bias = options.bias.as_ref();
    let bound_sinks = sinks.map(|view| launcher.read("sinks", view)).transpose()?;
    let bound_slopes = slopes
        .map(|view| launcher.read("alibi_slopes", view))
        .transpose()?;
    let bound_bias = bias
        .map(|bias| match bias {
            Bias::F16(view) => launcher.read("bias", view),
            Bias::BF16(view) => launcher.read("bias", view),
            Bias::F32(view) => launcher.read("bias", view),
        })
        .transpose()?;
    let slope_stride = |axis| optional_stride(slopes.map(|view| view.layout()), axis);
    let bias_stride = |axis| optional_stride(bias.map(Bias::layout), axis);
    let logits = fflash_logits {
        softmax_scale,
        softcap: op.softcap.unwrap_or(0.0),
        sinks: optional(bound_sinks.as_ref()),
        sinks_stride: optional_stride(sinks.map(|view| view.layout()), 0),
        alibi_slopes: optional(bound_slopes.as_ref()),
        alibi_batch_stride: slope_stride(0),
        alibi_head_stride: slope_stride(1),
        bias: optional(bound_bias.as_ref()),
        bias_batch_stride: bias_stride(0),
        bias_head_stride: bias_stride(1),
        bias_seqlen_stride: bias_stride(2),
        bias_key_stride: bias_stride(3),
        bias_dtype: match bias.map(Bias::dtype) {
            Some(DType::F16) => FFLASH_DTYPE_F16,
            Some(DType::BF16) => FFLASH_DTYPE_BF16,
            _ => FFLASH_DTYPE_F32,
        } as i32,
    };
    Ok((logits, [bound_sinks, bound_slopes, bound_bias]))
}

fn strides(layout: &Layout<4>) -> fflash_strides4 {
    fflash_strides4 {
        batch: check::stride(layout, 0),
        seqlen: check::stride(layout, 1),
        heads: check::stride(layout, 2),
    }
}

/// The stride of an axis of an operand that may be absent.
fn optional_stride<const R: usize>(layout: Option<&Layout<R>>, axis: usize) -> i64 {
    layout.map_or(0, |layout| check::stride(layout, axis))
}

/// A window bound as the parameter block holds it. A window longer than any sequence bounds nothing.
fn bound(window: Option<u32>) -> i32 {
    let keys = window.filter(|&keys| (keys as usize) < MAX_SEQLEN);
    keys.unwrap_or(FFLASH_UNBOUNDED) as i32
}
