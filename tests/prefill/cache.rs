//! A key/value cache in pages.

use crate::case::{Case, Origin, Pages};
use crate::common::{Arrangement, Host, fail, gpu};
use crate::inputs::Inputs;
use ferroflash::{Float, PageLayout, PageTable};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

/// Pages in any order, with NaN in those that no request has and past the end of each request.
pub struct Cache<T> {
    pub k: Host<T, 4>,
    pub v: Host<T, 4>,
    table: Vec<i32>,
    max_pages: usize,
    k_lens: Vec<usize>,
}

impl<T: Float> Cache<T> {
    pub fn new(case: &Case, inputs: &Inputs<T>, pages: &Pages, k_lens: &[usize]) -> Self {
        let mut rng = StdRng::seed_from_u64(case.seed ^ 5);
        let counts: Vec<usize> = k_lens
            .iter()
            .map(|len| len.div_ceil(pages.page_size))
            .collect();
        let num_pages = counts.iter().sum::<usize>() + pages.spare;
        let mut free: Vec<i32> = (0..num_pages as i32).collect();
        free.shuffle(&mut rng);
        let max_pages = counts.iter().copied().max().unwrap_or(0) + rng.random_range(0..2);
        let unused = [-1, i32::MIN, i32::MAX, num_pages as i32];
        let mut table = Vec::new();
        for &count in &counts {
            table.extend(free.drain(..count));
            table.extend((count..max_pages).map(|i| unused[i % 4]));
        }
        let host = |at: &Arrangement, dim: usize| {
            let shape = match pages.layout {
                PageLayout::Nhd => [num_pages, pages.page_size, case.kv_heads, dim],
                PageLayout::Hnd => [num_pages, case.kv_heads, pages.page_size, dim],
            };
            Host::<T, 4>::new(at, shape, T::from_f64(f64::NAN), || f64::NAN)
        };
        let mut k = host(&case.arrangements[1], case.head_dim);
        let mut v = host(&case.arrangements[2], case.head_dim_v);
        for (r, (&len, request)) in k_lens.iter().zip(&inputs.requests).enumerate() {
            for j in 0..len {
                let page = table[r * max_pages + j / pages.page_size] as usize;
                for h in 0..case.kv_heads {
                    let index = |d| match pages.layout {
                        PageLayout::Nhd => [page, j % pages.page_size, h, d],
                        PageLayout::Hnd => [page, h, j % pages.page_size, d],
                    };
                    let row = j * case.kv_heads + h;
                    for d in 0..case.head_dim {
                        let position = k.layout.position(index(d));
                        k.data[position] = request.k[row * case.head_dim + d];
                    }
                    for d in 0..case.head_dim_v {
                        let position = v.layout.position(index(d));
                        v.data[position] = request.v[row * case.head_dim_v + d];
                    }
                }
            }
        }
        Self {
            k,
            v,
            table,
            max_pages,
            k_lens: k_lens.to_vec(),
        }
    }

    #[allow(unsafe_code)]
    pub fn upload(&self, pages: &Pages) -> Result<PageTable, TestCaseError> {
        let stream = &gpu().stream;
        let host = || PageTable::new(stream, pages.page_size, &self.table, &self.k_lens);
        let lens: Vec<i32> = self.k_lens.iter().map(|&len| len as i32).collect();
        let upload = |numbers: &[i32]| match numbers {
            [] => stream.alloc_zeros(1),
            _ => stream.clone_htod(numbers),
        };
        let device = || {
            Ok::<_, TestCaseError>((
                upload(&self.table).map_err(fail)?,
                upload(&lens).map_err(fail)?,
            ))
        };
        match pages.origin {
            Origin::Host => host(),
            Origin::Device => {
                let (table, lens) = device()?;
                PageTable::from_device(pages.page_size, self.max_pages, table, lens)
            }
            Origin::Trusted => {
                let (table, lens) = device()?;
                // SAFETY: nobody writes to the copies of what PageTable::new accepts for this cache.
                host().map_err(fail)?;
                unsafe {
                    PageTable::from_device_unchecked(pages.page_size, self.max_pages, table, lens)
                }
            }
        }
        .map_err(fail)
    }
}
