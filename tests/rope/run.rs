//! Runs a drawn call and compares all that it wrote.

use cudarc::driver::CudaSlice;
use ferroflash::reference::{self, Angles, Exact, Rounded};
use ferroflash::{
    CacheScale, CacheWrite, CuSeqlens, DType, Element, Float, Frequencies, Heads, KvPages,
    NormWeights, PageLayout, Positions, QuantisedPages, Quantized, RopeArgs, RopeTable, Slots,
    TensorView,
};
use float8::{F8E4M3, F8E5M2};
use half::{bf16, f16};
use proptest::prelude::*;

use crate::case::{Cache, Case, Form, Place, TABLE};
use crate::common::{Host, assert_same_bits, fail, gpu, normal};
use crate::quantised::assert_within_a_step;

/// The operands of a case on the host.
struct Inputs<T> {
    q: Host<T, 3>,
    k: Option<Host<T, 3>>,
    v: Option<Host<T, 3>>,
    outs: [Option<Host<T, 3>>; 2],
    weights: [Option<Host<T, 1>>; 2],
    table: Option<Table>,
    positions: Positions,
    slots: Option<Slots>,
}

enum Table {
    F32(Host<f32, 3>),
    F16(Host<f16, 3>),
    BF16(Host<bf16, 3>),
}

fn canary<T: Element>() -> T {
    T::from_f64(-77.0)
}

impl<T: Float> Inputs<T> {
    fn new(case: &Case) -> Result<Self, TestCaseError> {
        let Case {
            tokens,
            head_dim,
            seed,
            ..
        } = *case;
        let heads = |which: usize, heads: usize, seed: u64, deviation: f64| {
            let shape = [tokens, heads, head_dim];
            Host::<T, 3>::new(
                &case.arrangements[which],
                shape,
                canary(),
                normal(seed, deviation),
            )
        };
        let out = |which: usize, count: Option<usize>, place: Place| match (place, count) {
            (Place::Into, Some(count)) => Some(heads(which, count, seed, 55.0)),
            _ => None,
        };
        let weight = |which: usize| {
            case.weights[which].then(|| {
                let mut draw = normal(seed ^ (9 + which as u64), 1.0);
                let data = (0..head_dim).map(|_| T::from_f64(draw())).collect();
                let layout = ferroflash::Layout::contiguous([head_dim]);
                Host::<T, 1> { data, layout }
            })
        };
        let k = case
            .k_heads
            .map(|count| heads(1, count, seed ^ 1, case.deviation));
        Ok(Self {
            q: heads(0, case.q_heads, seed, case.deviation),
            v: case
                .cache
                .as_ref()
                .and(case.k_heads)
                .map(|count| heads(2, count, seed ^ 3, 1.0)),
            k,
            outs: [
                out(3, Some(case.q_heads), case.places[0]),
                out(4, case.k_heads, case.places[1]),
            ],
            weights: [weight(0), weight(1)],
            table: table(case),
            positions: positions(case).map_err(fail)?,
            slots: match &case.cache {
                Some(cache) => Some(Slots::new(&gpu().stream, &cache.slots).map_err(fail)?),
                None => None,
            },
        })
    }
}

fn table(case: &Case) -> Option<Table> {
    if case.op.frequencies != Frequencies::Table {
        return None;
    }
    let pairs = case.op.rotary_dim.unwrap_or(case.head_dim) / 2;
    let shape = [TABLE, 2, pairs];
    let fill = normal(case.seed ^ 2, 0.7);
    Some(match case.table_dtype {
        DType::F16 => Table::F16(Host::new(&case.table, shape, f16::NAN, fill)),
        DType::BF16 => Table::BF16(Host::new(&case.table, shape, bf16::NAN, fill)),
        _ => Table::F32(Host::new(&case.table, shape, f32::NAN, fill)),
    })
}

fn positions(case: &Case) -> Result<Positions, ferroflash::Error> {
    let stream = &gpu().stream;
    let axes = case.op.axes.count();
    let all = &case.positions;
    match case.form {
        Form::I32 => {
            let all: Vec<i32> = all.iter().map(|&x| x as i32).collect();
            Positions::with_axes(stream, axes, &all)
        }
        Form::I64 => {
            let all: Vec<i64> = all.iter().map(|&x| x as i64).collect();
            Positions::with_axes(stream, axes, &all)
        }
        Form::F32 => {
            let all: Vec<f32> = all.iter().map(|&x| x as f32).collect();
            Positions::with_axes(stream, axes, &all)
        }
        Form::F64 => Positions::with_axes(stream, axes, all),
        Form::Range => Positions::range(all[0] as usize, all.len()),
        Form::Packed => {
            let sequences = CuSeqlens::from_lengths(stream, &case.lengths)?;
            let offsets = sequences.ranges().map(|range| {
                if range.is_empty() {
                    7
                } else {
                    all[range.start] as usize
                }
            });
            Positions::packed(stream, &sequences, &offsets.collect::<Vec<_>>())
        }
    }
}

/// What a call wrote, in row-major order.
struct Outputs<T> {
    q: Vec<T>,
    k: Option<Vec<T>>,
    pages: Option<[Pages<T>; 2]>,
}

enum Pages<T> {
    Same(Vec<T>),
    E4M3(Vec<F8E4M3>),
    E5M2(Vec<F8E5M2>),
}

/// Uploaded pages of one type with the scales.
struct DevicePages<C> {
    hosts: [Host<C, 4>; 2],
    data: [CudaSlice<C>; 2],
    scales: [CudaSlice<f32>; 2],
}

impl<C: Element> DevicePages<C> {
    fn new(cache: &Cache, heads: usize, head_dim: usize) -> Self {
        let shape = match cache.layout {
            PageLayout::Nhd => [cache.num_pages, cache.page_size, heads, head_dim],
            PageLayout::Hnd => [cache.num_pages, heads, cache.page_size, head_dim],
        };
        let host = || Host::<C, 4>::new(&cache.pages, shape, canary(), || -77.0);
        let hosts = [host(), host()];
        let data = [hosts[0].upload(), hosts[1].upload()];
        let scales = [0, 1].map(|which| {
            let all: Vec<f32> = (0..heads.max(1))
                .map(|head| scale(cache, which, head))
                .collect();
            gpu().stream.clone_htod(&all).expect("memory")
        });
        Self {
            hosts,
            data,
            scales,
        }
    }

    fn download(&self) -> Result<[Vec<C>; 2], TestCaseError> {
        Ok([
            self.hosts[0].download(&self.data[0])?,
            self.hosts[1].download(&self.data[1])?,
        ])
    }

    fn quantised(&mut self, cache: &Cache, heads: usize) -> QuantisedPages<'_, C> {
        let [k_data, v_data] = &mut self.data;
        let [k_scale, v_scale] = [0, 1].map(|which: usize| {
            if cache.per_head {
                let view = TensorView::contiguous(self.scales[which].as_view(), [heads]);
                CacheScale::PerHead(view.expect("a view"))
            } else {
                CacheScale::Tensor(cache.scales[which])
            }
        });
        QuantisedPages {
            k: self.hosts[0].view_mut(k_data),
            v: self.hosts[1].view_mut(v_data),
            k_scale,
            v_scale,
        }
    }
}

fn scale(cache: &Cache, which: usize, head: usize) -> f32 {
    if cache.per_head {
        cache.scales[which] * (1.0 + head as f32)
    } else {
        cache.scales[which]
    }
}

fn run<T: Float>(case: &Case, inputs: &Inputs<T>) -> Result<Outputs<T>, TestCaseError> {
    let kv_heads = case.k_heads.unwrap_or(0);
    let upload = |host: &Option<Host<T, 3>>| host.as_ref().map(Host::upload);
    let (mut q, mut k, v) = (inputs.q.upload(), upload(&inputs.k), upload(&inputs.v));
    let [mut q_out, mut k_out] = [upload(&inputs.outs[0]), upload(&inputs.outs[1])];
    let weights = [0, 1].map(|which: usize| inputs.weights[which].as_ref().map(Host::upload));
    let weight = |which: usize| {
        let host = inputs.weights[which].as_ref();
        host.zip(weights[which].as_ref())
            .map(|(host, data)| host.view(data))
    };
    let tables = match &inputs.table {
        Some(Table::F32(host)) => (Some(host.upload()), None, None),
        Some(Table::F16(host)) => (None, Some(host.upload()), None),
        Some(Table::BF16(host)) => (None, None, Some(host.upload())),
        None => (None, None, None),
    };
    let table = match (&inputs.table, &tables) {
        (Some(Table::F32(host)), (Some(data), _, _)) => Some(RopeTable::F32(host.view(data))),
        (Some(Table::F16(host)), (_, Some(data), _)) => Some(RopeTable::F16(host.view(data))),
        (Some(Table::BF16(host)), (_, _, Some(data))) => Some(RopeTable::BF16(host.view(data))),
        _ => None,
    };
    let (mut same, mut e4m3, mut e5m2) = (None, None, None);
    if let Some(cache) = &case.cache {
        let dim = case.head_dim;
        match cache.dtype {
            None => same = Some(DevicePages::<T>::new(cache, kv_heads, dim)),
            Some(DType::F8E4M3) => e4m3 = Some(DevicePages::<F8E4M3>::new(cache, kv_heads, dim)),
            _ => e5m2 = Some(DevicePages::<F8E5M2>::new(cache, kv_heads, dim)),
        }
    }
    {
        let pages = case.cache.as_ref().and_then(|cache| {
            if let Some(pages) = &mut same {
                let [k, v] = &mut pages.data;
                let (k, v) = (pages.hosts[0].view_mut(k), pages.hosts[1].view_mut(v));
                Some(KvPages::Same { k, v })
            } else if let Some(pages) = &mut e4m3 {
                Some(KvPages::E4M3(pages.quantised(cache, kv_heads)))
            } else {
                e5m2.as_mut()
                    .map(|pages| KvPages::E5M2(pages.quantised(cache, kv_heads)))
            }
        });
        let cache = pages
            .zip(case.cache.as_ref())
            .map(|(pages, cache)| CacheWrite {
                v: inputs
                    .v
                    .as_ref()
                    .zip(v.as_ref())
                    .map(|(host, data)| host.view(data))
                    .expect("v"),
                pages,
                layout: cache.layout,
                slots: inputs.slots.as_ref().expect("slots"),
            });
        let q = heads(
            case.places[0],
            &inputs.q,
            &mut q,
            &inputs.outs[0],
            &mut q_out,
        );
        let k = match (&inputs.k, &mut k) {
            (Some(host), Some(data)) => Some(heads(
                case.places[1],
                host,
                data,
                &inputs.outs[1],
                &mut k_out,
            )),
            _ => None,
        };
        let args = RopeArgs {
            q,
            k,
            positions: &inputs.positions,
            table,
            weights: case.op.norm.map(|_| NormWeights {
                q: weight(0),
                k: weight(1),
            }),
            cache,
            faults: None,
        };
        gpu()
            .kernels
            .rope(&gpu().stream, &case.op, args)
            .map_err(fail)?;
    }
    let result = |place,
                  host: &Host<T, 3>,
                  data,
                  out: &Option<Host<T, 3>>,
                  out_data: &Option<_>| match place {
        Place::Over => host.download(data).map(Some),
        Place::ToCache => Ok(None),
        Place::Into => {
            let (out, data) = out.as_ref().zip(out_data.as_ref()).expect("an output");
            out.download(data).map(Some)
        }
    };
    let q = result(case.places[0], &inputs.q, &q, &inputs.outs[0], &q_out)?;
    let k = match (&inputs.k, &k) {
        (Some(host), Some(data)) => result(case.places[1], host, data, &inputs.outs[1], &k_out)?,
        _ => None,
    };
    let pages = if let Some(pages) = &same {
        Some(pages.download()?.map(Pages::Same))
    } else if let Some(pages) = &e4m3 {
        Some(pages.download()?.map(Pages::E4M3))
    } else if let Some(pages) = &e5m2 {
        Some(pages.download()?.map(Pages::E5M2))
    } else {
        None
    };
    Ok(Outputs {
        q: q.expect("q"),
        k,
        pages,
    })
}

fn heads<'a, T: Float>(
    place: Place,
    host: &Host<T, 3>,
    data: &'a mut CudaSlice<T>,
    out: &Option<Host<T, 3>>,
    out_data: &'a mut Option<CudaSlice<T>>,
) -> Heads<'a, T> {
    match (place, out, out_data) {
        (Place::Over, ..) => Heads::InPlace(host.view_mut(data)),
        (Place::Into, Some(out), Some(out_data)) => Heads::Into {
            x: host.view(data),
            out: out.view_mut(out_data),
        },
        _ => Heads::ToCache(host.view(data)),
    }
}

/// Runs the case twice and holds everything to the rule.
pub fn passes<T: Float>(case: &Case) -> Result<(), TestCaseError> {
    let inputs = Inputs::<T>::new(case)?;
    let (first, second) = (run(case, &inputs)?, run(case, &inputs)?);
    assert_same_bits(&first.q, &second.q)?;
    let table = inputs.table.as_ref().map(|table| match table {
        Table::F32(host) => host.tensor().to_tensor(),
        Table::F16(host) => host.tensor().to_tensor(),
        Table::BF16(host) => host.tensor().to_tensor(),
    });
    let angles = Angles {
        positions: &case.positions,
        table: table.as_ref(),
    };
    check_heads(case, &inputs.q, &inputs.weights[0], &angles, &first.q)?;
    let Some(host) = &inputs.k else { return Ok(()) };
    if let (Some(k), Some(again)) = (&first.k, &second.k) {
        assert_same_bits(k, again)?;
        check_heads(case, host, &inputs.weights[1], &angles, k)?;
    }
    if let (Some([k, v]), Some([k_again, v_again]), Some(cache)) =
        (&first.pages, &second.pages, &case.cache)
    {
        same_pages(k, k_again)?;
        same_pages(v, v_again)?;
        check_pages(case, cache, &inputs, &angles, k, v)?;
    }
    Ok(())
}

fn same_pages<T: Float>(first: &Pages<T>, second: &Pages<T>) -> Result<(), TestCaseError> {
    match (first, second) {
        (Pages::Same(a), Pages::Same(b)) => assert_same_bits(a, b),
        (Pages::E4M3(a), Pages::E4M3(b)) => assert_same_bits(a, b),
        (Pages::E5M2(a), Pages::E5M2(b)) => assert_same_bits(a, b),
        _ => Err(fail("other types")),
    }
}

/// Rotated heads; what is neither normalised nor rotated is as it was, bit for bit.
fn check_heads<T: Float>(
    case: &Case,
    host: &Host<T, 3>,
    weight: &Option<Host<T, 1>>,
    angles: &Angles<'_>,
    got: &[T],
) -> Result<(), TestCaseError> {
    let weight = weight.as_ref().map(Host::tensor);
    let exact = reference::rope::<Exact, T>(&case.op, &host.tensor(), angles, weight.as_ref());
    let low = reference::rope::<Rounded<T>, T>(&case.op, &host.tensor(), angles, weight.as_ref());
    let values: Vec<f64> = got.iter().map(|x| x.to_f64()).collect();
    reference::check(&values, exact.data(), low.data()).map_err(fail)?;
    if case.op.norm.is_none() {
        let start = case.op.rotary_offset;
        let end = start + case.op.rotary_dim.unwrap_or(case.head_dim);
        for (index, (got, want)) in values.iter().zip(exact.data()).enumerate() {
            if !(start..end).contains(&(index % case.head_dim)) {
                prop_assert_eq!(got.to_bits(), want.to_bits(), "element {}", index);
            }
        }
    }
    Ok(())
}

fn check_pages<T: Float>(
    case: &Case,
    cache: &Cache,
    inputs: &Inputs<T>,
    angles: &Angles<'_>,
    k: &Pages<T>,
    v: &Pages<T>,
) -> Result<(), TestCaseError> {
    let weight = inputs.weights[1].as_ref().map(Host::tensor);
    let (host, v_host) = inputs.k.as_ref().zip(inputs.v.as_ref()).expect("k and v");
    let exact = reference::rope::<Exact, T>(&case.op, &host.tensor(), angles, weight.as_ref());
    let low = reference::rope::<Rounded<T>, T>(&case.op, &host.tensor(), angles, weight.as_ref());
    let v_exact = v_host.tensor().to_tensor();
    match (k, v) {
        (Pages::Same(k), Pages::Same(v)) => {
            let bound = reference::error_bound(exact.data(), low.data());
            each(case, cache, k, |got, token, head, d| {
                let want = exact.at([token, head, d]);
                let (got, same) = (got.to_f64(), got.to_f64().is_nan() && want.is_nan());
                prop_assert!(
                    same || got == want || (got - want).abs() <= bound,
                    "k: {} for {}",
                    got,
                    want
                );
                Ok(())
            })?;
            each(case, cache, v, |got, token, head, d| {
                prop_assert_eq!(got.to_f64(), v_exact.at([token, head, d]), "v");
                Ok(())
            })
        }
        (Pages::E4M3(k), Pages::E4M3(v)) => quantised(case, cache, k, v, &exact, &v_exact),
        (Pages::E5M2(k), Pages::E5M2(v)) => quantised(case, cache, k, v, &exact, &v_exact),
        _ => Err(fail("other types")),
    }
}

fn quantised<C: Quantized>(
    case: &Case,
    cache: &Cache,
    k: &[C],
    v: &[C],
    exact: &reference::Tensor<3>,
    v_exact: &reference::Tensor<3>,
) -> Result<(), TestCaseError> {
    each(case, cache, k, |got, token, head, d| {
        let want = reference::quantise::<C>(exact.at([token, head, d]), scale(cache, 0, head));
        assert_within_a_step(got, want)
    })?;
    each(case, cache, v, |got, token, head, d| {
        // The product is rounded to f32 before it is rounded to FP8.
        let product = v_exact.at([token, head, d]) as f32 * (1.0 / scale(cache, 1, head));
        let want = C::from_f64(product.into());
        prop_assert_eq!(got.to_f64(), want.to_f64(), "v");
        Ok(())
    })
}

/// Calls `check` for every element that a token has in the pages; all others must be as they were.
fn each<C: Element>(
    case: &Case,
    cache: &Cache,
    pages: &[C],
    check: impl Fn(C, usize, usize, usize) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let (heads, dim) = (case.k_heads.unwrap_or(0), case.head_dim);
    let mut owner = vec![None; cache.num_pages * cache.page_size];
    for (token, slot) in cache.slots.iter().enumerate() {
        if let Some(slot) = slot {
            owner[*slot] = Some(token);
        }
    }
    for (slot, owner) in owner.into_iter().enumerate() {
        let (page, of_page) = (slot / cache.page_size, slot % cache.page_size);
        for head in 0..heads {
            let row = match cache.layout {
                PageLayout::Nhd => (page * cache.page_size + of_page) * heads + head,
                PageLayout::Hnd => (page * heads + head) * cache.page_size + of_page,
            };
            for d in 0..dim {
                let got = pages[row * dim + d];
                match owner {
                    Some(token) => check(got, token, head, d)?,
                    None => prop_assert_eq!(got.to_f64(), canary::<C>().to_f64(), "slot {}", slot),
                }
            }
        }
    }
    Ok(())
}
