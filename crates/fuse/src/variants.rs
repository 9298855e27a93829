//! Plans beside the chosen one that the cost model holds to be about as good: what is worth measuring.
//!
//! Two kinds. Other *plans*: other forms of the model, kernels merged greedily or not at all, and the chosen
//! selection with one decision about fusion turned round, as a pin. And other *schedules* of the kernels
//! that take longest, in the plan that is the best so far. Both are predicted, ordered and counted; none
//! is invented that the planner would not make by its [`Recipe`]. Never here: measuring, and choosing by
//! what was measured.

use crate::cost;
use crate::error::PlanError;
use crate::fit;
use crate::plan::{Kernel, Mode, Plan};
use crate::planner::{Asked, Options, Planned, Recipe, RuleUse, Selections, make, schedules};
use crate::schedule::Schedule;
use fusec_ir::{Graph, OpId, Pin, PinKind, ValueId};
use std::collections::BTreeSet;

/// Decisions about fusion that are turned round, one at a time: each takes a selection of the layers
/// that it concerns.
const FLIPS: usize = 16;
/// Kernels whose schedules are looked at.
const DEAREST: usize = 6;
/// Schedules of one kernel that are worth a measurement.
const SCHEDULES: usize = 3;

/// A plan that is worth measuring.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    /// What it is, in words.
    pub what: String,
    /// What makes it.
    pub recipe: Recipe,
    /// It.
    pub planned: Planned,
}

/// A schedule that is worth measuring.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// What it is, in words.
    pub what: String,
    /// What to ask for.
    pub asked: Asked,
    /// How much longer a run would take, as predicted, microseconds.
    pub more_us: f64,
}

/// Variants, the least predicted first, and how many there would have been.
#[derive(Clone, Debug, PartialEq)]
pub struct Found<T> {
    /// Those within the number allowed.
    pub list: Vec<T>,
    /// All that were found.
    pub all: usize,
}

impl<T> Found<T> {
    fn cut(mut list: Vec<T>, most: usize) -> Self {
        let all = list.len();
        list.truncate(most);
        Found { list, all }
    }
}

/// A model whose variants are looked for.
pub struct Variants<'g, 'o> {
    graph: &'g Graph,
    options: &'o Options<'o>,
    /// What a plan may be predicted to take more than the least, as a part of that.
    within: f64,
    selections: Selections,
}

impl<'g, 'o> Variants<'g, 'o> {
    /// Of a model, as it would be planned with these options.
    pub fn new(graph: &'g Graph, options: &'o Options<'o>, within: f64) -> Self {
        Variants {
            graph,
            options,
            within,
            selections: Selections::default(),
        }
    }

    /// Plans by a recipe, with what is known from plans before.
    pub fn make(&mut self, recipe: &Recipe) -> Result<Planned, PlanError> {
        let Variants {
            graph,
            options,
            selections,
            ..
        } = self;
        make(graph, options, recipe, selections, &mut |_| {})
    }

    /// The planner's own choice, and at most `most - 1` other plans.
    pub fn plans(&mut self, most: usize) -> Result<Found<Variant>, PlanError> {
        let own = self.make(&Recipe::plain(Mode::Auto))?;
        let forms = &own.decisions.forms;
        let chosen = forms.iter().find(|form| form.chosen);
        let uses: Vec<RuleUse> = chosen.map(|form| form.uses.clone()).unwrap_or_default();
        let of_form = |mode: Mode, uses: &[RuleUse], pins: Vec<Pin>| Recipe {
            mode,
            pins,
            form: Some(uses.to_vec()),
            schedules: Vec::new(),
        };
        let mut tries: Vec<(String, Recipe)> = Vec::new();
        for form in forms.iter().filter(|form| !form.chosen) {
            let what = match form.rules.is_empty() {
                true => "the model as written".to_string(),
                false => format!("with {}", form.rules.join(", ")),
            };
            tries.push((what, of_form(Mode::Auto, &form.uses, vec![])));
        }
        tries.push((
            "merged greedily".into(),
            of_form(Mode::Greedy, &uses, vec![]),
        ));
        tries.push((
            "without fusion".into(),
            of_form(Mode::Unfused, &uses, vec![]),
        ));
        for (what, pin) in flips(&own) {
            tries.push((what, of_form(Mode::Auto, &uses, vec![pin])));
        }
        let limit = own.plan.total_us * (1.0 + self.within);
        let mut found = vec![Variant {
            what: "the cost model's choice".into(),
            recipe: of_form(Mode::Auto, &uses, vec![]),
            planned: own,
        }];
        for (what, recipe) in tries {
            // What cannot be planned so is no variant: a pin may ask for what no kernel can compute.
            let Ok(planned) = self.make(&recipe) else {
                continue;
            };
            let new = found.iter().all(|known| !is_same(&known.planned, &planned));
            if new && planned.plan.total_us <= limit {
                found.push(Variant {
                    what,
                    recipe,
                    planned,
                });
            }
        }
        // The first stays where it is; the order of equals as well.
        found[1..].sort_by(|a, b| a.planned.plan.total_us.total_cmp(&b.planned.plan.total_us));
        Ok(Found::cut(found, most.max(1)))
    }

    /// At most `most` other schedules of the kernels of a plan that take longest.
    pub fn schedules(&self, of: &Planned, most: usize) -> Found<Offer> {
        let Planned { graph, plan, .. } = of;
        let all_rows = self.options.context(graph);
        let one_row = all_rows.at_last_row();
        let room = plan.total_us * self.within;
        let mut kernels = distinct(plan);
        kernels.sort_by(|a, b| b.total_us.total_cmp(&a.total_us));
        let mut found = Vec::new();
        for Distinct { kernel, count, .. } in kernels.into_iter().take(DEAREST) {
            let single = kernel.ops.iter().any(|id| all_rows.is_of_one_row(*id));
            let ctx = if single { &one_row } else { &all_rows };
            let ways = fit::ways(ctx, &kernel.ops).unwrap_or_default().into_iter();
            let others = ways.filter(|phases| *phases != kernel.phases);
            let mut offers: Vec<Offer> = others
                .map(|phases| {
                    let us = cost::cost(ctx, &phases).total_us;
                    let schedules = schedules(&phases);
                    Offer {
                        what: format!("`{}`: {}", kernel.name, told(kernel, &schedules)),
                        asked: Asked {
                            operations: kernel.names.clone(),
                            schedules,
                        },
                        more_us: (us - kernel.cost.total_us) * count as f64,
                    }
                })
                .filter(|offer| offer.more_us <= room)
                .collect();
            offers.sort_by(|a, b| a.more_us.total_cmp(&b.more_us));
            offers.dedup_by(|a, b| a.asked == b.asked);
            found.extend(offers.into_iter().take(SCHEDULES));
        }
        Found::cut(found, most)
    }
}

/// Whether two plans launch the same.
fn is_same(a: &Planned, b: &Planned) -> bool {
    let kernels = a.plan.kernels.iter().zip(&b.plan.kernels);
    a.plan.kernels.len() == b.plan.kernels.len()
        && a.plan.forms == b.plan.forms
        && kernels
            .into_iter()
            .all(|(a, b)| a.ops == b.ops && a.phases == b.phases)
}

/// Those of some schedules that a kernel does not have, in words, each once.
fn told(kernel: &Kernel, others: &[Vec<Schedule>]) -> String {
    let own = schedules(&kernel.phases);
    let pairs = own.iter().flatten().zip(others.iter().flatten());
    let mut all: Vec<String> = Vec::new();
    for (_, other) in pairs.into_iter().filter(|(own, other)| own != other) {
        // Two of one template may differ in threads alone.
        let (template, threads) = (other.template(), other.threads());
        let text = format!("{template}, {other}, {threads} threads");
        if !all.contains(&text) {
            all.push(text);
        }
    }
    all.join("; ")
}

/// Kernels of a plan that compute the same operations, in whichever layers.
struct Distinct<'p> {
    /// The first of them.
    kernel: &'p Kernel,
    count: usize,
    /// What all of them take.
    total_us: f64,
}

fn distinct(plan: &Plan) -> Vec<Distinct<'_>> {
    let mut out: Vec<Distinct<'_>> = Vec::new();
    for kernel in &plan.kernels {
        match out
            .iter_mut()
            .find(|known| known.kernel.names == kernel.names)
        {
            Some(known) => {
                known.count += 1;
                known.total_us += kernel.cost.total_us;
            }
            None => out.push(Distinct {
                kernel,
                count: 1,
                total_us: kernel.cost.total_us,
            }),
        }
    }
    out
}

/// The decisions about fusion of a plan, each turned round: those of the dearest kernels.
fn flips(of: &Planned) -> Vec<(String, Pin)> {
    let Planned { graph, plan, .. } = of;
    let kernels = distinct(plan);
    let name = |v: ValueId| graph.value(v).name.clone();
    let result = |id: OpId| graph.op(id).outputs.first().copied();
    let mut flips: Vec<(f64, PinKind, [String; 2])> = Vec::new();
    for Distinct {
        kernel, total_us, ..
    } in &kernels
    {
        let bodies = || kernel.phases.iter().flat_map(|phase| &phase.lanes);
        let anchors: BTreeSet<OpId> = bodies().flat_map(|b| b.anchors()).copied().collect();
        // Of what surrounds an anchor, what touches it; of rows, everything.
        let counts =
            |a: &OpId, b: &OpId| anchors.is_empty() || anchors.contains(a) || anchors.contains(b);
        for id in &kernel.ops {
            for access in &graph.op(*id).inputs {
                let Some(maker) = graph.producer(access.value) else {
                    continue;
                };
                let Some(result) = result(*id) else { continue };
                let names = [name(access.value), name(result)];
                if kernel.ops.binary_search(&maker).is_ok() {
                    if counts(&maker, id) {
                        flips.push((*total_us, PinKind::Split, names));
                    }
                    continue;
                }
                let other = kernels
                    .iter()
                    .find(|of| of.kernel.ops.binary_search(&maker).is_ok());
                if let Some(other) = other.filter(|of| of.kernel.layer == kernel.layer) {
                    flips.push((total_us + other.total_us, PinKind::Fuse, names));
                }
            }
        }
        // Anchors side by side.
        for phase in &kernel.phases {
            let first = |body: &crate::Body| body.anchors().first().copied().and_then(result);
            for pair in phase.lanes.windows(2) {
                if let [Some(a), Some(b)] = [first(&pair[0]), first(&pair[1])] {
                    flips.push((*total_us, PinKind::Split, [name(a), name(b)]));
                }
            }
        }
    }
    flips.retain(|(_, _, [a, b])| a != b);
    // The dearest first; equals in the order of the plan.
    flips.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut seen = BTreeSet::new();
    flips.retain(|(_, kind, names)| seen.insert((*kind == PinKind::Fuse, names.clone())));
    let flips = flips.into_iter().take(FLIPS);
    let told = |(_, kind, [a, b]): (f64, PinKind, [String; 2])| {
        let what = match kind {
            PinKind::Fuse => format!("`{a}` and `{b}` in one kernel"),
            PinKind::Split => format!("`{a}` and `{b}` in different kernels"),
        };
        let pin = Pin {
            kind,
            values: vec![a, b],
            span: None,
        };
        (what, pin)
    };
    flips.map(told).collect()
}
