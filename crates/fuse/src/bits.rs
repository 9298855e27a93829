//! A set of positions in a segment.

use smallvec::{SmallVec, smallvec};

/// A set of small numbers, ordered and comparable.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bits(SmallVec<[u64; 2]>);

impl Bits {
    /// The empty set over `0..n`.
    pub fn empty(n: usize) -> Bits {
        Bits(smallvec![0; n.div_ceil(64)])
    }

    /// The set of `members` over `0..n`.
    pub fn of(n: usize, members: impl IntoIterator<Item = usize>) -> Bits {
        let mut set = Bits::empty(n);
        for i in members {
            set.insert(i);
        }
        set
    }

    /// The set as words of 64 members, all of the same length for the same range.
    pub fn words(&self) -> &[u64] {
        &self.0
    }

    /// Adds a member.
    pub fn insert(&mut self, i: usize) {
        self.0[i / 64] |= 1 << (i % 64);
    }

    /// Whether `i` is a member.
    pub fn contains(&self, i: usize) -> bool {
        self.0[i / 64] >> (i % 64) & 1 == 1
    }

    /// Adds all members of another set.
    pub fn union(&mut self, other: &Bits) {
        for (a, b) in self.0.iter_mut().zip(&other.0) {
            *a |= b;
        }
    }

    /// Removes all members of another set.
    pub fn subtract(&mut self, other: &Bits) {
        for (a, b) in self.0.iter_mut().zip(&other.0) {
            *a &= !b;
        }
    }

    /// Keeps only members of another set.
    pub fn intersect(&mut self, other: &Bits) {
        for (a, b) in self.0.iter_mut().zip(&other.0) {
            *a &= b;
        }
    }

    /// Whether two sets have a member in common.
    pub fn meets(&self, other: &Bits) -> bool {
        self.0.iter().zip(&other.0).any(|(a, b)| a & b != 0)
    }

    /// Whether all members of another set are members.
    pub fn contains_all(&self, other: &Bits) -> bool {
        self.0.iter().zip(&other.0).all(|(a, b)| b & !a == 0)
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|w| *w == 0)
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.0.iter().map(|w| w.count_ones() as usize).sum()
    }

    /// The members, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().flat_map(|(w, bits)| {
            let mut bits = *bits;
            std::iter::from_fn(move || {
                (bits != 0).then(|| {
                    let i = bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    w * 64 + i
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Bits;

    #[test]
    fn sets_behave_like_sets() {
        let a = Bits::of(130, [0, 64, 129]);
        assert_eq!(a.iter().collect::<Vec<_>>(), [0, 64, 129]);
        assert_eq!(a.len(), 3);
        let mut b = Bits::of(130, [64, 65]);
        assert!(a.meets(&b));
        b.intersect(&a);
        assert!(b.contains(64) && !b.contains(65));
        b.subtract(&a);
        assert!(b.is_empty() && !b.meets(&a));
    }
}
