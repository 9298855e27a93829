//! Neighbouring value columns of one thread, where products are those of warpgroups: what is loaded and stored of
//! them together. Never here: what is computed of them.

use super::{Hooks, Scope};
use crate::affine::Space;
use crate::text::Text;
use fusec_fuse::schedule::affine::Offset;
use fusec_ir::{Access, AxisId, IndexExpr, ValueId};

/// Neighbouring columns of a thread that brings values into products.
pub(super) const OF_VALUES: usize = 8;
/// The same of results, which accumulators leave it.
pub(super) const OF_RESULTS: usize = 2;

/// The loads of a loop over a thread's columns, `int nth`, that stand before it.
#[derive(Debug)]
pub(super) struct Runs {
    /// Columns of the thread: whole runs.
    pub(super) columns: usize,
    /// Neighbours.
    pub(super) run: usize,
    /// Column number `nth`, C text.
    pub(super) column: String,
    /// Whether they are key channels, `kj`, and not value columns, `vi`.
    pub(super) of_keys: bool,
    /// The loads.
    pub(super) text: Text,
}

impl Runs {
    /// No loads yet.
    pub(super) fn new(columns: usize, run: usize, column: impl Into<String>) -> Self {
        Runs {
            columns,
            run,
            column: column.into(),
            of_keys: false,
            text: Text::default(),
        }
    }
}

impl Hooks<'_, '_> {
    /// An element of a thread's columns that is loaded with its neighbours, C text; `None` of others.
    pub(super) fn in_run(&mut self, access: &Access, back: u32, scope: &Scope) -> Option<String> {
        let Runs {
            columns,
            run: length,
            column,
            of_keys,
            ..
        } = self.runs.as_ref()?;
        let (columns, length, column) = (*columns, *length, column.clone());
        let (element, space) = match of_keys {
            true => ("kj", &self.key),
            false => ("vi", &self.value),
        };
        if scope.element != element || scope.space != *space || !scope.in_chunk {
            return None;
        }
        if !self.side_by_side_in(space, access.value, &access.index, length) {
            return None;
        }
        let from = match self.staged_run(access, back, scope, length) {
            Some(element) => element,
            None if self.is_staged(access) => return None,
            None => self.element_of(access, back, scope),
        };
        let name = crate::names::last(&self.graph.value(access.value).name).to_string();
        let run = self.names.fresh(&format!("{name}_run"));
        let text = &mut self.runs.as_mut()?.text;
        text.line(format!("float {run}[{}][{length}];", columns / length));
        text.line("#pragma unroll");
        text.open(format!(
            "for (int nth = 0; nth < {columns}; nth += {length})"
        ));
        text.line(format!("const int {element} = {column};"));
        text.line(format!("load_vec(&{from}, {run}[nth / {length}]);"));
        text.close();
        Some(format!("{run}[nth / {length}][nth % {length}]"))
    }

    /// Whether neighbouring value columns are neighbours of a value in memory, and runs of them begin at whole runs.
    pub(super) fn side_by_side(&self, value: ValueId, index: &[IndexExpr], run: usize) -> bool {
        self.side_by_side_in(&self.value, value, index, run)
    }

    /// The same of neighbouring elements of a space.
    fn side_by_side_in(
        &self,
        space: &Space,
        value: ValueId,
        index: &[IndexExpr],
        run: usize,
    ) -> bool {
        let axes = &self.graph.value(value).axes;
        let offset = self.grid.global(axes, index);
        let whole = |elements: i64| elements % run as i64 == 0;
        whole(self.graph.row_elements(value) as i64)
            && whole(offset.base)
            && offset.block.values().all(|c| whole(*c))
            && self.follows(space, &offset)
    }

    /// Whether nothing but the axes of a space, in their order, leads from one element to another.
    fn follows(&self, space: &Space, offset: &Offset) -> bool {
        let extent = |axis: AxisId| self.grid.extent(axis) as i64;
        let stride = |axis: AxisId| offset.local.get(&axis).copied().unwrap_or(0);
        // Neighbours of an axis lie as far apart as the elements inside of it.
        let mut inside = 1;
        space.axes.iter().rev().all(|axis| {
            let fits = extent(*axis) == 1 || stride(*axis) == inside;
            inside *= extent(*axis);
            fits
        })
    }
}
