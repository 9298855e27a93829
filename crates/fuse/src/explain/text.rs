//! Explanations for people.

use super::diff::{Change, ChangeKind, Part, PlanDiff};
use super::pair::{Answer, At, Pair, Price};
use super::why::{Chosen, Edge, Other, Verdict, Why};
use crate::plan::Cost;
use crate::print::{amount, time, wrap};
use std::collections::BTreeMap;
use std::fmt;

/// Columns of a line.
const WIDTH: usize = 96;
/// Decisions shown of each sort in the summary.
const SHOWN: usize = 3;
/// Operations named of a group; the rest are counted.
const NAMED: usize = 12;

/// Writes a paragraph with a left margin, broken at blanks.
fn paragraph(f: &mut fmt::Formatter<'_>, margin: usize, text: &str) -> fmt::Result {
    for line in wrap(text, WIDTH.saturating_sub(margin)) {
        writeln!(f, "{:margin$}{line}", "")?;
    }
    Ok(())
}

fn layers(layers: &[u32]) -> String {
    match layers {
        [] => "outside the layers".into(),
        [one] => format!("layer {one}"),
        [first, .., last] if layers.len() == (last - first) as usize + 1 => {
            format!("layers {first}..{last}")
        }
        many => {
            let names: Vec<String> = many.iter().map(u32::to_string).collect();
            format!("layers {}", names.join(", "))
        }
    }
}

fn quoted(names: &[String]) -> String {
    let shown = names.iter().take(NAMED).map(|n| format!("`{n}`"));
    let mut text = shown.collect::<Vec<_>>().join(", ");
    if names.len() > NAMED {
        text.push_str(&format!(" and {} more", names.len() - NAMED));
    }
    text
}

/// A difference of times from what was chosen, in words.
fn more(us: f64) -> String {
    if us.abs() < 5e-4 {
        "as much as now".into()
    } else if us > 0.0 {
        format!("{} more", precise(us))
    } else {
        format!("{} less", precise(-us))
    }
}

/// Small differences need their digits.
fn precise(us: f64) -> String {
    if us < 10.0 {
        format!("{us:.3} us")
    } else {
        time(us)
    }
}

fn count(n: usize, what: &str) -> String {
    let ending = match n {
        1 => "",
        _ if what.ends_with("ch") => "es",
        _ => "s",
    };
    format!("{n} {what}{ending}")
}

/// The terms that are not nothing, the deciding one first.
fn terms(cost: &Cost) -> String {
    let mut terms = [
        (
            cost.memory_us,
            format!(
                "memory {} ({}, and {} from L2)",
                time(cost.memory_us),
                amount(cost.bytes),
                amount(cost.l2_bytes)
            ),
        ),
        (
            cost.tensor_us,
            format!("tensor cores {}", time(cost.tensor_us)),
        ),
        (cost.simt_us, format!("arithmetic {}", time(cost.simt_us))),
        (
            cost.special_us,
            format!("special functions {}", time(cost.special_us)),
        ),
        (
            cost.serial_us,
            format!(
                "{:.0} serial steps {}",
                cost.serial_steps,
                time(cost.serial_us)
            ),
        ),
    ];
    terms.sort_by(|a, b| b.0.total_cmp(&a.0));
    let shown: Vec<String> = terms
        .into_iter()
        .filter(|(us, _)| *us >= 0.05)
        .map(|(_, text)| text)
        .collect();
    let largest = if shown.is_empty() {
        "less than 0.1 us of work".to_string()
    } else {
        format!("the largest of {}", shown.join(", "))
    };
    let mut text = format!(
        "{largest}; plus launch {}, latency {}",
        time(cost.launch_us),
        time(cost.latency_us)
    );
    if cost.barrier_us > 0.0 {
        text.push_str(&format!(", grid barrier {}", time(cost.barrier_us)));
    }
    if cost.underfill_us >= 0.05 {
        text.push_str(&format!(", too few blocks {}", time(cost.underfill_us)));
    }
    text
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} on {}: {} storage, B={} T={}, plan {}",
            self.model, self.device, self.storage, self.shape.batch, self.shape.time, self.mode
        )?;
        writeln!(f, "{}", self.claim)?;
        for form in &self.forms {
            let rules = match form.rules.is_empty() {
                true => "as written".to_string(),
                false => form.rules.join(", "),
            };
            let verdict = form.verdict(&self.forms);
            let chosen = self.forms.iter().find(|f| f.chosen);
            let than = match chosen.filter(|_| !form.chosen) {
                Some(chosen) => format!(", {}", more(form.total_us - chosen.total_us)),
                None => String::new(),
            };
            let us = time(form.total_us);
            paragraph(f, 0, &format!("form {verdict}: {us}{than}: {rules}"))?;
        }
        let us: f64 = self.kernels.iter().map(|k| k.cost.total_us).sum();
        let what = match self.layers.is_empty() {
            true => "the model".to_string(),
            false => layers(&self.layers),
        };
        let each = if self.layers.len() > 1 { " each" } else { "" };
        writeln!(
            f,
            "\n{what}: {}{each}, {}{each}",
            count(self.kernels.len(), "launch"),
            time(us)
        )?;
        for kernel in &self.kernels {
            writeln!(f)?;
            write_chosen(f, kernel)?;
        }
        self.write_savings(f)?;
        self.write_dearer(f)?;
        self.write_illegal(f)
    }
}

fn write_chosen(f: &mut fmt::Formatter<'_>, kernel: &Chosen) -> fmt::Result {
    writeln!(
        f,
        "{} ({}): {}, {}",
        kernel.name,
        kernel.template,
        count(kernel.ops.len(), "operation"),
        time(kernel.cost.total_us)
    )?;
    paragraph(f, 2, &format!("computes {}", kernel.ops.join(", ")))?;
    if !kernel.forms.is_empty() {
        paragraph(f, 2, &format!("forms {}", kernel.forms.join(", ")))?;
    }
    paragraph(f, 2, &format!("takes {}", terms(&kernel.cost)))?;
    for other in &kernel.others {
        let text = match other {
            Other::Dearer { template, by_us } => {
                format!("as {template}, the same would take {}", more(*by_us))
            }
            Other::NotInChunks { scans, reason } => format!(
                "{} not in chunks: {} allows {}, got {}",
                quoted(scans),
                reason.rule,
                reason.limit,
                reason.got
            ),
        };
        paragraph(f, 2, &text)?;
    }
    match kernel.saved.launches {
        0 => Ok(()),
        _ => paragraph(f, 2, &format!("saves {}", saved(kernel))),
    }
}

fn saved(kernel: &Chosen) -> String {
    let saved = &kernel.saved;
    let bytes = match saved.bytes {
        b if b >= 0.0 => amount(b),
        b => format!("-{}", amount(-b)),
    };
    let launches = count(saved.launches, "launch");
    format!(
        "{}, {bytes} of traffic and {launches} against one kernel per operation",
        time(saved.us)
    )
}

impl Why {
    /// See [`super::highlights`].
    pub(super) fn highlights(&self) -> Vec<String> {
        let fused = self.kernels.iter().filter(|k| k.saved.launches > 0);
        let largest = fused.max_by(|a, b| a.saved.us.total_cmp(&b.saved.us));
        let largest = largest.map(|k| format!("largest saving: {}: {}", k.name, saved(k)));
        let priced = self.edges.iter().filter_map(|edge| match edge.verdict {
            Verdict::Dearer { by_us } => Some((by_us, edge)),
            _ => None,
        });
        let closest = priced.min_by(|a, b| a.0.total_cmp(&b.0));
        let closest =
            closest.map(|(us, edge)| format!("closest call: {}: {}", more(us), way(edge)));
        let ruled = self.edges.iter().filter_map(|edge| match &edge.verdict {
            Verdict::Illegal { reason, .. } => Some((edge, reason)),
            _ => None,
        });
        // The first of equals.
        let ruled = ruled.reduce(|a, b| if b.0.bytes > a.0.bytes { b } else { a });
        let ruled = ruled.map(|(edge, reason)| {
            format!(
                "largest value that a rule sends through memory: {}: {}, allowed {}, got {}",
                way(edge),
                reason.rule,
                reason.limit,
                reason.got
            )
        });
        [largest, closest, ruled].into_iter().flatten().collect()
    }

    fn write_savings(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut by: Vec<&Chosen> = self
            .kernels
            .iter()
            .filter(|k| k.saved.launches > 0)
            .collect();
        by.sort_by(|a, b| b.saved.us.total_cmp(&a.saved.us));
        if by.is_empty() {
            return writeln!(f, "\nnothing is fused");
        }
        writeln!(f, "\nlargest savings:")?;
        for kernel in by.into_iter().take(SHOWN) {
            paragraph(f, 2, &format!("{}: {}", kernel.name, saved(kernel)))?;
        }
        Ok(())
    }

    fn write_dearer(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let price = |edge: &Edge| match edge.verdict {
            Verdict::Dearer { by_us } => Some(by_us),
            _ => None,
        };
        let mut priced: Vec<(f64, &Edge)> = self
            .edges
            .iter()
            .filter_map(|e| Some((price(e)?, e)))
            .collect();
        priced.sort_by(|a, b| a.0.total_cmp(&b.0));
        if !priced.is_empty() {
            let unit = if self.layers.is_empty() {
                "model"
            } else {
                "layer"
            };
            writeln!(
                f,
                "\nclosest calls, legal in one kernel (what the {unit} would then take):"
            )?;
            for (us, edge) in priced {
                paragraph(f, 2, &format!("{}: {}", more(us), way(edge)))?;
            }
        }
        for (what, wanted) in [
            (
                "legal in one kernel, not priced here (name two values to price them):",
                true,
            ),
            ("kept apart by pins:", false),
        ] {
            let mut first = true;
            for edge in &self.edges {
                let text = match (&edge.verdict, wanted) {
                    (Verdict::Legal, true) => way(edge),
                    (Verdict::Pinned { reason }, false) => format!(
                        "{}: {}, allowed {}, got {}",
                        way(edge),
                        reason.rule,
                        reason.limit,
                        reason.got
                    ),
                    _ => continue,
                };
                if std::mem::take(&mut first) {
                    writeln!(f, "\n{what}")?;
                }
                paragraph(f, 2, &text)?;
            }
        }
        Ok(())
    }

    fn write_illegal(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut by_rule: BTreeMap<(&str, &str), Vec<(&Edge, &str)>> = BTreeMap::new();
        for edge in &self.edges {
            if let Verdict::Illegal { reason, .. } = &edge.verdict {
                let of = by_rule.entry((&reason.rule, &reason.limit)).or_default();
                of.push((edge, &reason.got));
            }
        }
        if by_rule.is_empty() {
            return Ok(());
        }
        writeln!(f, "\nillegal in one kernel, by rule:")?;
        for ((rule, limit), edges) in by_rule {
            paragraph(f, 2, &format!("{rule}: allowed {limit}"))?;
            for (edge, got) in edges {
                paragraph(f, 4, &format!("{} (got {got})", way(edge)))?;
            }
        }
        Ok(())
    }
}

/// An edge in words.
fn way(edge: &Edge) -> String {
    format!(
        "{} ({}), {} -> {}",
        quoted(&edge.values),
        amount(edge.bytes),
        edge.from,
        edge.to
    )
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Pair { a, b, .. } = self;
        let whence = match self.layers.is_empty() {
            true => String::new(),
            false => format!(" ({})", layers(&self.layers)),
        };
        match &self.answer {
            Answer::Together { kernel, apart } => {
                writeln!(f, "`{a}` and `{b}`: together{whence}")?;
                paragraph(f, 2, &format!("in {}", at(kernel)))?;
                write_price(f, "apart", apart)?;
            }
            Answer::Dearer {
                a: at_a,
                b: at_b,
                group,
                together,
            } => {
                writeln!(f, "`{a}` and `{b}`: apart, by cost{whence}")?;
                write_places(f, self, at_a, at_b)?;
                paragraph(
                    f,
                    2,
                    &format!("one kernel is legal; it holds at least {}", quoted(group)),
                )?;
                write_price(f, "together", together)?;
            }
            Answer::Illegal {
                a: at_a,
                b: at_b,
                reason,
                group,
                complete,
            } => {
                writeln!(f, "`{a}` and `{b}`: apart, by rule{whence}")?;
                write_places(f, self, at_a, at_b)?;
                let at = match reason.at.is_empty() {
                    true => String::new(),
                    false => format!(", at {}", quoted(&reason.at)),
                };
                paragraph(
                    f,
                    2,
                    &format!(
                        "rule {}: allowed {}, got {}{at}",
                        reason.rule, reason.limit, reason.got
                    ),
                )?;
                paragraph(
                    f,
                    2,
                    &format!("the smallest group with both is {}", quoted(group)),
                )?;
                let larger = match complete {
                    true => "no larger group with both is legal either",
                    false => "no legal group with both was found, and not all were examined",
                };
                paragraph(f, 2, larger)?;
            }
            Answer::Elsewhere { a: in_a, b: in_b } => {
                writeln!(f, "`{a}` and `{b}`: apart, in different parts of the model")?;
                paragraph(f, 2, &format!("`{a}`: {}", places(in_a)))?;
                paragraph(f, 2, &format!("`{b}`: {}", places(in_b)))?;
                paragraph(
                    f,
                    2,
                    "no kernel spans two layers, or a layer and what is outside",
                )?;
            }
            Answer::Folded {
                values,
                rules,
                together,
            } => {
                writeln!(
                    f,
                    "`{a}` and `{b}`: the chosen form does not compute {}",
                    quoted(values)
                )?;
                let rules = match rules.is_empty() {
                    true => "the model as written".to_string(),
                    false => rules.join(", "),
                };
                paragraph(f, 2, &format!("form: {rules}"))?;
                write_price(f, "together", together)?;
            }
        }
        paragraph(f, 2, &format!("prices: {}", self.claim))
    }
}

fn places(layers: &[Option<u32>]) -> String {
    let inside: Vec<u32> = layers.iter().copied().flatten().collect();
    let mut parts = Vec::new();
    if !inside.is_empty() {
        parts.push(self::layers(&inside));
    }
    if layers.contains(&None) {
        parts.push("outside the layers".into());
    }
    parts.join(" and ")
}

fn at(at: &At) -> String {
    let ops = count(at.ops, "operation");
    format!("{} ({}, {ops}, {})", at.kernel, at.template, time(at.us))
}

fn write_places(f: &mut fmt::Formatter<'_>, pair: &Pair, a: &At, b: &At) -> fmt::Result {
    paragraph(f, 2, &format!("`{}` in {}", pair.a, at(a)))?;
    paragraph(f, 2, &format!("`{}` in {}", pair.b, at(b)))
}

fn write_price(f: &mut fmt::Formatter<'_>, what: &str, price: &Price) -> fmt::Result {
    match price {
        Price::Refused { why } => paragraph(f, 2, &format!("{what}: refused by {why}")),
        Price::Plan {
            from_us,
            to_us,
            launches,
            forms,
            changes,
            elsewhere,
        } => {
            paragraph(
                f,
                2,
                &format!(
                    "{what}: the run takes {}, {} -> {}, with {} -> {} launches",
                    more(to_us - from_us),
                    time(*from_us),
                    time(*to_us),
                    launches.0,
                    launches.1
                ),
            )?;
            if let Some(forms) = forms {
                let forms = match forms.is_empty() {
                    true => "the model as written".to_string(),
                    false => forms.join(", "),
                };
                paragraph(f, 2, &format!("in another form: {forms}"))?;
            }
            for change in changes {
                write_change(f, 2, change, false)?;
            }
            match elsewhere {
                (0, 0) => Ok(()),
                (before, after) => paragraph(
                    f,
                    2,
                    &format!("in other layers, and swaps of equals: {before} -> {after} launches"),
                ),
            }
        }
    }
}

impl fmt::Display for PlanDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (a, b) = self.shape;
        let shape = |s: crate::Shape| format!("B={} T={}", s.batch, s.time);
        if a == b {
            writeln!(f, "plan for {}", shape(a))?;
        } else {
            writeln!(f, "plan for {} -> {}", shape(a), shape(b))?;
        }
        if self.is_empty() {
            return writeln!(f, "  no difference");
        }
        for setting in &self.settings {
            paragraph(
                f,
                2,
                &format!("{}: {} -> {}", setting.name, setting.before, setting.after),
            )?;
        }
        for form in &self.forms_gone {
            paragraph(f, 2, &format!("form no longer taken: {form}"))?;
        }
        for form in &self.forms_new {
            paragraph(f, 2, &format!("form newly taken: {form}"))?;
        }
        paragraph(
            f,
            2,
            &format!(
                "launches {} -> {}, traffic {} -> {}, time {} -> {}",
                self.launches.0,
                self.launches.1,
                amount(self.bytes.0),
                amount(self.bytes.1),
                time(self.total_us.0),
                time(self.total_us.1)
            ),
        )?;
        for change in &self.changes {
            write_change(f, 2, change, true)?;
        }
        Ok(())
    }
}

fn write_change(
    f: &mut fmt::Formatter<'_>,
    margin: usize,
    change: &Change,
    with_layers: bool,
) -> fmt::Result {
    let us = |parts: &[Part]| -> f64 { parts.iter().map(|p| p.us).sum() };
    let part = |p: &Part| format!("{} ({}, {})", p.name, p.template, count(p.ops.len(), "op"));
    let list = |parts: &[Part]| parts.iter().map(part).collect::<Vec<_>>().join(" + ");
    let whence = match with_layers {
        true => format!("{}: ", layers(&change.layers)),
        false => String::new(),
    };
    let (before, after) = (&change.before, &change.after);
    let times = format!("{} -> {}", time(us(before)), time(us(after)));
    let text = match (change.kind, &before[..], &after[..]) {
        (ChangeKind::Merged, ..) => {
            format!("merged {} into {}: {times}", list(before), list(after))
        }
        (ChangeKind::Split, ..) => format!("split {} into {}: {times}", list(before), list(after)),
        (ChangeKind::Regrouped, ..) => {
            format!("regrouped {} into {}: {times}", list(before), list(after))
        }
        (ChangeKind::Added, ..) => format!("added {}: {}", list(after), time(us(after))),
        (ChangeKind::Removed, ..) => format!("removed {}: {}", list(before), time(us(before))),
        (ChangeKind::Altered, [a], [b]) => {
            let mut text = format!("same operations, {}", a.name);
            if a.name != b.name {
                text.push_str(&format!(" -> {}", b.name));
            }
            if a.template != b.template {
                text.push_str(&format!(", {} -> {}", a.template, b.template));
            }
            format!("{text}: {times}")
        }
        (ChangeKind::Altered, ..) => format!("{} -> {}: {times}", list(before), list(after)),
    };
    paragraph(f, margin, &format!("{whence}{text}"))?;
    let mut by_way: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for of in &change.moved {
        by_way
            .entry((&of.from, &of.to))
            .or_default()
            .push(of.op.clone());
    }
    for ((from, to), ops) in by_way {
        paragraph(
            f,
            margin + 2,
            &format!("moved {} from {from} to {to}", quoted(&ops)),
        )?;
    }
    Ok(())
}
