//! Tables of what was measured, from the records in bench/results/: `bench/results/tables.toml` says which
//! figure stands where, and nothing but what the records hold is written.
//!
//! A cell is text with figures in braces: `{RECORD/ENTRY@SHAPE~PLAN | FIGURE}`. RECORD is a name of `[records]`;
//! ENTRY a key of a record that holds several, or the row of a record of peers, with `!PEER` for what a peer
//! took; SHAPE (`B8T256`) and PLAN pick one of several measurements, the first if they are left out; FIGURE is
//! `ms` (the default), `tokens`, `share`, `peak`, or `over NAME`: how many times as long as another figure.
//!
//! Also read by a test of the whole program: it depends on nothing but JSON and TOML.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

/// Where records lie, and what says which of their figures are shown.
pub const RESULTS: &str = "bench/results";
const SPEC: &str = "bench/results/tables.toml";
/// The page that they are shown in.
pub const PAGE: &str = "docs/performance.md";
const END: &str = "<!-- end of table -->";

/// `tables.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    /// Files by name, below `bench/results/`.
    records: BTreeMap<String, String>,
    /// What was timed, where a record does not say it: arguments of `fusec compile` by names of figures, in
    /// which `*` at the end stands for anything.
    made: BTreeMap<String, String>,
    table: Vec<Table>,
    #[serde(default)]
    plot: Vec<Plot>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    name: String,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// A picture: what `fusec bench --recorded` draws of some measurements.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plot {
    /// What its file is called in `docs/`, without an ending.
    pub name: String,
    /// The file that the program writes.
    pub file: String,
    /// Figures, which stand for what was measured with them.
    pub of: Vec<String>,
    /// A record of peers beside them.
    pub beside: Option<String>,
}

/// All records with what is shown of them.
pub struct Records {
    spec: Spec,
    read: BTreeMap<String, Value>,
}

/// One measurement.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What it is called in `tables.toml`.
    pub name: String,
    /// Milliseconds of a run, the median.
    pub ms: f64,
    tokens: Option<f64>,
    share: Option<f64>,
    peak: Option<f64>,
    /// SHA-256 of the sources of its kernels; empty for a peer's.
    pub kernels: BTreeSet<String>,
    /// Arguments of `fusec compile` that make it again; none for a peer's.
    pub made: Vec<String>,
}

impl Figure {
    /// What is to be said of it if its kernels are no longer those that were timed: how many of those that a
    /// manifest made anew launches in such a run are others. A plan may launch a kernel that was there already.
    pub fn changed(&self, manifest: &Value) -> Option<String> {
        let regimes = manifest["regimes"].as_array();
        let step = self.made.iter().any(|word| word.ends_with(",T=1"));
        let regime = regimes.and_then(|all| if step { all.first() } else { all.last() });
        let steps = regime.and_then(|regime| regime["steps"].as_array());
        let now: BTreeSet<&str> = steps
            .into_iter()
            .flatten()
            .filter_map(|step| {
                let at = usize::try_from(step["kernel"].as_u64()?).ok()?;
                manifest["kernels"][at]["source_sha256"].as_str()
            })
            .collect();
        let new = now
            .iter()
            .filter(|hash| !self.kernels.contains(**hash))
            .count();
        (new > 0).then(|| {
            format!(
                "{new} of {} kernels are not those that were timed",
                now.len()
            )
        })
    }
}

impl Records {
    /// Reads all of them; `root` is the repository.
    pub fn read(root: &Path) -> Result<Self, String> {
        let text =
            |path: &Path| fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()));
        let spec = text(&root.join(SPEC))?;
        let spec: Spec = toml::from_str(&spec).map_err(|error| format!("{SPEC}: {error}"))?;
        let read = spec.records.iter().map(|(name, file)| {
            let path = root.join(RESULTS).join(file);
            let value = serde_json::from_str(&text(&path)?);
            let value = value.map_err(|error| format!("{}: {error}", path.display()))?;
            Ok((name.clone(), value))
        });
        Ok(Records {
            read: read.collect::<Result<_, String>>()?,
            spec,
        })
    }

    /// The tables by name, as Markdown.
    pub fn tables(&self) -> Result<BTreeMap<&str, String>, String> {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let table = |table: &Table| {
            let mut out = line(&table.head);
            out.push_str(&format!("|{}\n", "---|".repeat(table.head.len())));
            for row in &table.rows {
                if row.len() != table.head.len() {
                    return Err(format!(
                        "{}: {row:?} is not as wide as its head",
                        table.name
                    ));
                }
                let cells = row.iter().map(|cell| self.filled(cell));
                let cells: Result<Vec<String>, String> = cells.collect();
                out.push_str(&line(&cells.map_err(|e| format!("{}: {e}", table.name))?));
            }
            Ok(out)
        };
        let tables = self.spec.table.iter();
        tables
            .map(|of| Ok((of.name.as_str(), table(of)?)))
            .collect()
    }

    /// The pictures.
    pub fn plots(&self) -> &[Plot] {
        &self.spec.plot
    }

    /// What a picture is drawn of: one record, to be read by `fusec bench --recorded`.
    pub fn record_of(&self, plot: &Plot) -> Result<Value, String> {
        let mut out: Option<Value> = None;
        for name in &plot.of {
            let (record, subject, measured) = self.measured(name)?;
            let mut subject = subject.clone();
            subject["measurements"] = Value::Array(vec![measured.clone()]);
            let all = out.get_or_insert_with(|| {
                serde_json::json!({
                    "protocol": record["protocol"], "provenance": record["provenance"], "subjects": [],
                })
            });
            if let Some(subjects) = all["subjects"].as_array_mut() {
                subjects.push(subject);
            }
        }
        out.ok_or_else(|| format!("the plot {} is of nothing", plot.name))
    }

    /// The path of a record's file below the repository.
    pub fn path(&self, record: &str) -> Result<String, String> {
        let file = self.spec.records.get(record);
        let file = file.ok_or_else(|| format!("no record is called `{record}`"))?;
        Ok(format!("{RESULTS}/{file}"))
    }

    /// Every measurement of fusec's that is shown, once.
    pub fn shown(&self) -> Result<Vec<Figure>, String> {
        let cells = self
            .spec
            .table
            .iter()
            .flat_map(|table| table.rows.iter().flatten());
        let in_cells = cells.flat_map(|cell| parts(cell).into_iter().filter_map(|(_, name)| name));
        let in_plots = self
            .spec
            .plot
            .iter()
            .flat_map(|plot| plot.of.iter().map(String::as_str));
        let mut names: BTreeSet<&str> = BTreeSet::new();
        for of in in_cells {
            let (name, what) = of.split_once(" | ").unwrap_or((of, ""));
            names.insert(name);
            names.extend(what.strip_prefix("over "));
        }
        names.extend(in_plots);
        let figures = names.into_iter().map(|name| self.figure(name));
        let figures: Vec<Figure> = figures.collect::<Result<_, _>>()?;
        Ok(figures
            .into_iter()
            .filter(|figure| !figure.made.is_empty())
            .collect())
    }

    /// A cell with its figures in place.
    fn filled(&self, cell: &str) -> Result<String, String> {
        let mut out = String::new();
        for (text, of) in parts(cell) {
            out.push_str(text);
            let Some(of) = of else { continue };
            let (name, what) = of.split_once(" | ").unwrap_or((of, "ms"));
            let figure = self.figure(name)?;
            let there = |value: Option<f64>| value.ok_or_else(|| format!("{name} has no {what}"));
            out.push_str(&match what {
                "ms" => milliseconds(figure.ms),
                "tokens" => thousands(there(figure.tokens)?),
                "share" => format!("{:.0} %", there(figure.share)? * 100.0),
                "peak" => format!("{:.1} MB", there(figure.peak)? / 1e6),
                what => {
                    let other = what.strip_prefix("over ");
                    let other = other.ok_or_else(|| format!("`{what}` is no figure"))?;
                    format!("{:.2}", figure.ms / self.figure(other)?.ms)
                }
            });
        }
        Ok(out)
    }

    fn figure(&self, name: &str) -> Result<Figure, String> {
        let record = name.split(['/', '@', '~', '!']).next().unwrap_or(name);
        match self.record(record)?.get("rows") {
            Some(rows) => self.of_peers(name, rows),
            None => self.of_ours(name),
        }
    }

    fn record(&self, name: &str) -> Result<&Value, String> {
        let read = self.read.get(name);
        read.ok_or_else(|| format!("no record is called `{name}`"))
    }

    /// A record of ours, in it a subject, and of that a measurement.
    fn measured(&self, name: &str) -> Result<(&Value, &Value, &Value), String> {
        let (place, plan) = split(name, '~');
        let (place, shape) = split(place, '@');
        let (record, entry) = split(place, '/');
        let mut record = self.record(record)?;
        if let Some(entry) = entry {
            record = record
                .get(entry)
                .ok_or_else(|| format!("no {entry} for {name}"))?;
        }
        let subjects = record["subjects"].as_array().into_iter().flatten();
        let all = subjects.flat_map(|subject| {
            let measured = subject["measurements"].as_array().into_iter().flatten();
            measured.map(move |measured| (record, subject, measured))
        });
        let fits = |(_, subject, measured): &(&Value, &Value, &Value)| {
            let is = |shape: &str| {
                shape
                    == format!(
                        "B{}T{}",
                        measured["shape"]["batch"], measured["shape"]["time"]
                    )
            };
            shape.is_none_or(is) && plan.is_none_or(|plan| subject["plan"] == plan)
        };
        let mut all = all.filter(fits);
        all.next()
            .ok_or_else(|| format!("nothing was measured for {name}"))
    }

    fn of_ours(&self, name: &str) -> Result<Figure, String> {
        let (_, subject, measured) = self.measured(name)?;
        let shape = &measured["shape"];
        let mut made = match subject["config"]["text"].as_str() {
            Some(text) => configured(text, &subject["config"]),
            None => self.made(name)?,
        };
        made.extend([
            "--shape".into(),
            format!("B={},T={}", shape["batch"], shape["time"]),
        ]);
        let plain = |key: &str| subject[key].as_str().unwrap_or_default().to_owned();
        made.extend([
            "--dtype".into(),
            plain("storage"),
            "--plan".into(),
            plain("plan"),
        ]);
        let kernels = subject["kernels"].as_object();
        Ok(Figure {
            name: name.into(),
            ms: number(&measured["milliseconds"]["median"], name)?,
            tokens: measured["tokens_per_second"].as_f64(),
            share: measured["memory_fraction"].as_f64(),
            peak: measured["peak_bytes"].as_f64(),
            kernels: hashes(kernels),
            made,
        })
    }

    fn of_peers(&self, name: &str, rows: &Value) -> Result<Figure, String> {
        let (place, peer) = split(name, '!');
        let (place, shape) = split(place, '@');
        let (_, entry) = split(place, '/');
        let fits = |row: &&Value| {
            let is = |shape: &str| shape == format!("B{}T{}", row["batch"], row["time"]);
            // The hybrids in PyTorch are rows of their own.
            let way = row["way"].is_null() || row["way"].as_str() == peer;
            let called = [&row["row"], &row["model"]];
            called.iter().any(|of| of.as_str() == entry) && way && shape.is_none_or(is)
        };
        let row = rows.as_array().into_iter().flatten().find(fits);
        let row = row.ok_or_else(|| format!("nothing was measured for {name}"))?;
        if !row["way"].is_null() {
            return Ok(Figure {
                name: name.into(),
                ms: number(&row["milliseconds"]["median"], name)?,
                tokens: row["tokens_per_second"].as_f64(),
                share: None,
                peak: row["peak_bytes"].as_f64(),
                kernels: BTreeSet::new(),
                made: vec![],
            });
        }
        let plain = |ms, kernels, made| Figure {
            name: name.into(),
            ms,
            tokens: None,
            share: None,
            peak: None,
            kernels,
            made,
        };
        if let Some(peer) = peer {
            let of = &row["peers"][peer];
            if of["check"]["passed"] != true {
                return Err(format!("{name} was not shown to be right"));
            }
            return Ok(plain(
                number(&of["median_ms"], name)?,
                BTreeSet::new(),
                vec![],
            ));
        }
        // Timed before and after all peers: the slower of the two.
        let both = ["fusec", "fusec again"].map(|way| row[way]["median_ms"].as_f64());
        let ms = both.into_iter().flatten().fold(f64::NAN, f64::max);
        if ms.is_nan() {
            return Err(format!("fusec was not timed for {name}"));
        }
        let fusec = &row["fusec"];
        let mut made = self.made(name)?;
        let (batch, time) = (&fusec["shape"]["batch"], &fusec["shape"]["time"]);
        made.extend([
            "--shape".into(),
            format!("B={batch},T={time}"),
            "--dtype".into(),
        ]);
        made.push(row["dtype"].as_str().unwrap_or_default().into());
        Ok(plain(ms, hashes(fusec["kernels"].as_object()), made))
    }

    /// What was timed, of a record that does not say it.
    fn made(&self, name: &str) -> Result<Vec<String>, String> {
        let fits = |pattern: &str| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == pattern,
        };
        // The most exact of those that fit.
        let found = self.spec.made.iter().filter(|(pattern, _)| fits(pattern));
        let found = found.max_by_key(|(pattern, _)| pattern.len());
        let (_, words) = found.ok_or_else(|| format!("[made] does not say what {name} is"))?;
        Ok(words.split_whitespace().map(Into::into).collect())
    }
}

/// Puts tables into a page, each where a comment names it.
pub fn drawn(page: &str, tables: &BTreeMap<&str, String>) -> Result<String, String> {
    let mut out = String::new();
    let mut used = BTreeSet::new();
    let mut rest = page;
    while let Some(at) = rest.find("<!-- table ") {
        let (before, after) = rest.split_at(at);
        let end = after.find("-->").ok_or("a comment does not end")? + 3;
        let (comment, after) = after.split_at(end);
        let name = comment["<!-- table ".len()..]
            .split(':')
            .next()
            .unwrap_or_default();
        let name = name.trim_end_matches("-->").trim();
        let table = tables
            .get(name)
            .ok_or_else(|| format!("no table is called `{name}`"))?;
        let stop = after
            .find(END)
            .ok_or_else(|| format!("the table {name} has no `{END}`"))?;
        out.push_str(&format!("{before}{comment}\n\n{table}\n{END}"));
        used.insert(name.to_owned());
        rest = &after[stop + END.len()..];
    }
    out.push_str(rest);
    match tables.keys().find(|name| !used.contains(**name)) {
        Some(name) => Err(format!("{PAGE} has no place for the table {name}")),
        None => Ok(out),
    }
}

/// The arguments that a record's configuration stands for.
fn configured(text: &str, config: &Value) -> Vec<String> {
    let mut out = vec![text.to_owned()];
    let mut add = |flag: &str, value: &Value| {
        if let Some(value) = value.as_str() {
            out.extend([flag.to_owned(), value.to_owned()]);
        }
    };
    add("--preset", &config["preset"]);
    add("--logits", &config["logits"]);
    add("--device-profile", &config["profile"]);
    let each = |key: &str| config[key].as_array().cloned().unwrap_or_default();
    each("chosen").iter().for_each(|value| add("--axis", value));
    each("settings")
        .iter()
        .for_each(|value| add("--set", value));
    if let Some(share) = config["zeros"].as_f64() {
        out.extend(["--zeros".to_owned(), share.to_string()]);
    }
    if config["training"] == true {
        out.push("--training".into());
    }
    out
}

/// A text in front of a separator, and what follows it.
fn split(text: &str, at: char) -> (&str, Option<&str>) {
    match text.split_once(at) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

/// Text, each piece with the figure in braces that follows it.
fn parts(cell: &str) -> Vec<(&str, Option<&str>)> {
    let mut out = Vec::new();
    let mut rest = cell;
    while let Some((text, after)) = rest.split_once('{') {
        let (of, behind) = after.split_once('}').unwrap_or((after, ""));
        out.push((text, Some(of)));
        rest = behind;
    }
    out.push((rest, None));
    out
}

fn hashes(kernels: Option<&serde_json::Map<String, Value>>) -> BTreeSet<String> {
    let kernels = kernels.into_iter().flatten();
    kernels
        .filter_map(|(_, hash)| hash.as_str().map(Into::into))
        .collect()
}

fn number(value: &Value, name: &str) -> Result<f64, String> {
    value
        .as_f64()
        .ok_or_else(|| format!("{name} was not timed"))
}

/// Three figures that say something.
fn milliseconds(ms: f64) -> String {
    match ms {
        ms if ms >= 100.0 => format!("{ms:.0}"),
        ms if ms >= 10.0 => format!("{ms:.1}"),
        ms if ms >= 1.0 => format!("{ms:.2}"),
        ms => format!("{ms:.3}"),
    }
}

/// A whole number with a comma at each thousand.
fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
