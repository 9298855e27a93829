//! A group of operations under examination: what its rules ask of it, how it says no, and the bodies
//! that are made of it.

use crate::context::Context;
use crate::plan::{Body, Reject, Roles};
use crate::schedule::Schedule;
use crate::schedule::program::rows_back;
use fusec_ir::{Access, Direction, Op, OpId, OpKind, StateId, ValueId};

/// A group of operations under examination.
pub(crate) struct Group<'a> {
    pub ctx: &'a Context<'a>,
    /// Ascending.
    pub ops: &'a [OpId],
    /// Whether it is looked at as a lane of a larger group: others of that group may read what
    /// it computes before its anchors.
    pub part: bool,
}

impl Group<'_> {
    pub fn op(&self, id: OpId) -> &Op {
        self.ctx.graph.op(id)
    }

    pub fn contains(&self, id: OpId) -> bool {
        self.ops.binary_search(&id).is_ok()
    }

    /// Position of an operation of the group.
    pub fn position(&self, id: OpId) -> Option<usize> {
        self.ops.binary_search(&id).ok()
    }

    /// The operation of the group that produces a value.
    pub fn in_body(&self, value: ValueId) -> Option<OpId> {
        self.ctx
            .graph
            .producer(value)
            .filter(|id| self.contains(*id))
    }

    /// The order in which rows come: that of a recurrence of the group.
    pub fn direction(&self) -> Direction {
        let mut directions = self.ops.iter().filter_map(|id| match self.op(*id).kind {
            OpKind::Scan { recurrence, .. } => {
                Some(self.ctx.graph.recurrence(recurrence).direction)
            }
            _ => None,
        });
        directions.next().unwrap_or_default()
    }

    /// Refuses other operations beside one whose template computes nothing else.
    pub fn check_alone(&self, rule: &str, id: OpId, what: &str) -> Result<(), Reject> {
        match self.ops.len() {
            1 => Ok(()),
            n => Err(self.reject(
                rule,
                [id],
                format!("{what} by itself"),
                format!("{n} operations"),
            )),
        }
    }

    /// Why a read of a later row is refused.
    pub fn reads_later(&self, rule: &str, id: OpId, access: &Access) -> Reject {
        let rows = access.delay.unsigned_abs();
        self.reject(
            rule,
            [id],
            "rows up to the current one",
            format!("row t + {rows}"),
        )
    }

    /// Refuses reads of rows of the group's own values that have not come when they are read.
    pub fn check_later_rows(&self) -> Result<(), Reject> {
        let direction = self.direction();
        for id in self.ops {
            for (access, _) in self.in_body_accesses(*id) {
                if rows_back(direction, access) >= 0 {
                    continue;
                }
                return Err(match direction {
                    Direction::Forward => self.reads_later("look-ahead", *id, access),
                    Direction::Reverse => self.reject(
                        "reverse-delay",
                        [*id],
                        "rows from the current one on, where the last comes first",
                        format!("row t - {}", access.delay.unsigned_abs()),
                    ),
                });
            }
        }
        Ok(())
    }

    /// The accesses of an operation to values of the group, with their producers.
    pub fn in_body_accesses(&self, id: OpId) -> impl Iterator<Item = (&Access, OpId)> {
        self.op(id)
            .inputs
            .iter()
            .filter_map(|a| self.in_body(a.value).map(|p| (a, p)))
    }

    /// Whether a value is needed outside the group.
    pub fn is_stored(&self, value: ValueId) -> bool {
        self.ctx.is_output(value) || self.ctx.readers(value).iter().any(|r| !self.contains(*r))
    }

    /// The results of an operation that are needed outside the group.
    pub fn stored_outputs(&self, id: OpId) -> impl Iterator<Item = ValueId> {
        self.op(id)
            .outputs
            .iter()
            .copied()
            .filter(|v| self.is_stored(*v))
    }

    /// For each operation of the group, whether `from` (positions) reach it along edges of
    /// the group; `from` included.
    pub fn descendants(&self, from: &[bool]) -> Vec<bool> {
        let mut reached = from.to_vec();
        for (i, id) in self.ops.iter().enumerate() {
            if !reached[i] {
                reached[i] = self
                    .in_body_accesses(*id)
                    .any(|(_, p)| self.position(p).is_some_and(|p| reached[p]));
            }
        }
        reached
    }

    /// For each operation of the group, whether it reaches one of `from`; `from` included.
    pub fn ancestors(&self, from: &[bool]) -> Vec<bool> {
        let mut reached = from.to_vec();
        for (i, id) in self.ops.iter().enumerate().rev() {
            if reached[i] {
                for (_, p) in self.in_body_accesses(*id) {
                    if let Some(p) = self.position(p) {
                        reached[p] = true;
                    }
                }
            }
        }
        reached
    }

    /// A body of the group: what of its values goes to memory, and which of those past the caches.
    pub fn body(&self, roles: Roles, ops: Vec<OpId>, own: &[OpId], schedule: Schedule) -> Body {
        let stores: Vec<ValueId> = own.iter().flat_map(|id| self.stored_outputs(*id)).collect();
        let streams = |v: &ValueId| schedule.streams() && self.ctx.leaves_l2(*v);
        Body {
            roles,
            streamed: stores.iter().copied().filter(streams).collect(),
            stores,
            tails: self.tails(own),
            ops,
            schedule,
        }
    }

    /// The stencil tails that some operations keep.
    pub fn tails(&self, ops: &[OpId]) -> Vec<StateId> {
        let tails = ops.iter().flat_map(|id| self.op(*id).tails.iter().copied());
        tails.collect()
    }

    /// Refuses more shared memory than a block of the device may have.
    pub fn check_shared(
        &self,
        ops: impl IntoIterator<Item = OpId>,
        bytes: usize,
    ) -> Result<(), Reject> {
        let limit = self.ctx.target.shared_bytes;
        match bytes <= limit {
            true => Ok(()),
            false => Err(self.reject(
                "shared-memory",
                ops,
                format!(
                    "{limit} bytes of shared memory per block of {}",
                    self.ctx.device.name
                ),
                format!("{bytes} bytes"),
            )),
        }
    }

    pub fn reject(
        &self,
        rule: &str,
        ops: impl IntoIterator<Item = OpId>,
        limit: impl Into<String>,
        got: impl Into<String>,
    ) -> Reject {
        Reject {
            rule: rule.to_string(),
            ops: ops.into_iter().collect(),
            limit: limit.into(),
            got: got.into(),
        }
    }

    /// The name of an operation in the model, for messages.
    pub fn name(&self, id: OpId) -> &str {
        &self.op(id).name
    }
}
