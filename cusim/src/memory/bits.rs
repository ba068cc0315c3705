//! One bit for every byte of a memory.

use std::ops::Range;

/// A bit set over byte indices.
#[derive(Debug, Clone)]
pub(crate) struct Bits {
    words: Vec<u64>,
}

impl Bits {
    /// All clear.
    pub(crate) fn new(bits: usize) -> Self {
        Self {
            words: vec![0; bits.div_ceil(64)],
        }
    }

    /// Clears every bit.
    pub(crate) fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Sets a range.
    #[inline]
    pub(crate) fn set(&mut self, range: Range<usize>) {
        for_words(range, |word, mask| self.words[word] |= mask);
    }

    /// True when all of a range is set.
    #[inline]
    pub(crate) fn all(&self, range: Range<usize>) -> bool {
        let mut all = true;
        for_words(range, |word, mask| all &= self.words[word] & mask == mask);
        all
    }

    /// A range as bits of its own.
    pub(crate) fn extract(&self, range: Range<usize>) -> Vec<bool> {
        range
            .map(|bit| self.words[bit / 64] >> (bit % 64) & 1 == 1)
            .collect()
    }

    /// Puts bits in place from `start`.
    pub(crate) fn replace(&mut self, start: usize, bits: &[bool]) {
        for (bit, &value) in (start..).zip(bits) {
            let mask = 1 << (bit % 64);
            if value {
                self.words[bit / 64] |= mask;
            } else {
                self.words[bit / 64] &= !mask;
            }
        }
    }
}

/// Calls `each` with every word that a range touches and the mask of its bits there.
#[inline]
fn for_words(range: Range<usize>, mut each: impl FnMut(usize, u64)) {
    let mut at = range.start;
    while at < range.end {
        let word = at / 64;
        let end = range.end.min((word + 1) * 64);
        let length = end - at;
        let mask = if length == 64 {
            u64::MAX
        } else {
            ((1 << length) - 1) << (at % 64)
        };
        each(word, mask);
        at = end;
    }
}
