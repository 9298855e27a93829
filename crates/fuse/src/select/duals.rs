//! Dual values of operations: a lower bound on the cost of covering what is left.
//!
//! They are feasible for the dual of the linear relaxation of the set partitioning if no kernel has
//! a negative reduced cost: the values of its members never add up to more than it costs. Then
//! whatever covers a set of operations exactly costs at least the sum of their values. A value may
//! be negative: an operation whose presence in a kernel saves a store.

use crate::bits::Bits;
use crate::board::Board;

/// Two operations of which only one may be in a kernel with something that is before the other one
/// (or, for another cut, after it).
///
/// A kernel with the first and what is before the second goes before the kernel of the second; a
/// kernel with the second and what is before the first goes before that of the first. Two such
/// kernels wait for each other, two that hold the same operation exclude each other: of all
/// kernels that [`Cut::meets`], a partition that can be launched has at most one. The same holds
/// with after in the place of before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cut {
    /// The two.
    pub pair: (usize, usize),
    /// Whether it is about what is after them.
    pub after: bool,
}

impl Cut {
    /// Whether the cut counts a kernel. Larger kernels are counted if smaller ones are.
    pub fn meets(self, board: &Board<'_>, kernel: &Bits) -> bool {
        let (a, b) = self.pair;
        let beyond = |i| match self.after {
            true => board.after(i),
            false => board.before(i),
        };
        kernel.contains(a) && kernel.meets(beyond(b))
            || kernel.contains(b) && kernel.meets(beyond(a))
    }
}

/// Dual values of operations and of cuts, in picoseconds.
#[derive(Clone, Debug, Default)]
pub struct Duals {
    /// Per operation.
    pub of: Vec<i64>,
    /// What a kernel that meets a cut costs more; not negative.
    pub cuts: Vec<(Cut, i64)>,
}

impl Duals {
    /// What the members of a kernel are worth: its cost less this is its reduced cost.
    pub fn worth(&self, board: &Board<'_>, kernel: &Bits) -> i64 {
        let of: i64 = kernel.iter().map(|i| self.of[i]).sum();
        let paid = self.cuts.iter().filter(|(_, price)| *price > 0);
        let met = paid.filter(|(cut, _)| cut.meets(board, kernel));
        of - met.map(|(_, price)| price).sum::<i64>()
    }

    /// What a partition costs at least, if no kernel has a negative reduced cost.
    pub fn total(&self) -> i64 {
        self.of.iter().sum::<i64>() - self.cuts.iter().map(|(_, price)| price).sum::<i64>()
    }
}
