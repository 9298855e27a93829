//! Which form of the model is planned: which rules are used in which blocks.

use super::parts::{Selections, Wanted};
use super::progress::Progress;
use super::{Options, RuleUse, check_pin_names};
use crate::chunked::Classes;
use crate::decisions::{self, FORM_MARGIN};
use crate::error::PlanError;
use crate::forms::{self, Aim, Equalities, Form, Use};
use crate::plan::Mode;
use crate::segment::{Segment, segments};
use crate::select::Selection;
use crate::validate::validate;
use fusec_ir::{Graph, Pin};
use std::collections::BTreeSet;
use std::sync::Arc;
use tracing::debug_span;

/// A form with the kernels selected for it.
pub struct Chosen {
    /// The form.
    pub form: Form,
    /// Its segments in launch order.
    pub segments: Vec<Segment>,
    /// The kernels of each class of equal segments.
    pub selections: Vec<Selection>,
    /// Classes of recurrences.
    pub classes: Arc<Classes>,
    /// Predicted time, nanoseconds.
    pub cost: i64,
}

/// Forms that are tried.
pub struct Trials<'o, 'd, 'w> {
    options: &'o Options<'d>,
    classes: Arc<Classes>,
    /// Selections known so far.
    pub selections: Selections,
    /// The least cost of a form whose kernels were merged greedily, nanoseconds.
    least_greedy: Option<i64>,
    best: Option<(BTreeSet<Use>, Chosen)>,
    /// Why the first form that has no plan has none.
    refused: Option<PlanError>,
    /// What came of them.
    pub tried: Vec<decisions::Form>,
    /// Why the search for forms ended.
    pub stop: String,
    progress: Progress,
    watch: &'w mut dyn FnMut(&Progress),
}

impl<'o, 'd, 'w> Trials<'o, 'd, 'w> {
    /// None so far.
    pub fn new(
        options: &'o Options<'d>,
        classes: Arc<Classes>,
        watch: &'w mut dyn FnMut(&Progress),
    ) -> Self {
        Trials {
            options,
            classes,
            selections: Selections::default(),
            least_greedy: None,
            best: None,
            refused: None,
            tried: vec![],
            stop: String::new(),
            progress: Progress::default(),
            watch,
        }
    }

    /// The model as written; in components where it has no plan otherwise.
    pub fn written(&mut self, graph: &Graph) -> Result<Chosen, PlanError> {
        let refused = match self.only(Form::written(graph.clone())) {
            Ok(chosen) => return Ok(chosen),
            Err(refused) => refused,
        };
        match forms::in_components(graph) {
            Some(form) => self.only(form).map_err(|_| refused),
            None => Err(refused),
        }
    }

    /// A form drawn at random.
    pub fn drawn(&mut self, graph: &Graph, seed: u64) -> Result<Chosen, PlanError> {
        let (mut forms, stop) =
            forms::enumerate(graph, self.aim(graph)).map_err(PlanError::Forms)?;
        self.stop = stop;
        let pick = seed as usize % forms.len().max(1);
        self.only(forms.swap_remove(pick))
    }

    /// The form with some rules, and no others, in use.
    pub fn named(&mut self, graph: &Graph, wanted: &[RuleUse]) -> Result<Chosen, PlanError> {
        if wanted.is_empty() {
            return self.only(Form::written(graph.clone()));
        }
        let equalities = debug_span!("forms")
            .in_scope(|| Equalities::of(graph, self.aim(graph)))
            .map_err(PlanError::Forms)?;
        self.stop = equalities.stop().to_string();
        let is_wanted = |one: &&Use| wanted.iter().any(|of| of.is(one));
        let choice: BTreeSet<Use> = equalities
            .uses()
            .iter()
            .filter(is_wanted)
            .cloned()
            .collect();
        let missing = wanted
            .iter()
            .find(|of| !choice.iter().any(|one| of.is(one)));
        if let Some(RuleUse { rule, block }) = missing {
            return Err(PlanError::asked(
                format!("the rule `{rule}` in block `{block}`"),
                "it applies nowhere there",
            ));
        }
        let form = debug_span!("forms").in_scope(|| equalities.form(&choice));
        let form = form.ok_or_else(|| {
            PlanError::asked("the form of the model", "no graph uses just these rules")
        })?;
        self.only(form)
    }

    /// The cheapest form that was found. A rule has to save more than [`FORM_MARGIN`].
    ///
    /// Rules are tried wherever they apply first, each and all, and then block by block: those in
    /// use are left out where that costs nothing, the others are used where they pay.
    pub fn cheapest(&mut self, graph: &Graph) -> Result<Chosen, PlanError> {
        let equalities = debug_span!("forms")
            .in_scope(|| Equalities::of(graph, self.aim(graph)))
            .map_err(PlanError::Forms)?;
        self.stop = equalities.stop().to_string();
        let mut known: BTreeSet<BTreeSet<Use>> = BTreeSet::new();
        for choice in equalities.wholesale() {
            known.insert(choice.clone());
            self.consider(&equalities, choice)?;
        }
        for one in equalities.uses() {
            let mut choice = self.best.as_ref().map(|b| b.0.clone()).unwrap_or_default();
            if !choice.remove(one) {
                choice.insert(one.clone());
            }
            if known.insert(choice.clone()) {
                self.consider(&equalities, choice)?;
            }
        }
        let none = || PlanError::Selection("there is no form".into());
        match (self.best.take(), self.refused.take()) {
            (Some((_, chosen)), _) => Ok(chosen),
            (None, refused) => Err(refused.unwrap_or_else(none)),
        }
    }

    fn aim(&self, graph: &Graph) -> Aim {
        Aim::of(graph, self.options.shape, self.options.storage)
    }

    fn only(&mut self, form: Form) -> Result<Chosen, PlanError> {
        let rules = form.rules.clone();
        let chosen = self.select(form, self.options.mode)?;
        self.tried.push(decisions::Form {
            rules,
            uses: Vec::new(),
            total_us: chosen.cost as f64 / 1e3,
            exact: false,
            chosen: true,
        });
        Ok(chosen)
    }

    /// Plans the form with some rules, and keeps it if it is better than the best so far.
    fn consider(
        &mut self,
        equalities: &Equalities<'_>,
        choice: BTreeSet<Use>,
    ) -> Result<(), PlanError> {
        let form = debug_span!("forms").in_scope(|| equalities.form(&choice));
        let Some(form) = form.filter(|form| self.tried.iter().all(|f| f.rules != form.rules))
        else {
            return Ok(());
        };
        let rules = form.rules.clone();
        let uses: Vec<RuleUse> = choice.iter().map(RuleUse::from).collect();
        // Exact selection is for forms that promise to be chosen. With fewer rules, it suffices to
        // cost no more.
        let fewer = self.best.as_ref().is_some_and(|b| choice.is_subset(&b.0));
        let is_less = |cost: i64, than: Option<i64>| match than {
            None => true,
            Some(than) if fewer => cost <= than,
            Some(than) => (cost as f64) < than as f64 * (1.0 - FORM_MARGIN),
        };
        let quick = match self.select(form.clone(), Mode::Greedy) {
            Ok(quick) => quick.cost,
            // A rule may do away with a value that a pin names, or make an operation too large; and
            // a recurrence may be too large as it is written, but not in components.
            Err(error) => {
                self.refused.get_or_insert(error);
                return Ok(());
            }
        };
        if !is_less(quick, self.least_greedy) {
            self.tried.push(decisions::Form {
                rules,
                uses,
                total_us: quick as f64 / 1e3,
                exact: false,
                chosen: false,
            });
            return Ok(());
        }
        let chosen = match self.select(form, Mode::Auto) {
            Ok(chosen) => chosen,
            Err(error) => {
                self.refused.get_or_insert(error);
                return Ok(());
            }
        };
        self.least_greedy = Some(quick.min(self.least_greedy.unwrap_or(quick)));
        let better = is_less(chosen.cost, self.best.as_ref().map(|b| b.1.cost));
        if better {
            self.tried.iter_mut().for_each(|form| form.chosen = false);
        }
        self.tried.push(decisions::Form {
            rules,
            uses,
            total_us: chosen.cost as f64 / 1e3,
            exact: true,
            chosen: better,
        });
        if better {
            self.best = Some((choice, chosen));
        }
        Ok(())
    }

    /// Selects the kernels of a form.
    fn select(&mut self, form: Form, mode: Mode) -> Result<Chosen, PlanError> {
        let graph = &form.graph;
        // A rule that makes a malformed graph is a mistake of this crate; say so where it is made.
        validate(graph)?;
        let ctx = self.options.context(graph).with_classes(&self.classes);
        let one_row = ctx.at_last_row();
        let pins: Vec<Pin> = graph
            .pins
            .iter()
            .chain(&self.options.pins)
            .cloned()
            .collect();
        check_pin_names(&ctx, &pins)?;
        let segments = debug_span!("segments").in_scope(|| segments(&ctx));
        let classes = segments.iter().map(|s| s.class + 1).max().unwrap_or(0);
        let wanted = Wanted { mode, pins: &pins };
        self.progress.forms += usize::from(mode != Mode::Greedy);
        self.progress.parts = (0, classes);
        let mut selections: Vec<Selection> = Vec::with_capacity(classes);
        let mut cost = 0;
        for segment in &segments {
            if segment.class == selections.len() {
                self.progress.parts.0 = segment.class + 1;
                let (progress, watch) = (&mut self.progress, &mut *self.watch);
                let ctx = if segment.one_row { &one_row } else { &ctx };
                let of = self
                    .selections
                    .of(ctx, &segment.ops, &wanted, progress, watch)?;
                selections.push(of);
            }
            cost += selections[segment.class].cost;
        }
        let classes = self.classes.clone();
        Ok(Chosen {
            form,
            segments,
            selections,
            classes,
            cost,
        })
    }
}
