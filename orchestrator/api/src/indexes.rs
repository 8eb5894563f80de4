//! Sets of completion indexes as Jobs write them: `1,3-5,7`.
//!
//! Source: Kubernetes documentation "Jobs", completedIndexes; upstream `indexed_job_utils.go`.

use std::fmt;

use thiserror::Error;

/// A set of indexes: intervals in order that neither overlap nor touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Indexes(Vec<(u32, u32)>);

/// Why a text is no set of indexes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IndexesError {
    /// A part is no number.
    #[error("cannot convert string to integer for index: {0:?}")]
    Number(String),
    /// A part is no interval.
    #[error(
        "the fragment {0:?} violates the requirement that an index interval can have at most two parts separated by '-'"
    )]
    Interval(String),
    /// Numbers do not grow.
    #[error("non-increasing order, previous: {previous}, current: {current}")]
    Order {
        /// The number before.
        previous: u32,
        /// The number that is not greater.
        current: u32,
    },
    /// An index that the Job does not have.
    #[error("too large index: {0:?}")]
    TooLarge(String),
}

impl Indexes {
    /// Reads a set of indexes that are all below `completions`.
    ///
    /// # Errors
    /// [`IndexesError`] names the part that is wrong.
    pub fn parse(text: &str, completions: u32) -> Result<Self, IndexesError> {
        let mut set = Self::default();
        if text.is_empty() {
            return Ok(set);
        }
        let mut last: Option<u32> = None;
        for fragment in text.split(',') {
            let parts: Vec<&str> = fragment.split('-').collect();
            if parts.len() > 2 {
                return Err(IndexesError::Interval(fragment.to_owned()));
            }
            let mut ends = [0; 2];
            for (end, part) in ends.iter_mut().zip([parts[0], parts[parts.len() - 1]]) {
                *end = part.parse().map_err(|_| IndexesError::Number(part.to_owned()))?;
                if *end >= completions {
                    return Err(IndexesError::TooLarge(part.to_owned()));
                }
            }
            let previous = if parts.len() == 2 && ends[0] >= ends[1] {
                Some((ends[0], ends[1]))
            } else {
                last.filter(|last| *last >= ends[0]).map(|last| (last, ends[0]))
            };
            if let Some((previous, current)) = previous {
                return Err(IndexesError::Order { previous, current });
            }
            last = Some(ends[1]);
            set.push(ends[0], ends[1]);
        }
        Ok(set)
    }

    /// Like [`Self::parse`], of what berthd itself wrote: what cannot be read, or is beyond
    /// `completions` since the Job has become smaller, is left out.
    pub fn kept(text: &str, completions: u32) -> Self {
        let all = Self::parse(text, u32::MAX).unwrap_or_default();
        let mut set = Self::default();
        for (first, last) in all.0 {
            if first < completions {
                set.push(first, last.min(completions - 1));
            }
        }
        set
    }

    /// The set with more members.
    #[must_use]
    pub fn with(&self, more: impl IntoIterator<Item = u32>) -> Self {
        let mut all = self.0.clone();
        all.extend(more.into_iter().map(|index| (index, index)));
        all.sort_unstable();
        let mut set = Self::default();
        for (first, last) in all {
            set.push(first, last);
        }
        set
    }

    /// Adds an interval that begins no earlier than the last one.
    fn push(&mut self, first: u32, last: u32) {
        match self.0.last_mut() {
            Some(end) if first <= end.1.saturating_add(1) => end.1 = end.1.max(last),
            _ => self.0.push((first, last)),
        }
    }

    /// Whether an index is in the set.
    pub fn contains(&self, index: u32) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= index);
        after > 0 && self.0[after - 1].1 >= index
    }

    /// How many indexes are in the set.
    pub fn len(&self) -> usize {
        let size = |(first, last): &(u32, u32)| (last - first) as usize + 1;
        self.0.iter().map(size).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The indexes in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().flat_map(|(first, last)| *first..=*last)
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            match last - first {
                0 => write!(f, "{first}")?,
                // Two neighbours are written as such.
                1 => write!(f, "{first},{last}")?,
                _ => write!(f, "{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_written_and_read_back() {
        let set = Indexes::default().with([7, 1, 3, 4, 5, 9, 10, 3]);
        assert_eq!(set.to_string(), "1,3-5,7,9,10");
        assert_eq!((set.len(), set.is_empty()), (7, false));
        assert_eq!(Indexes::parse(&set.to_string(), 11), Ok(set.clone()));
        assert_eq!(set.iter().collect::<Vec<_>>(), [1, 3, 4, 5, 7, 9, 10]);
        assert!(
            set.contains(4) && set.contains(10) && !set.contains(0) && !set.contains(6) && !set.contains(11)
        );
        assert_eq!(Indexes::kept("1,3-5,7", 5).to_string(), "1,3,4");
    }

    #[test]
    fn any_set_is_what_a_plain_set_says() {
        let mut random = 12345_u64;
        for _ in 0..500 {
            let mut plain = std::collections::BTreeSet::new();
            let mut set = Indexes::default();
            for _ in 0..20 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let index = (random >> 33) as u32 % 30;
                plain.insert(index);
                set = set.with([index]);
            }
            assert!(set.iter().eq(plain.iter().copied()));
            assert_eq!(set.len(), plain.len());
            assert!((0..31).all(|i| set.contains(i) == plain.contains(&i)));
            assert_eq!(Indexes::parse(&set.to_string(), 30), Ok(set));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |text| Indexes::parse(text, 10).unwrap_err().to_string();
        assert!(wrong("a").contains("\"a\""));
        assert!(wrong("1-2-3").contains("at most two parts"));
        assert!(wrong("3,1").contains("previous: 3, current: 1"));
        assert!(wrong("3-3").contains("non-increasing"));
        assert!(wrong("10").contains("too large"));
    }
}
