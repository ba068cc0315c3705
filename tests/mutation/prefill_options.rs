//! Launches of the prefill kernels that have every option.

use ferroflash::{
    Bias, BlockMask, BlockShape, CuSeqlens, Float, Mask, PageLayout, PageTable, Prefill,
    PrefillOptions, PrefillPagedArgs, PrefillVarlenArgs, TensorView, TensorViewMut,
};
use half::{bf16, f16};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Device, Result, Tensor};

/// Two requests, packed or in pages, with every option by turns, of heads for each of the kernels that have them.
pub fn all<T: Float>(device: &Device) -> Result<()> {
    let size = |n: u32| n.try_into().expect("not 0");
    let masks = [
        Mask::Causal,
        Mask::Window {
            left: Some(9),
            right: Some(4),
        },
        Mask::Chunked {
            size: size(11),
            causal: false,
        },
        Mask::PrefixLm,
        Mask::Full,
    ];
    for (turn, mask) in masks.into_iter().enumerate() {
        let op = Prefill {
            mask,
            sink_tokens: [0, 3][turn % 2],
            softmax_scale: [None, Some(-0.2)][turn / 2 % 2],
            softcap: [None, Some(3.0)][turn / 3 % 2],
        };
        for (head_dim, head_dim_v) in [(40, 64), (72, 128), (248, 256), (576, 512)] {
            options_case::<T>(device, &op, turn, head_dim, head_dim_v)?;
        }
    }
    // Rows that end in each pass of the copies, and every head dimension of a square.
    for (rows, head_dim_v) in [(15, 8), (16, 120), (17, 264), (33, 504)] {
        let q = Tensor::<T, 3>::new(device, [rows, 3, 24], 0, 1.0)?;
        let k = Tensor::<T, 3>::new(device, [19, 1, 24], 0, 1.0)?;
        let v = Tensor::<T, 3>::new(device, [19, 1, head_dim_v], 0, 1.0)?;
        packed(
            device,
            &Prefill::default(),
            &q,
            &k,
            &v,
            [&[rows], &[19]],
            PrefillOptions::default(),
        )?;
    }
    Ok(())
}

fn options_case<T: Float>(
    device: &Device,
    op: &Prefill,
    turn: usize,
    head_dim: usize,
    head_dim_v: usize,
) -> Result<()> {
    const Q_LENS: [usize; 2] = [37, 9];
    const K_LENS: [usize; 2] = [21, 60];
    let stream = &device.stream;
    let size = |n: u32| n.try_into().expect("not 0");
    let q = Tensor::<T, 3>::new(device, [46, 4, head_dim], 8, 1.0)?;
    let k = Tensor::<T, 3>::new(device, [81, 2, head_dim], 8, 1.0)?;
    let v = Tensor::<T, 3>::new(device, [81, 2, head_dim_v], 8, 2.0)?;
    let sinks = Tensor::<f32, 1>::new(device, [4], 0, 2.0)?;
    let slopes = Tensor::<f32, 2>::new(device, [2, 4], 1, 0.2)?;
    let biases = (
        Tensor::<f16, 4>::new(device, [1, 4, 46, 64], 3, 1.0)?,
        Tensor::<bf16, 4>::new(device, [1, 4, 46, 64], 0, 1.0)?,
        Tensor::<f32, 4>::new(device, [1, 4, 46, 64], 1, 1.0)?,
    );
    let prefixes = stream.clone_htod(&[5, 70])?;
    let mut random = StdRng::seed_from_u64(turn as u64);
    let bits: Vec<u8> = (0..46 * 8).map(|_| random.random()).collect();
    let bits = stream.clone_htod(&bits)?;
    let shape = BlockShape {
        block_q: size(5),
        block_k: size(7),
        query_blocks: 10,
        key_blocks: 40,
    };
    let (mut offsets, mut listed) = (vec![0], Vec::new());
    for _ in 0..2 * 2 * shape.query_blocks {
        listed.extend((0..shape.key_blocks).filter(|_| random.random_bool(0.4)));
        offsets.push(listed.len());
    }
    let blocks = BlockMask::new(stream, shape, 2, 2, &offsets, &listed)?;
    let options = || -> Result<PrefillOptions<'_>> {
        Ok(PrefillOptions {
            sinks: (turn != 1).then(|| sinks.view()).transpose()?,
            alibi_slopes: turn.is_multiple_of(2).then(|| slopes.view()).transpose()?,
            bias: match turn {
                0 => Some(Bias::F16(biases.0.view()?)),
                1 => Some(Bias::BF16(biases.1.view()?)),
                2 => Some(Bias::F32(biases.2.view()?)),
                _ => None,
            },
            prefix_lens: match op.mask {
                Mask::PrefixLm => Some(TensorView::contiguous(prefixes.as_view(), [2])?),
                _ => None,
            },
            bit_mask: match turn {
                2 | 3 => Some(TensorView::contiguous(bits.as_view(), [1, 46, 8])?),
                _ => None,
            },
            block_mask: (turn > 2).then_some(&blocks),
        })
    };
    packed(device, op, &q, &k, &v, [&Q_LENS, &K_LENS], options()?)?;
    paged(
        device,
        op,
        &q,
        [&Q_LENS, &K_LENS],
        [head_dim, head_dim_v],
        options()?,
    )
}

fn packed<T: Float>(
    device: &Device,
    op: &Prefill,
    q: &Tensor<T, 3>,
    k: &Tensor<T, 3>,
    v: &Tensor<T, 3>,
    [q_lens, k_lens]: [&[usize]; 2],
    options: PrefillOptions<'_>,
) -> Result<()> {
    let [tokens, heads, _] = q.layout.shape();
    let head_dim_v = v.layout.shape()[2];
    let mut o = Tensor::<T, 3>::new(device, [tokens, heads, head_dim_v], 8, 55.0)?;
    let mut lse = Tensor::<f32, 2>::new(device, [heads, tokens], 1, 55.0)?;
    let cu_seqlens_q = CuSeqlens::from_lengths(&device.stream, q_lens)?;
    let cu_seqlens_k = CuSeqlens::from_lengths(&device.stream, k_lens)?;
    let args = PrefillVarlenArgs {
        q: q.view()?,
        k: k.view()?,
        v: v.view()?,
        o: o.view_mut()?,
        lse: Some(lse.view_mut()?),
        cu_seqlens_q: &cu_seqlens_q,
        cu_seqlens_k: &cu_seqlens_k,
        options,
    };
    Ok(device.kernels.prefill_varlen(&device.stream, op, args)?)
}

/// Pages of 6 keys, of which one does not exist.
fn paged<T: Float>(
    device: &Device,
    op: &Prefill,
    q: &Tensor<T, 3>,
    [q_lens, k_lens]: [&[usize]; 2],
    [head_dim, head_dim_v]: [usize; 2],
    options: PrefillOptions<'_>,
) -> Result<()> {
    let stream = &device.stream;
    let [tokens, heads, _] = q.layout.shape();
    let k = Tensor::<T, 4>::new(device, [16, 2, 6, head_dim], 0, 1.0)?;
    let v = Tensor::<T, 4>::new(device, [16, 2, 6, head_dim_v], 8, 1.0)?;
    let mut o = Tensor::<T, 3>::new(device, [tokens, heads, head_dim_v], 0, 55.0)?;
    let table: Vec<i32> = (0..20).map(|i| i * 7 % 17).collect();
    let lens: Vec<i32> = k_lens.iter().map(|&len| len as i32).collect();
    let pages =
        PageTable::from_device(6, 10, stream.clone_htod(&table)?, stream.clone_htod(&lens)?)?;
    let mut error = stream.alloc_zeros::<i32>(1)?;
    let cu_seqlens_q = CuSeqlens::from_lengths(stream, q_lens)?;
    let args = PrefillPagedArgs {
        q: q.view()?,
        k_cache: k.view()?,
        v_cache: v.view()?,
        layout: PageLayout::Hnd,
        o: o.view_mut()?,
        lse: None,
        cu_seqlens_q: &cu_seqlens_q,
        pages: &pages,
        page_error: Some(TensorViewMut::contiguous(error.as_view_mut(), [1])?),
        options,
    };
    Ok(device.kernels.prefill_paged(stream, op, args)?)
}
