//! Which keys a query sees.

use std::num::NonZeroU32;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream};

use crate::check;
use crate::error::Error;

/// Which keys a query sees, counted from the diagonal that ends at the last query and the last key
/// (bottom-right alignment, as FlashAttention since 2.1): query `i` stands at key `d = i + seqlen_k - seqlen_q`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mask {
    /// Every key.
    #[default]
    Full,
    /// The keys up to and including the query's own: `j <= d`.
    Causal,
    /// A sliding window: `d - left <= j <= d + right`, both ends included; `None` does not limit that side.
    Window {
        /// Keys seen before the diagonal.
        left: Option<u32>,
        /// Keys seen after the diagonal; `Some(0)` is causal.
        right: Option<u32>,
    },
    /// The keys of the chunk that the query stands in (Llama 4): `j / size == d / size`.
    Chunked {
        /// Keys of a chunk.
        size: NonZeroU32,
        /// Of the chunk, only the keys up to and including the query's own.
        causal: bool,
    },
    /// Causal, but every query also sees the first keys of its request, as many as
    /// [`PrefillOptions::prefix_lens`](crate::PrefillOptions::prefix_lens) says (prefix-LM).
    PrefixLm,
}

impl Mask {
    /// The window this mask is, without chunks and prefix: keys seen before and after the diagonal.
    pub fn window(self) -> (Option<u32>, Option<u32>) {
        match self {
            Mask::Full => (None, None),
            Mask::Causal | Mask::PrefixLm => (None, Some(0)),
            Mask::Window { left, right } => (left, right),
            Mask::Chunked { causal, .. } => (None, causal.then_some(0)),
        }
    }

    /// The keys of a chunk, when there are chunks.
    pub fn chunk(self) -> Option<NonZeroU32> {
        match self {
            Mask::Chunked { size, .. } => Some(size),
            _ => None,
        }
    }

    /// True when every query sees all keys.
    pub(crate) fn is_full(self) -> bool {
        self.window() == (None, None) && self.chunk().is_none()
    }
}

/// The blocks of a [`BlockMask`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockShape {
    /// Queries of a block.
    pub block_q: NonZeroU32,
    /// Keys of a block.
    pub block_k: NonZeroU32,
    /// Blocks of queries, counted from query 0 of every request.
    pub query_blocks: usize,
    /// Blocks of keys, counted from key 0.
    pub key_blocks: usize,
}

/// A block-sparse mask: for every block of queries a list of the blocks of keys that it sees. Blocks that no list names
/// are neither read nor computed. Validated on the host; in device memory a bit for each pair of blocks.
#[derive(Debug)]
pub struct BlockMask {
    device: CudaSlice<u32>,
    batch: usize,
    heads: usize,
    shape: BlockShape,
    words: usize,
}

impl BlockMask {
    /// Validates lists and uploads them on `stream`. List `(request * heads + head) * query_blocks + query_block` is
    /// `key_blocks[offsets[list]..offsets[list + 1]]`. A `batch` or `heads` (of keys and values) of 1 serves all of them.
    ///
    /// # Errors
    /// [`Error::InvalidBlockMask`] for offsets that do not start at 0, decrease, are not one more than there are lists, or
    /// do not end with the last entry, and for a key block that does not exist; [`Error::Driver`] when the upload fails.
    pub fn new(
        stream: &Arc<CudaStream>,
        shape: BlockShape,
        batch: usize,
        heads: usize,
        offsets: &[usize],
        key_blocks: &[usize],
    ) -> Result<Self, Error> {
        let refuse = |what, index, value, requirement| {
            Err(Error::InvalidBlockMask {
                what,
                index,
                value,
                requirement,
            })
        };
        let lists = batch
            .saturating_mul(heads)
            .saturating_mul(shape.query_blocks);
        if offsets.len().checked_sub(1) != Some(lists) {
            let requirement = "there must be one more than there are lists";
            return refuse("offset", lists, offsets.len(), requirement);
        }
        let mut before = 0;
        for (index, &offset) in offsets.iter().enumerate() {
            if offset < before || index == 0 && offset != 0 {
                let requirement = "must start at 0 and not decrease";
                return refuse("offset", index, offset, requirement);
            }
            before = offset;
        }
        if before != key_blocks.len() {
            let requirement = "the last must be the number of entries";
            return refuse("offset", lists, before, requirement);
        }
        let words = shape.key_blocks.div_ceil(32);
        let mut bits = vec![0u32; lists.saturating_mul(words).max(1)];
        for (list, range) in offsets.windows(2).enumerate() {
            for (index, &block) in key_blocks[range[0]..range[1]].iter().enumerate() {
                if block >= shape.key_blocks {
                    let requirement = "must be below the number of key blocks";
                    return refuse("key block", range[0] + index, block, requirement);
                }
                bits[list * words + block / 32] |= 1 << (block % 32);
            }
        }
        Ok(Self {
            device: stream.clone_htod(&bits)?,
            batch,
            heads,
            shape,
            words,
        })
    }

    /// The blocks.
    pub fn shape(&self) -> BlockShape {
        self.shape
    }

    pub(crate) fn device(&self) -> &CudaSlice<u32> {
        &self.device
    }

    /// Words from request to request, from head to head, from query block to query block.
    pub(crate) fn strides(&self) -> [i64; 3] {
        let head = self.shape.query_blocks * self.words;
        let unless_shared = |extent, stride| if extent == 1 { 0 } else { stride as i64 };
        [
            unless_shared(self.batch, self.heads * head),
            unless_shared(self.heads, head),
            self.words as i64,
        ]
    }

    /// Checks that there is a list for every query and a bit for every key.
    pub(crate) fn check(
        &self,
        batch: usize,
        heads: usize,
        seqlen_q: usize,
        seqlen_k: usize,
    ) -> Result<(), Error> {
        const OPERAND: &str = "block_mask";
        if self.batch != 1 {
            check::extent(OPERAND, "batch", self.batch, batch)?;
        }
        if self.heads != 1 {
            check::extent(OPERAND, "heads", self.heads, heads)?;
        }
        let BlockShape {
            block_q, block_k, ..
        } = self.shape;
        let query_blocks = seqlen_q.div_ceil(block_q.get() as usize);
        let key_blocks = seqlen_k.div_ceil(block_k.get() as usize);
        check::at_least(
            OPERAND,
            "query blocks",
            self.shape.query_blocks,
            query_blocks,
        )?;
        check::at_least(OPERAND, "key blocks", self.shape.key_blocks, key_blocks)
    }
}

#[cfg(test)]
mod tests {
    use cudarc::driver::CudaContext;

    use super::*;

    const SHAPE: BlockShape = BlockShape {
        block_q: NonZeroU32::new(16).expect("not 0"),
        block_k: NonZeroU32::new(64).expect("not 0"),
        query_blocks: 2,
        key_blocks: 40,
    };

    fn stream() -> Arc<CudaStream> {
        cusim::Device::from_env("FERROFLASH_DEVICE").expect("a device");
        CudaContext::new(0).expect("a context").default_stream()
    }

    #[test]
    fn lists_become_bits() {
        let stream = stream();
        let mask =
            BlockMask::new(&stream, SHAPE, 1, 1, &[0, 3, 4], &[0, 33, 2, 31]).expect("valid");
        let bits = stream.clone_dtoh(mask.device()).expect("a download");
        assert_eq!(bits, [0b101, 0b10, 1 << 31, 0]);
        assert_eq!(mask.strides(), [0, 0, 2]);
        assert_eq!(mask.check(7, 5, 32, 2560), Ok(()));
        assert!(mask.check(1, 1, 33, 2560).is_err());
        assert!(mask.check(1, 1, 32, 2561).is_err());
    }

    #[test]
    fn lists_that_do_not_fit_are_refused() {
        let refused = |offsets: &[usize], blocks: &[usize]| match BlockMask::new(
            &stream(),
            SHAPE,
            1,
            1,
            offsets,
            blocks,
        ) {
            Err(Error::InvalidBlockMask { what, index, .. }) => Some((what, index)),
            _ => None,
        };
        assert_eq!(refused(&[0, 1], &[0]), Some(("offset", 2)));
        assert_eq!(refused(&[], &[]), Some(("offset", 2)));
        assert_eq!(refused(&[1, 1, 1], &[0]), Some(("offset", 0)));
        assert_eq!(refused(&[0, 1, 0], &[0]), Some(("offset", 2)));
        assert_eq!(refused(&[0, 1, 2], &[0]), Some(("offset", 2)));
        assert_eq!(refused(&[0, 1, 2], &[0, 40]), Some(("key block", 1)));
        assert_eq!(refused(&[0, 0, 0], &[]), None);
    }
}
