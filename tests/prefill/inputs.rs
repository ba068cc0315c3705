//! What a drawn call reads, on the host.

use std::num::NonZeroU32;

use crate::case::{Case, DrawnBias, DrawnBlocks, Sinks, Storage};
use crate::common::{Arrangement, Host, gpu, normal};
use ferroflash::{BlockMask, BlockShape, DType, Element, Float, Layout, Mask};
use half::{bf16, f16};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Everything a call reads, on the host.
pub struct Inputs<T> {
    /// Request by request: q `[seqlen_q, num_qo_heads, head_dim]`, k, v.
    pub requests: Vec<Request<T>>,
    pub sinks: Option<Host<f32, 1>>,
    pub slopes: Option<Host<f32, 2>>,
    pub bias: Option<HostBias>,
    pub prefix_lens: Option<Vec<i32>>,
    pub bits: Option<Host<u8, 3>>,
    pub blocks: Option<Blocks>,
}

#[derive(Clone)]
pub struct Request<T> {
    pub q: Vec<T>,
    pub k: Vec<T>,
    pub v: Vec<T>,
}

pub enum HostBias {
    F16(Host<f16, 4>),
    BF16(Host<bf16, 4>),
    F32(Host<f32, 4>),
}

/// A block mask as a table.
pub struct Blocks {
    pub drawn: DrawnBlocks,
    pub batch: usize,
    pub heads: usize,
    pub query_blocks: usize,
    pub key_blocks: usize,
    /// `[batch, heads, query_blocks, key_blocks]`.
    pub seen: Vec<bool>,
}

impl HostBias {
    pub fn at(&self, index: [usize; 4]) -> f64 {
        match self {
            HostBias::F16(host) => host.data[host.layout.position(index)].to_f64(),
            HostBias::BF16(host) => host.data[host.layout.position(index)].to_f64(),
            HostBias::F32(host) => host.data[host.layout.position(index)].into(),
        }
    }
}

impl Blocks {
    pub fn sees(&self, request: usize, kv_head: usize, query: usize, key: usize) -> bool {
        let list = (request % self.batch * self.heads + kv_head % self.heads) * self.query_blocks
            + query / self.drawn.block_q;
        self.seen[list * self.key_blocks + key / self.drawn.block_k]
    }

    pub fn upload(&self) -> BlockMask {
        let mut offsets = vec![0];
        let mut listed = Vec::new();
        for list in self.seen.chunks(self.key_blocks) {
            listed.extend((0..self.key_blocks).filter(|&block| list[block]));
            offsets.push(listed.len());
        }
        let size = |n: usize| NonZeroU32::new(n as u32).expect("not 0");
        let shape = BlockShape {
            block_q: size(self.drawn.block_q),
            block_k: size(self.drawn.block_k),
            query_blocks: self.query_blocks,
            key_blocks: self.key_blocks,
        };
        let stream = &gpu().stream;
        BlockMask::new(stream, shape, self.batch, self.heads, &offsets, &listed)
            .expect("valid lists")
    }
}

/// A tensor of rank R with the strides an axis repeats along set to 0.
fn repeating<T: Element, const R: usize>(
    at: &Arrangement,
    mut shape: [usize; R],
    repeats: &[bool],
    fill: impl FnMut() -> f64,
) -> Host<T, R> {
    let full = shape;
    for (axis, &repeats) in repeats.iter().enumerate() {
        if repeats {
            shape[axis] = shape[axis].min(1);
        }
    }
    let mut host = Host::new(at, shape, T::from_f64(f64::NAN), fill);
    let mut strides = host.layout.strides();
    for (axis, &repeats) in repeats.iter().enumerate() {
        if repeats {
            strides[axis] = 0;
        }
    }
    host.layout = Layout::strided(full, strides, host.layout.offset());
    host
}

impl<T: Float> Inputs<T> {
    pub fn new(case: &Case) -> Self {
        let mut rng = StdRng::seed_from_u64(case.seed);
        let rng = &mut rng;
        let (heads, kv_heads) = (case.qo_heads(), case.kv_heads);
        let tensor = |seed, len: usize, spread| -> Vec<T> {
            let mut draw = normal(case.seed.wrapping_add(seed), spread);
            (0..len).map(|_| T::from_f64(draw())).collect()
        };
        let requests = case.requests().zip(0u64..).map(|([sq, sk], r)| Request {
            q: tensor(3 * r, sq * heads * case.head_dim, case.spread),
            k: tensor(3 * r + 1, sk * kv_heads * case.head_dim, 1.0),
            v: tensor(3 * r + 2, sk * kv_heads * case.head_dim_v, 1.0),
        });
        let requests: Vec<Request<T>> = requests.collect();
        let batch = requests.len();
        let lengths: Vec<[usize; 2]> = case.requests().collect();
        let [longest_q, longest_k] = longest(&lengths);
        // A table in device memory may have requests as long as it has room for.
        let longest_k = match &case.storage {
            Storage::Paged(pages) => (longest_k.div_ceil(pages.page_size) + 1) * pages.page_size,
            _ => longest_k,
        };
        let [rows_b, rows_s] = match case.storage {
            Storage::Dense { .. } => [batch, longest_q],
            _ => [1, lengths.iter().map(|[q, _]| q).sum()],
        };
        let mut flat = Arrangement::plain(4);
        flat.offset = rng.random_range(0..3);
        let options = &case.options;
        let sinks = options.sinks.map(|sinks| {
            let mut draw = normal(rng.random(), 2.0);
            let mut pick = StdRng::seed_from_u64(rng.random());
            Host::new(&flat, [heads], f32::NAN, || {
                match (sinks, pick.random_range(0..4)) {
                    (Sinks::Extreme, 0) => f64::NEG_INFINITY,
                    (Sinks::Extreme, 1) => 9000.0,
                    _ => draw(),
                }
            })
        });
        let slopes = options.alibi.map(|shared| {
            let draw = normal(rng.random(), 0.3);
            repeating(&flat, [batch, heads], &[shared], draw)
        });
        let prefix_lens = (case.op.mask == Mask::PrefixLm).then(|| {
            let draw = |_| rng.random_range(-1..longest_k as i32 + 9);
            (0..batch).map(draw).collect()
        });
        let seed = rng.random();
        let bias = options.bias.as_ref().map(|drawn| {
            // Past a request's last key nothing is read.
            let shape = [rows_b, heads, rows_s, longest_k + seed as usize % 3];
            HostBias::new(drawn, shape, seed)
        });
        let bits = options.bits.as_ref().map(|drawn| {
            let bytes = longest_k.div_ceil(8) + rng.random_range(0..2);
            let mut pick = StdRng::seed_from_u64(rng.random());
            let byte = || {
                (0..8)
                    .map(|i| u8::from(pick.random_bool(drawn.seen)) << i)
                    .sum()
            };
            Host::of(&drawn.at, [rows_b, rows_s, bytes], 0xff, byte)
        });
        let blocks = options.blocks.as_ref().map(|drawn| {
            let count = |len: usize, block: usize| len.div_ceil(block) + 1;
            let (batch, heads) = match drawn.shared {
                [b, h] => (if b { 1 } else { batch }, if h { 1 } else { kv_heads }),
            };
            let query_blocks = count(longest_q, drawn.block_q);
            let key_blocks = count(longest_k, drawn.block_k);
            let pairs = batch * heads * query_blocks * key_blocks;
            Blocks {
                drawn: drawn.clone(),
                batch,
                heads,
                query_blocks,
                key_blocks,
                seen: (0..pairs).map(|_| rng.random_bool(drawn.seen)).collect(),
            }
        });
        Self {
            requests,
            sinks,
            slopes,
            bias,
            prefix_lens,
            bits,
            blocks,
        }
    }
}

impl<T: Float> Inputs<T> {
    /// One request. Of options only sinks.
    pub fn only(&self, request: usize) -> Self {
        self.with(vec![self.requests[request].clone()])
    }

    /// The requests in reverse, then the last of those drawn for `case`. Of options only sinks.
    pub fn reversed_with(&self, case: &Case) -> Self {
        let mut requests: Vec<Request<T>> = self.requests.iter().rev().cloned().collect();
        requests.extend(Self::new(case).requests.pop());
        self.with(requests)
    }

    fn with(&self, requests: Vec<Request<T>>) -> Self {
        Self {
            requests,
            sinks: self.sinks.clone(),
            slopes: None,
            bias: None,
            prefix_lens: None,
            bits: None,
            blocks: None,
        }
    }
}

impl HostBias {
    fn new(drawn: &DrawnBias, shape: [usize; 4], seed: u64) -> Self {
        let mut draw = normal(seed, 2.0);
        let mut pick = StdRng::seed_from_u64(seed);
        let fill = || match pick.random_bool(drawn.hidden) {
            true => f64::NEG_INFINITY,
            false => draw(),
        };
        match drawn.dtype {
            DType::F16 => HostBias::F16(repeating(&drawn.at, shape, &drawn.repeats, fill)),
            DType::BF16 => HostBias::BF16(repeating(&drawn.at, shape, &drawn.repeats, fill)),
            _ => HostBias::F32(repeating(&drawn.at, shape, &drawn.repeats, fill)),
        }
    }
}

pub fn longest(lengths: &[[usize; 2]]) -> [usize; 2] {
    [0, 1].map(|i| lengths.iter().map(|l| l[i]).max().unwrap_or(0))
}
