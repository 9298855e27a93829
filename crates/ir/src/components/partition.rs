//! Which statement of a step belongs to which component, and which to none.

use crate::{Binary, Combine, Expr, Graph, Recurrence, StepAccess, StepKind, StepRef, Unary};
use std::collections::{BTreeMap, BTreeSet};

/// Where a statement is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the recurrence of this component.
    Inside(usize),
    /// By an operation of its own.
    Outside,
    /// Wherever it is read, since its result is too large to be handed on.
    Copied,
}

/// A step taken apart.
#[derive(Clone, Debug)]
pub(super) struct Partition {
    /// The states of each component, ascending; components come after those that they read.
    pub components: Vec<Vec<usize>>,
    /// Per statement.
    pub places: Vec<Place>,
    /// Per statement, the states that it depends on.
    pub depends: Vec<BTreeSet<usize>>,
}

/// What the partition of a step is found from.
struct Subject<'a> {
    graph: &'a Graph,
    step: &'a Recurrence,
    /// Per statement, the states that it depends on.
    depends: Vec<BTreeSet<usize>>,
    /// Per statement, the states whose update it enters.
    feeds: Vec<BTreeSet<usize>>,
    /// Most elements of a value that is handed from one piece to another.
    limit: usize,
}

impl Partition {
    pub fn of(graph: &Graph, step: &Recurrence) -> Partition {
        let subject = Subject::new(graph, step);
        // `(a, b)`: state b comes after state a, or is in its component.
        let mut edges: BTreeSet<(usize, usize)> = BTreeSet::new();
        for (state, next) in step.next.iter().enumerate() {
            let of = subject.depends(*next);
            edges.extend(of.into_iter().map(|other| (other, state)));
        }
        let mut held: BTreeMap<usize, usize> = BTreeMap::new();
        // Every round adds an edge between two states, or a statement that stays inside.
        loop {
            let components = components(step.states.len(), &edges);
            match subject.places(&components, &held) {
                Ok(places) => {
                    return Partition {
                        components,
                        places,
                        depends: subject.depends,
                    };
                }
                Err(Missing::Edges(more)) => edges.extend(more),
                Err(Missing::Held(statement, state)) => {
                    held.insert(statement, state);
                }
            }
        }
    }

    /// The component in whose recurrence an item is.
    pub fn inside(&self, item: StepRef) -> Option<usize> {
        inside(&self.components, &self.places, item)
    }
}

/// What a partition has to heed beside what is known.
enum Missing {
    /// Pairs of states; the second comes after the first, or is in its component.
    Edges(Vec<(usize, usize)>),
    /// A statement, and a state in whose component it stays.
    Held(usize, usize),
}

fn component(components: &[Vec<usize>], state: usize) -> Option<usize> {
    components.iter().position(|of| of.contains(&state))
}

impl<'a> Subject<'a> {
    fn new(graph: &'a Graph, step: &'a Recurrence) -> Self {
        let mut depends: Vec<BTreeSet<usize>> = Vec::with_capacity(step.ops.len());
        for op in &step.ops {
            let mut of = BTreeSet::new();
            for access in &op.inputs {
                match access.item {
                    StepRef::State(s) => {
                        of.insert(s);
                    }
                    StepRef::Op(i) => of.extend(depends[i].iter().copied()),
                    StepRef::Input(_) => {}
                }
            }
            depends.push(of);
        }
        let mut feeds = vec![BTreeSet::new(); step.ops.len()];
        for (state, next) in step.next.iter().enumerate() {
            if let StepRef::Op(i) = next {
                feeds[*i].insert(state);
            }
        }
        for (i, op) in step.ops.iter().enumerate().rev() {
            for access in &op.inputs {
                if let StepRef::Op(j) = access.item {
                    let of: Vec<usize> = feeds[i].iter().copied().collect();
                    feeds[j].extend(of);
                }
            }
        }
        let elements = |item: StepRef| graph.elements(step.axes_of(item));
        let states = 0..step.states.len();
        let largest = states.map(|s| elements(StepRef::State(s))).max();
        let inputs = (0..step.inputs.len()).map(|i| elements(StepRef::Input(i)));
        // What is as large as a state may be one number per element of the model.
        let inputs = inputs.filter(|n| Some(*n) < largest);
        let outputs = step.outputs.iter().map(|item| elements(*item));
        let limit = inputs.chain(outputs).max().unwrap_or(0);
        Subject {
            graph,
            step,
            depends,
            feeds,
            limit,
        }
    }

    fn depends(&self, item: StepRef) -> BTreeSet<usize> {
        match item {
            StepRef::Input(_) => BTreeSet::new(),
            StepRef::State(s) => BTreeSet::from([s]),
            StepRef::Op(i) => self.depends[i].clone(),
        }
    }

    fn elements(&self, item: StepRef) -> usize {
        self.graph.elements(self.step.axes_of(item))
    }

    /// Where every statement is computed, or what has to hold for there to be an answer.
    fn places(
        &self,
        components: &[Vec<usize>],
        held: &BTreeMap<usize, usize>,
    ) -> Result<Vec<Place>, Missing> {
        let mut places: Vec<Place> = Vec::with_capacity(self.step.ops.len());
        for (i, op) in self.step.ops.iter().enumerate() {
            let stays = held.get(&i).and_then(|s| component(components, *s));
            let place = match stays.or_else(|| self.home(i, components)) {
                Some(home) => Place::Inside(home),
                None => self.without_home(i, components, &places)?,
            };
            if let Place::Inside(home) = place {
                let mine = |s: &usize| components[home].contains(s);
                // What depends on this component cannot come before it.
                let after = op.inputs.iter().find_map(|access| match access.item {
                    StepRef::Op(j) if inside(components, &places, access.item) != Some(home) => {
                        self.depends[j].iter().any(mine).then_some(j)
                    }
                    _ => None,
                });
                if let Some(statement) = after {
                    return Err(Missing::Held(statement, components[home][0]));
                }
                // Two recurrences of which one reads all of the other's state are one.
                let wide = op.inputs.iter().find_map(|access| {
                    let of = inside(components, &places, access.item).filter(|of| *of != home)?;
                    (self.elements(access.item) > self.limit).then_some(of)
                });
                if let Some(of) = wide {
                    return Err(joined(components[of][0], components[home][0]));
                }
                // What is read from elsewhere is there before this component.
                let read = op.inputs.iter().flat_map(|access| {
                    match inside(components, &places, access.item) {
                        Some(of) if of == home => BTreeSet::new(),
                        _ => self.depends(access.item),
                    }
                });
                let to = components[home][0];
                let missing: Vec<(usize, usize)> = read
                    .filter(|state| match component(components, *state) {
                        Some(of) => of > home,
                        None => false,
                    })
                    .map(|state| (state, to))
                    .collect();
                if !missing.is_empty() {
                    return Err(Missing::Edges(missing));
                }
            }
            places.push(place);
        }
        for (state, next) in self.step.next.iter().enumerate() {
            let home = component(components, state);
            match inside(components, &places, *next) {
                Some(of) if Some(of) != home && self.elements(*next) > self.limit => {
                    return Err(joined(components[of][0], state));
                }
                _ => {}
            }
        }
        // What the step returns is somebody's result.
        for item in &self.step.outputs {
            if let StepRef::Op(i) = item
                && places[*i] == Place::Copied
            {
                places[*i] = Place::Outside;
            }
        }
        Ok(places)
    }

    /// The component whose states a statement both reads and brings up to date.
    fn home(&self, i: usize, components: &[Vec<usize>]) -> Option<usize> {
        let (reads, feeds) = (&self.depends[i], &self.feeds[i]);
        components.iter().position(|of| {
            of.iter().any(|s| reads.contains(s)) && of.iter().any(|s| feeds.contains(s))
        })
    }

    fn without_home(
        &self,
        i: usize,
        components: &[Vec<usize>],
        places: &[Place],
    ) -> Result<Place, Missing> {
        let op = &self.step.ops[i];
        let own = self.elements(StepRef::Op(i));
        let of = |access: &StepAccess| inside(components, places, access.item);
        let touched: BTreeSet<usize> = op.inputs.iter().filter_map(&of).collect();
        // Those that read what cannot be handed on stay where it is.
        let wide = |access: &&StepAccess| self.elements(access.item) > self.limit;
        let held: BTreeSet<usize> = op.inputs.iter().filter(wide).filter_map(&of).collect();
        let mut held = held.into_iter();
        match (held.next(), held.next()) {
            (Some(a), Some(b)) => {
                // One recurrence, then.
                let (a, b) = (components[a][0], components[b][0]);
                return Err(joined(a, b));
            }
            (Some(home), None) => return Ok(Place::Inside(home)),
            (None, _) => {}
        }
        let mut touched = touched.into_iter();
        if let (Some(home), None) = (touched.next(), touched.next()) {
            let mine = |n: usize| op.inputs.get(n).is_some_and(|a| of(a) == Some(home));
            let others = op.inputs.iter().filter(|a| of(a) != Some(home));
            let alone = others.into_iter().all(|a| self.depends(a.item).is_empty());
            let sums =
                matches!(op.kind, StepKind::Reduce { combine, .. } if combine == Combine::Sum);
            let narrows = sums
                && op
                    .inputs
                    .iter()
                    .any(|a| of(a) == Some(home) && self.elements(a.item) > own);
            // A sum over what is read of a state is no read of it: its axes are none that are contracted there.
            let of_state = |s: &usize| self.elements(StepRef::State(*s));
            let state = components[home].iter().map(of_state).min().unwrap_or(0);
            let reads_less = |a: &StepAccess| of(a) == Some(home) && self.elements(a.item) < state;
            let of_reads = op.kind != StepKind::Map && op.inputs.iter().any(reads_less);
            let linear = (sums || op.kind == StepKind::Map) && degree(&op.expr, &mine) == Some(1);
            if linear && !of_reads && (alone || narrows) {
                return Ok(Place::Inside(home));
            }
        }
        let copied = |access: &StepAccess| match access.item {
            StepRef::Op(j) => places[j] == Place::Copied,
            _ => false,
        };
        Ok(match own <= self.limit && !op.inputs.iter().any(copied) {
            true => Place::Outside,
            false => Place::Copied,
        })
    }
}

/// Two states are of one component.
fn joined(a: usize, b: usize) -> Missing {
    Missing::Edges(vec![(a, b), (b, a)])
}

/// The component in whose recurrence an item is.
fn inside(components: &[Vec<usize>], places: &[Place], item: StepRef) -> Option<usize> {
    match item {
        StepRef::Input(_) => None,
        StepRef::State(s) => component(components, s),
        StepRef::Op(i) => match places.get(i) {
            Some(Place::Inside(of)) => Some(*of),
            _ => None,
        },
    }
}

/// The degree of an expression in some of its inputs, if it is a polynomial in them of degree 1 at most.
fn degree(expr: &Expr, of: &impl Fn(usize) -> bool) -> Option<u8> {
    match expr {
        Expr::Input(i) => Some(u8::from(of(*i))),
        Expr::Const(_) | Expr::Index(_) | Expr::Position => Some(0),
        Expr::Unary(Unary::Neg, a) => degree(a, of),
        Expr::Unary(_, a) => degree(a, of).filter(|d| *d == 0),
        Expr::Binary(op, a, b) => {
            let (a, b) = (degree(a, of)?, degree(b, of)?);
            match op {
                Binary::Add | Binary::Sub => Some(a.max(b)),
                Binary::Mul => Some(a + b).filter(|d| *d <= 1),
                Binary::Div => (b == 0).then_some(a),
                Binary::When => (a == 0).then_some(b),
                _ => (a == 0 && b == 0).then_some(0),
            }
        }
    }
}

/// Strongly connected components of the states, in an order in which no edge leads back; of those that
/// may come next, the one with the first state does.
fn components(states: usize, edges: &BTreeSet<(usize, usize)>) -> Vec<Vec<usize>> {
    let mut reach = vec![vec![false; states]; states];
    for (from, to) in edges {
        reach[*from][*to] = true;
    }
    for via in 0..states {
        let through = reach[via].clone();
        for row in &mut reach {
            if row[via] {
                row.iter_mut().zip(&through).for_each(|(to, t)| *to |= *t);
            }
        }
    }
    let mut out: Vec<Vec<usize>> = Vec::new();
    let mut done = vec![false; states];
    while let Some(first) = (0..states).find(|s| {
        let waits = |other: usize| reach[other][*s] && !reach[*s][other] && !done[other];
        !done[*s] && !(0..states).any(waits)
    }) {
        let joined = |s: &usize| *s == first || (reach[first][*s] && reach[*s][first]);
        let of: Vec<usize> = (0..states).filter(joined).collect();
        of.iter().for_each(|s| done[*s] = true);
        out.push(of);
    }
    out
}
