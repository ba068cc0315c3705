//! Which of a token's positions each pair turns by.

use super::frequencies::{Frequencies, InvFreq};
use super::{MAX_PAIRS, Unsupported};
use crate::error::Error;

/// The most positions that a token has.
const MAX_AXES: usize = 4;

/// Words of the parameter block that hold two bits for every pair.
pub(crate) const AXIS_WORDS: usize = MAX_PAIRS / 16;

/// How the pairs of a head share several positions of a token.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Axes {
    /// All turn by the one position.
    #[default]
    One,
    /// The first `sections[0]` pairs turn by the first position, the next `sections[1]` by the second, and so on; frequencies
    /// fall from the first pair to the last ([Qwen2-VL](https://arxiv.org/abs/2409.12191), M-RoPE: time, height, width).
    Sections(Vec<usize>),
    /// The same numbers of pairs, taken in turn: with `n` sections pair `p` turns by position `p % n` while that has pairs left,
    /// otherwise by the first (Qwen3-VL, interleaved M-RoPE).
    Interleaved(Vec<usize>),
    /// As [`Axes::Sections`], but each section's frequencies fall from its own first pair to its last: pair `i` of a section of `m`
    /// turns by `base^(-i / m)` (rotary embeddings of vision encoders in two or three dimensions). With explicit frequencies
    /// or a table, which give each pair's own, it is the same as [`Axes::Sections`].
    Separate(Vec<usize>),
}

impl Axes {
    /// Pairs of each axis; `None` for [`Axes::One`].
    pub fn sections(&self) -> Option<&[usize]> {
        match self {
            Axes::One => None,
            Axes::Sections(sections) | Axes::Interleaved(sections) | Axes::Separate(sections) => {
                Some(sections)
            }
        }
    }

    /// Number of axes.
    pub fn count(&self) -> usize {
        self.sections().map_or(1, <[usize]>::len)
    }

    /// Checks that the sections are 1 to 4 and that every pair is in one.
    pub(crate) fn check(&self, pairs: usize) -> Result<(), Error> {
        let Some(sections) = self.sections() else {
            return Ok(());
        };
        let axes = sections.len();
        if !(1..=MAX_AXES).contains(&axes) {
            return Err(Unsupported::Axes {
                axes,
                limit: MAX_AXES,
            }
            .into());
        }
        let sum = sections
            .iter()
            .fold(0usize, |sum, &section| sum.saturating_add(section));
        crate::check::extent("sections", "pairs", sum, pairs)?;
        if let Axes::Interleaved(_) = self {
            // Every pair of a later axis must be there: its last one is pair axis + axes * (section - 1).
            for (axis, &section) in sections.iter().enumerate().skip(1) {
                let end = (axis + axes * section).saturating_sub(axes - 1);
                if section > 0 && end > pairs {
                    return Err(Error::ShapeMismatch {
                        operand: "sections",
                        axis: "interleaved pairs",
                        expected: pairs,
                        found: end,
                    });
                }
            }
        }
        Ok(())
    }

    /// The axis of a pair.
    pub fn axis_of(&self, pair: usize) -> usize {
        match self {
            Axes::One => 0,
            Axes::Sections(sections) | Axes::Separate(sections) => {
                let mut end = 0;
                sections
                    .iter()
                    .position(|&section| {
                        end += section;
                        pair < end
                    })
                    .unwrap_or(0)
            }
            Axes::Interleaved(sections) => {
                let axis = pair % sections.len();
                if pair / sections.len() < sections[axis] {
                    axis
                } else {
                    0
                }
            }
        }
    }

    /// Two bits for every pair, from the lowest.
    pub(crate) fn map(&self, pairs: usize) -> [u32; AXIS_WORDS] {
        let mut words = [0; AXIS_WORDS];
        for pair in 0..pairs {
            words[pair / 16] |= (self.axis_of(pair) as u32) << (pair % 16 * 2);
        }
        words
    }

    /// Radians per position of every pair; `None` for a table.
    pub(crate) fn frequencies(&self, frequencies: &Frequencies, pairs: usize) -> Option<InvFreq> {
        match (frequencies, self) {
            (Frequencies::Table, _) => None,
            (Frequencies::Explicit(radians), _) => Some(radians.clone()),
            (&Frequencies::Base { base, scale }, Axes::Separate(sections)) => {
                let sections = sections.iter().filter(|&&section| section > 0);
                let radians = sections
                    .flat_map(|&section| InvFreq::powers(base, scale, section).exact().to_vec());
                Some(InvFreq::from_exact(radians.collect()))
            }
            (&Frequencies::Base { base, scale }, _) => Some(InvFreq::powers(base, scale, pairs)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axes_of(axes: &Axes, pairs: usize) -> Vec<usize> {
        (0..pairs).map(|pair| axes.axis_of(pair)).collect()
    }

    #[test]
    fn sections_follow_each_other() {
        let axes = Axes::Sections(vec![2, 0, 3]);
        assert_eq!(axes_of(&axes, 5), [0, 0, 2, 2, 2]);
        assert_eq!(axes.map(5)[0], 0b10_10_10_00_00);
        assert_eq!(axes_of(&Axes::One, 3), [0, 0, 0]);
    }

    /// What transformers' `apply_interleaved_mrope` gives for sections 24, 20, 20: height takes pairs 1, 4, … 58, width 2, 5, … 59,
    /// and time the rest.
    #[test]
    fn interleaved_sections_take_turns() {
        let axes = Axes::Interleaved(vec![24, 20, 20]);
        assert_eq!(axes.check(64), Ok(()));
        let mut want = vec![0; 64];
        (1..60).step_by(3).for_each(|pair| want[pair] = 1);
        (2..60).step_by(3).for_each(|pair| want[pair] = 2);
        assert_eq!(axes_of(&axes, 64), want);
    }

    #[test]
    fn separate_sections_start_again() {
        let axes = Axes::Separate(vec![2, 2]);
        let radians = axes
            .frequencies(&Frequencies::default(), 4)
            .expect("no table");
        let radians: Vec<f64> = radians.radians().collect();
        assert_eq!(radians, [1.0, 0.01, 1.0, 0.01]);
    }

    #[test]
    fn sections_must_cover_the_pairs() {
        assert!(Axes::Sections(vec![2, 3]).check(5).is_ok());
        assert!(Axes::Sections(vec![2, 3]).check(6).is_err());
        assert!(Axes::Sections(vec![]).check(0).is_err());
        assert!(Axes::Sections(vec![1; 5]).check(5).is_err());
        assert!(Axes::Sections(vec![usize::MAX, 2]).check(1).is_err());
        // Pair 1 + 2 * 3 is not there.
        assert!(Axes::Interleaved(vec![2, 4]).check(6).is_err());
        assert!(Axes::Interleaved(vec![3, 3]).check(6).is_ok());
    }
}
