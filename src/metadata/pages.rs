//! Which pages of a key/value cache hold the tokens of each request.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream};

use crate::error::Error;

/// The pages of every request, in order, and how many keys it has: key `j` of request `r` is token `j % page_size` of
/// page `table[r][j / page_size]`. In device memory: the table as `i32` `[requests, max_pages]`, the lengths as `i32`
/// `[requests]`. Pages may be shared between requests (prefix caching).
///
/// Of a row of the table only the pages that its length needs are read; the rest may be anything.
#[derive(Debug)]
pub struct PageTable {
    table: CudaSlice<i32>,
    kv_lens: CudaSlice<i32>,
    requests: usize,
    max_pages: usize,
    page_size: usize,
    /// No request is longer.
    max_kv_len: usize,
    contents: Contents,
}

/// What is known of the numbers in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contents {
    /// Validated on the host: the largest page that is used, with its request and index; `None` when none is.
    Validated {
        largest: Option<(usize, usize, i32)>,
    },
    /// Their author vouches for them.
    Trusted,
    /// Nothing: kernels check every page before they follow it.
    Unknown,
}

impl PageTable {
    /// Validates a table of `kv_lens.len()` rows of equal length, one after the other in `table`, and uploads it on `stream`.
    ///
    /// # Errors
    /// [`Error::InvalidPageTable`] for a page size of 0, rows of unequal length, a row too short for its request, or a
    /// negative page; [`Error::Driver`] when the upload fails. Whether the pages exist is checked against the cache they
    /// are used with.
    pub fn new(
        stream: &Arc<CudaStream>,
        page_size: usize,
        table: &[i32],
        kv_lens: &[usize],
    ) -> Result<Self, Error> {
        let requests = kv_lens.len();
        let refuse = |request, index, value, requirement| {
            Err(Error::InvalidPageTable {
                request,
                index,
                value,
                requirement,
            })
        };
        if page_size == 0 {
            return refuse(0, 0, 0, "the page size must not be 0");
        }
        let max_pages = table.len().checked_div(requests).unwrap_or(0);
        if max_pages * requests != table.len() {
            let requirement = "the table must have as many entries for each request";
            return refuse(requests, 0, table.len() as i64, requirement);
        }
        let mut largest: Option<(usize, usize, i32)> = None;
        let mut lens = Vec::with_capacity(requests);
        for (request, &len) in kv_lens.iter().enumerate() {
            let pages = len.div_ceil(page_size);
            let Some(len) = i32::try_from(len).ok().filter(|_| pages <= max_pages) else {
                let requirement = "the request is longer than its pages";
                return refuse(request, max_pages, len as i64, requirement);
            };
            lens.push(len);
            let row = &table[request * max_pages..][..pages];
            for (index, &page) in row.iter().enumerate() {
                if page < 0 {
                    return refuse(request, index, page.into(), "a page must not be negative");
                }
                if largest.is_none_or(|(_, _, before)| page > before) {
                    largest = Some((request, index, page));
                }
            }
        }
        Ok(Self {
            table: upload(stream, table)?,
            kv_lens: upload(stream, &lens)?,
            requests,
            max_pages,
            page_size,
            max_kv_len: kv_lens.iter().copied().max().unwrap_or(0),
            contents: Contents::Validated { largest },
        })
    }

    /// A table that is in device memory already, of which nothing is assumed: kernels cut lengths to what
    /// `max_pages` pages hold, do not read a page that the cache does not have, and report it in the error word that
    /// every operation demands with such a table.
    ///
    /// # Errors
    /// [`Error::InvalidPageTable`] for a page size of 0, [`Error::ShapeMismatch`] when `table` is smaller than
    /// `kv_lens.len() * max_pages`.
    pub fn from_device(
        page_size: usize,
        max_pages: usize,
        table: CudaSlice<i32>,
        kv_lens: CudaSlice<i32>,
    ) -> Result<Self, Error> {
        Self::of_device(page_size, max_pages, table, kv_lens, Contents::Unknown)
    }

    /// A table that is in device memory already, trusted.
    ///
    /// # Errors
    /// As [`PageTable::from_device`].
    ///
    /// # Safety
    /// Whenever an operation with this table runs on the device, for every request `r`: `kv_lens[r]` is in
    /// `0..=max_pages * page_size`, and the first `kv_lens[r].div_ceil(page_size)` entries of row `r` are pages of the
    /// cache that the operation is given. Otherwise kernels read outside it.
    #[allow(unsafe_code)]
    pub unsafe fn from_device_unchecked(
        page_size: usize,
        max_pages: usize,
        table: CudaSlice<i32>,
        kv_lens: CudaSlice<i32>,
    ) -> Result<Self, Error> {
        Self::of_device(page_size, max_pages, table, kv_lens, Contents::Trusted)
    }

    fn of_device(
        page_size: usize,
        max_pages: usize,
        table: CudaSlice<i32>,
        kv_lens: CudaSlice<i32>,
        contents: Contents,
    ) -> Result<Self, Error> {
        if page_size == 0 {
            return Err(Error::InvalidPageTable {
                request: 0,
                index: 0,
                value: 0,
                requirement: "the page size must not be 0",
            });
        }
        let requests = kv_lens.len();
        let needed = requests.saturating_mul(max_pages);
        if table.len() < needed {
            return Err(Error::ShapeMismatch {
                operand: "page_table",
                axis: "entries",
                expected: needed,
                found: table.len(),
            });
        }
        Ok(Self {
            table,
            kv_lens,
            requests,
            max_pages,
            page_size,
            max_kv_len: max_pages.saturating_mul(page_size),
            contents,
        })
    }

    /// Number of requests.
    pub fn requests(&self) -> usize {
        self.requests
    }

    /// Entries of a row of the table.
    pub fn max_pages(&self) -> usize {
        self.max_pages
    }

    /// Tokens of a page.
    pub fn page_size(&self) -> usize {
        self.page_size
    }

    /// What no request is longer than: the longest, or what the table has room for.
    pub fn max_kv_len(&self) -> usize {
        self.max_kv_len
    }

    pub(crate) fn table(&self) -> &CudaSlice<i32> {
        &self.table
    }

    pub(crate) fn kv_lens(&self) -> &CudaSlice<i32> {
        &self.kv_lens
    }

    pub(crate) fn contents(&self) -> Contents {
        self.contents
    }

    /// Checks what is known of the pages against a cache of `num_pages`.
    pub(crate) fn check_pages(&self, num_pages: usize) -> Result<(), Error> {
        match self.contents {
            Contents::Validated {
                largest: Some((request, index, page)),
            } if page as usize >= num_pages => Err(Error::PageOutOfRange {
                request,
                index,
                page: page.into(),
                num_pages,
            }),
            _ => Ok(()),
        }
    }
}

/// An allocation of no bytes is an error, a batch of no requests is not.
fn upload(stream: &Arc<CudaStream>, numbers: &[i32]) -> Result<CudaSlice<i32>, Error> {
    let numbers = if numbers.is_empty() { &[0] } else { numbers };
    Ok(stream.clone_htod(numbers)?)
}

#[cfg(test)]
mod tests {
    use cudarc::driver::CudaContext;

    use super::*;

    fn stream() -> Arc<CudaStream> {
        cusim::Device::from_env("FERROFLASH_DEVICE").expect("a device");
        CudaContext::new(0).expect("a context").default_stream()
    }

    #[test]
    fn only_entries_that_a_length_needs_are_looked_at() {
        let table = PageTable::new(&stream(), 4, &[7, 2, -1, 3, -1, 99], &[8, 1]).expect("valid");
        assert_eq!((table.requests(), table.max_pages()), (2, 3));
        assert_eq!(table.max_kv_len(), 8);
        assert_eq!(table.check_pages(8), Ok(()));
        assert_eq!(
            table.check_pages(7),
            Err(Error::PageOutOfRange {
                request: 0,
                index: 0,
                page: 7,
                num_pages: 7
            })
        );
    }

    #[test]
    fn tables_that_do_not_hold_their_requests_are_refused() {
        let refused = |page_size, table: &[i32], lens: &[usize]| match PageTable::new(
            &stream(),
            page_size,
            table,
            lens,
        ) {
            Err(Error::InvalidPageTable { request, index, .. }) => Some((request, index)),
            _ => None,
        };
        assert_eq!(refused(0, &[0], &[1]), Some((0, 0)));
        assert_eq!(refused(4, &[0, 1, 2], &[1, 1]), Some((2, 0)));
        assert_eq!(refused(4, &[0, 1], &[4, 5]), Some((1, 1)));
        assert_eq!(refused(4, &[0, 1, 5, -3], &[4, 8]), Some((1, 1)));
        assert_eq!(refused(4, &[0, 1], &[4, 4]), None);
        assert_eq!(refused(4, &[], &[0, 0]), None);
        assert_eq!(refused(4, &[], &[]), None);
    }
}
