//! Steps written in other words: random algebraic rewritings, temporaries and names leave every component
//! of the class that it has.

mod rules;
mod term;

use fusec_ir::class::{Class, classify};
use fusec_ir::components::separate;
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_ir::{Graph, OpKind};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use term::{Axes, Term};

/// Most terms of a step: rules that copy terms stop there.
const MAX_TERMS: usize = 160;

/// A model text around a step.
#[derive(Clone, Debug)]
struct Program {
    before: String,
    after: String,
    /// Axes of inputs and states.
    formals: Axes,
    states: Vec<String>,
    outputs: Vec<String>,
    step: Vec<(String, Term)>,
}

impl Program {
    /// The model of tests/recurrences of this name.
    fn open(name: &str) -> Self {
        let path = format!("../../tests/recurrences/{name}.toml");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let text = std::fs::read_to_string(path).expect("a model");
        let (before, rest) = text.split_once("\"\"\"").expect("a step");
        let (step, after) = rest.split_once("\"\"\"").expect("its end");
        let list = |key: &str| {
            let line = before.lines().find(|line| line.starts_with(key));
            formals(line.expect("a list").split('"').nth(1).expect("quoted"))
        };
        let (inputs, states, outputs) = (list("inputs"), list("state "), list("outputs"));
        let statements = step.lines().filter_map(|line| line.split_once('='));
        Program {
            before: before.to_owned(),
            after: after.to_owned(),
            states: states.iter().map(|(name, _)| name.clone()).collect(),
            outputs: outputs.into_iter().map(|(name, _)| name).collect(),
            formals: inputs.into_iter().chain(states).collect(),
            step: statements
                .map(|(name, value)| (name.trim().to_owned(), term::read(value)))
                .collect(),
        }
    }

    fn text(&self) -> String {
        let lines = self
            .step
            .iter()
            .map(|(name, value)| format!("  {name} = {value}\n"));
        let step: String = lines.collect();
        format!("{}\"\"\"\n{step}\"\"\"{}", self.before, self.after)
    }

    /// Axes of all names before each statement; `None` if the language would not have a statement.
    fn axes(&self) -> Option<Vec<Axes>> {
        let mut axes = self.formals.clone();
        let mut all = vec![];
        for (name, value) in &self.step {
            all.push(axes.clone());
            let own = value.axes(&axes)?;
            match self.states.contains(name) {
                true if !own.is_subset(&self.formals[name]) => return None,
                true => {}
                false => {
                    axes.insert(name.clone(), own);
                }
            }
        }
        Some(all)
    }

    /// The programs that one rule makes of it, by rule.
    fn rewritten(&self) -> BTreeMap<&'static str, Vec<Program>> {
        let axes = self.axes().expect("a program");
        let size = |program: &Program| {
            let values = program.step.iter().map(|(_, value)| value.all().len());
            values.sum::<usize>()
        };
        let mut out: BTreeMap<&str, Vec<Program>> = BTreeMap::new();
        let mut add = |rule, program: Program| {
            if program.axes().is_some() && size(&program) <= MAX_TERMS {
                out.entry(rule).or_default().push(program);
            }
        };
        for (i, (name, value)) in self.step.iter().enumerate() {
            for (at, term) in value.all().into_iter().enumerate() {
                for (rule, equal) in rules::equal(term, &axes[i]) {
                    let mut program = self.clone();
                    program.step[i].1 = value.with(at, &equal);
                    add(rule, program);
                }
                if !matches!(term, Term::Name(_) | Term::Number(_)) {
                    let mut program = self.clone();
                    let new = self.new_name();
                    program.step[i].1 = value.with(at, &Term::Name(new.clone()));
                    program.step.insert(i, (new, term.clone()));
                    add("name", program);
                }
            }
            if let Some(program) = self.inlined(i, name, value) {
                add("inline", program);
            }
        }
        out
    }

    fn new_name(&self) -> String {
        let is_taken = |name: &String| self.step.iter().any(|(known, _)| known == name);
        let mut names = (0..).map(|n| format!("t{n}"));
        names.find(|name| !is_taken(name)).expect("one is free")
    }

    /// The program without a statement that sets no state and no output, its value wherever it is read.
    fn inlined(&self, i: usize, name: &String, value: &Term) -> Option<Program> {
        let set_once = self.step.iter().filter(|(other, _)| other == name).count() == 1;
        if !set_once || self.states.contains(name) || self.outputs.contains(name) {
            return None;
        }
        let mut program = self.clone();
        program.step.remove(i);
        let mut changed = false;
        for (target, later) in &mut program.step[i..] {
            let reads = later.names().any(|read| read == name);
            if reads && changed {
                return None;
            }
            *later = later.substitute(&|read| match read == name {
                true => value.clone(),
                false => Term::Name(read.clone()),
            });
            changed |= value.names().any(|read| read == target);
        }
        Some(program)
    }

    /// The same with other names for everything that the step names.
    fn renamed(&self) -> Program {
        let targets = self.step.iter().map(|(name, _)| name);
        let names: BTreeSet<&String> = self.formals.keys().chain(targets).collect();
        // In another order of the alphabet.
        let new: BTreeMap<&String, String> = names
            .iter()
            .rev()
            .enumerate()
            .map(|(n, name)| (*name, format!("x{n}")))
            .collect();
        let rename = |name: &String| new.get(name).unwrap_or(name).clone();
        let head = self.before.find("[recurrence.").expect("a recurrence");
        let (before, section) = self.before.split_at(head);
        let lines = section.lines().map(|line| match line.split_once('"') {
            Some((key, list)) if !key.starts_with("step") => {
                let words = list.split_inclusive(|c: char| !c.is_alphanumeric() && c != '_');
                let words = words.map(|word| {
                    let end = word.trim_end_matches(|c: char| !c.is_alphanumeric() && c != '_');
                    // Axes stand in brackets and are no names of the step.
                    match word[end.len()..].starts_with([']', '=']) {
                        true => word.to_owned(),
                        false => rename(&end.to_owned()) + &word[end.len()..],
                    }
                });
                format!("{key}\"{}\n", words.collect::<String>())
            }
            _ => line.to_owned() + "\n",
        });
        let section = lines.collect::<String>();
        let of = |axes: &Axes| axes.iter().map(|(n, a)| (rename(n), a.clone())).collect();
        Program {
            before: format!("{before}{}", section.trim_end_matches('\n')),
            after: self.after.clone(),
            formals: of(&self.formals),
            states: self.states.iter().map(rename).collect(),
            outputs: self.outputs.iter().map(rename).collect(),
            step: self
                .step
                .iter()
                .map(|(name, value)| {
                    let value = value.substitute(&|name| Term::Name(rename(name)));
                    (rename(name), value)
                })
                .collect(),
        }
    }

    /// States and outputs after a step where every axis has one element.
    fn values(&self) -> Vec<f64> {
        let mut values = BTreeMap::new();
        for (n, name) in self.formals.keys().enumerate() {
            values.insert(name.clone(), 0.3 + 0.17 * n as f64);
        }
        for (name, value) in &self.step {
            let value = value.value(&values);
            values.insert(name.clone(), value);
        }
        let results = self.states.iter().chain(&self.outputs);
        results.map(|name| values[name]).collect()
    }

    /// The class of each state, or that it is a row of an input kept for the next token.
    fn classes(&self) -> Vec<&'static str> {
        let text = self.text();
        let graph = match compile(
            &ModelSource::from_text("m", text.as_str()),
            &Overrides::default(),
        ) {
            Ok(graph) => separate(&graph, |_| true),
            Err(error) => panic!("{text}\n{:?}", miette::Report::new(error)),
        };
        let of = classes(&graph);
        let class = |state| of.get(state).copied().unwrap_or("delayed-input");
        self.states.iter().map(class).collect()
    }
}

/// Names of a list of formals with their axes.
fn formals(list: &str) -> Vec<(String, BTreeSet<String>)> {
    let each = list.split_inclusive(']').filter_map(|formal| {
        let (name, axes) = formal.trim_end_matches(']').split_once('[')?;
        let name = name.rsplit([',', ' ']).next()?;
        let axes = axes.split(',').filter_map(|axis| axis.split('=').next());
        Some((
            name.to_owned(),
            axes.map(|axis| axis.trim().to_owned()).collect(),
        ))
    });
    each.collect()
}

fn classes(graph: &Graph) -> BTreeMap<String, &'static str> {
    let mut out = BTreeMap::new();
    for op in &graph.ops {
        if let OpKind::Scan { recurrence, .. } = op.kind {
            let step = graph.recurrence(recurrence);
            let found = classify(graph, step);
            let names = step.states.iter().map(|state| state.name.clone());
            out.extend(names.zip(found.states.iter().map(Class::name)));
        }
    }
    out
}

/// Models of tests/recurrences/ and the classes of their states, in order.
const MODELS: [(&str, &[&str]); 14] = [
    ("linear-attention", &["diagonal-outer", "diagonal-outer"]),
    ("counted", &["diagonal-outer", "elementwise"]),
    ("mlstm", &["diagonal-outer", "diagonal-outer", "max-plus"]),
    ("coupled-averages", &["elementwise", "elementwise"]),
    ("inner-loop", &["diagonal-rank-one"]),
    ("convex", &["diagonal-outer"]),
    (
        "inner-normaliser",
        &["diagonal-outer", "elementwise", "diagonal-outer"],
    ),
    ("two-reads", &["diagonal-outer"]),
    ("at-once", &["diagonal-low-rank"]),
    (
        "rotating-matrix",
        &[
            "diagonal-low-rank",
            "diagonal-low-rank",
            "delayed-input",
            "delayed-input",
            "delayed-input",
        ],
    ),
    ("delta-product", &["diagonal-low-rank"]),
    ("several-updates", &["diagonal-low-rank"]),
    (
        "trapezoidal",
        &["diagonal-low-rank", "delayed-input", "delayed-input"],
    ),
    ("leaky-maximum", &["max-plus"]),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn rewritten_steps_have_the_same_classes(
        choices in prop::collection::vec(any::<[prop::sample::Index; 2]>(), 0..24),
        renamed in any::<bool>(),
    ) {
        for (name, expected) in MODELS {
            let written = Program::open(name);
            let mut program = written.clone();
            for [rule, place] in &choices {
                // Rules alike, whatever the number of places that they have.
                let all: Vec<Vec<Program>> = program.rewritten().into_values().collect();
                if !all.is_empty() {
                    let programs: &Vec<Program> = rule.get(&all);
                    program = place.get(programs).clone();
                }
            }
            // The rules are those of algebra.
            for (a, b) in written.values().into_iter().zip(program.values()) {
                prop_assert!((a - b).abs() <= 1e-9 * a.abs().max(1.0), "{}", program.text());
            }
            if renamed {
                program = program.renamed();
            }
            prop_assert_eq!(program.classes(), expected, "{}", program.text());
        }
    }
}
