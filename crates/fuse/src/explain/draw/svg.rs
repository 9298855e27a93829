//! SVG: kernels as boxes with their operations inside, values through memory as curves.

use super::layered::{Gaps, Item, Layout, layered};
use super::{End, Group, Picture};
use crate::plan::Template;
use std::fmt::Write;

/// Width of a character, as a part of the font size.
const GLYPH: f64 = 0.602;
const OP_FONT: f64 = 11.0;
const OP_HEIGHT: f64 = 22.0;
const NAME_FONT: f64 = 12.5;
const ABOUT_FONT: f64 = 11.0;
const LINE: f64 = 17.0;
/// Characters of a kernel's name in one line.
const NAME_WIDTH: usize = 34;
/// Between the border of a box and what is in it.
const PAD: f64 = 12.0;
/// Between two flows that arrive: room for a label.
const ENTRY: f64 = 52.0;
const MARGIN: f64 = 28.0;
const HEAD: f64 = 92.0;

/// Fill and line of a kernel.
pub fn colours(template: Option<Template>) -> (&'static str, &'static str) {
    match template {
        Some(Template::Row) => ("#e0edff", "#2563eb"),
        Some(Template::Scan) => ("#ffe4e6", "#e11d48"),
        Some(Template::Chunked) => ("#fce7f3", "#be185d"),
        Some(Template::Gemv | Template::Thin) => ("#dcfce7", "#15803d"),
        Some(Template::Gemm) => ("#fef3c7", "#b45309"),
        Some(Template::Attend) => ("#f3e8ff", "#7e22ce"),
        Some(Template::LastRow | Template::Scatter) => ("#ecfeff", "#0e7490"),
        Some(Template::RowSum) => ("#ecfccb", "#4d7c0f"),
        None => ("#f1f5f9", "#475569"),
    }
}

/// A kernel with its operations placed.
struct Drawn<'a> {
    group: &'a Group,
    name: Vec<String>,
    inner: Layout,
    size: Item,
}

/// The picture.
pub fn write(picture: &Picture) -> String {
    let entries = |k: usize| {
        picture
            .flows
            .iter()
            .filter(|f| f.to == End::Kernel(k))
            .count()
    };
    let kernels = picture.kernels.iter().enumerate();
    let drawn: Vec<Drawn<'_>> = kernels.map(|(k, of)| draw(of, entries(k))).collect();
    // What comes from outside is the first item, what goes outside the last.
    let outside = Item {
        width: 130.0,
        height: 26.0,
    };
    let last = drawn.len() + 1;
    let items: Vec<Item> = [outside]
        .into_iter()
        .chain(drawn.iter().map(|d| d.size))
        .chain([outside])
        .collect();
    let index = |end: End| match end {
        End::Before => 0,
        End::Kernel(k) => k + 1,
        End::After => last,
    };
    let edges: Vec<(usize, usize)> = picture
        .flows
        .iter()
        .map(|f| (index(f.from), index(f.to)))
        .collect();
    let gaps = Gaps {
        across: 26.0,
        down: 54.0,
        edge: 14.0,
    };
    let layout = layered(&items, &edges, gaps);
    let title = GLYPH * 15.0 * picture.title.chars().count() as f64;
    let width = layout.width.max(title).max(680.0) + 2.0 * MARGIN;
    let height = layout.height + HEAD + MARGIN;
    let shift = ((width - layout.width) / 2.0, HEAD);
    let at = |i: usize| (layout.at[i].0 + shift.0, layout.at[i].1 + shift.1);

    let mut out = String::new();
    // Writing to a string cannot fail; the results are dropped for that reason only.
    let _ = writeln!(
        out,
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0}" height="{height:.0}" viewBox="0 0 {width:.0} {height:.0}" font-family="DejaVu Sans Mono, Menlo, Consolas, monospace">
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0L8 4L0 8z" fill="#475569"/></marker></defs>
<rect width="{width:.0}" height="{height:.0}" fill="#ffffff"/>"##
    );
    text(
        &mut out,
        MARGIN,
        30.0,
        15.0,
        "#0f172a",
        "start",
        true,
        &picture.title,
    );
    text(
        &mut out,
        MARGIN,
        49.0,
        12.0,
        "#334155",
        "start",
        false,
        &picture.subtitle,
    );
    legend(&mut out, picture);

    let ports = ports(&edges, &items, &layout);
    for (i, flow) in picture.flows.iter().enumerate() {
        let (from, to) = edges[i];
        let start = (ports[i].0 + shift.0, at(from).1 + items[from].height);
        let end = (ports[i].1 + shift.0, at(to).1 - 2.0);
        let thick = (1.2 + (flow.bytes.max(1.0) / 1e3).log10().max(0.0) * 0.45).min(4.0);
        let mut path = format!("M{:.1} {:.1}", start.0, start.1);
        let mut here = start;
        for (x, top, bottom) in &layout.via[i] {
            let (x, top, bottom) = (x + shift.0, top + shift.1, bottom + shift.1);
            curve(&mut path, here, (x, top));
            let _ = write!(path, "L{x:.1} {bottom:.1}");
            here = (x, bottom);
        }
        curve(&mut path, here, end);
        let _ = writeln!(
            out,
            r##"<path d="{path}" fill="none" stroke="#94a3b8" stroke-width="{thick:.1}" marker-end="url(#tip)"><title>{}: {}</title></path>"##,
            escaped(&flow.values.join(", ")),
            flow.label()
        );
    }
    for (k, kernel) in drawn.iter().enumerate() {
        write_kernel(&mut out, kernel, at(k + 1));
    }
    for (i, label) in [(0, "from before"), (last, "to what follows")] {
        if edges.iter().any(|e| e.0 == i || e.1 == i) {
            let (x, y) = at(i);
            let _ = writeln!(
                out,
                r##"<rect x="{x:.1}" y="{y:.1}" width="{:.1}" height="{:.1}" rx="13" fill="#f8fafc" stroke="#94a3b8" stroke-dasharray="4 3"/>"##,
                outside.width, outside.height
            );
            let middle = x + outside.width / 2.0;
            text(
                &mut out,
                middle,
                y + 17.0,
                11.0,
                "#475569",
                "middle",
                false,
                label,
            );
        }
    }
    // Labels come last: nothing may cover them.
    for (i, flow) in picture.flows.iter().enumerate() {
        let to = edges[i].1;
        labels(
            &mut out,
            (ports[i].1 + shift.0, at(to).1 - 9.0),
            &flow.label(),
        );
    }
    out.push_str("</svg>\n");
    out
}

/// Where edges leave and enter, spread over the sides of their items in the order of the other
/// ends, so that they do not cross at the port.
fn ports(edges: &[(usize, usize)], items: &[Item], layout: &Layout) -> Vec<(f64, f64)> {
    let middle = |i: usize| layout.at[i].0 + items[i].width / 2.0;
    let mut out: Vec<(f64, f64)> = edges.iter().map(|e| (middle(e.0), middle(e.1))).collect();
    for (i, item) in items.iter().enumerate() {
        for leaving in [true, false] {
            let mut here: Vec<(f64, usize)> = edges
                .iter()
                .enumerate()
                .filter(|(_, e)| if leaving { e.0 == i } else { e.1 == i })
                .map(|(k, e)| {
                    let via = &layout.via[k];
                    let next = if leaving { via.first() } else { via.last() };
                    let other = if leaving { e.1 } else { e.0 };
                    (next.map_or(middle(other), |v| v.0), k)
                })
                .collect();
            here.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let step = item.width / (here.len() + 1) as f64;
            for (n, (_, k)) in here.iter().enumerate() {
                let x = layout.at[i].0 + step * (n + 1) as f64;
                if leaving {
                    out[*k].0 = x;
                } else {
                    out[*k].1 = x;
                }
            }
        }
    }
    out
}

/// `entries`: how many flows arrive, each with a label.
fn draw(group: &Group, entries: usize) -> Drawn<'_> {
    let items: Vec<Item> = group
        .ops
        .iter()
        .map(|op| Item {
            width: GLYPH * OP_FONT * op.label.chars().count() as f64 + 16.0,
            height: OP_HEIGHT,
        })
        .collect();
    let gaps = Gaps {
        across: 8.0,
        down: 16.0,
        edge: 6.0,
    };
    let inner = layered(&items, &group.edges, gaps);
    let name = broken(&group.name);
    let widest = name.iter().map(|line| line.chars().count()).max();
    let head = (GLYPH * NAME_FONT * widest.unwrap_or(0) as f64)
        .max(GLYPH * ABOUT_FONT * group.about.chars().count() as f64);
    let size = Item {
        width: (inner.width.max(head) + 2.0 * PAD).max(ENTRY * (entries + 1) as f64),
        height: head_height(&name) + inner.height + PAD,
    };
    Drawn {
        group,
        name,
        inner,
        size,
    }
}

fn head_height(name: &[String]) -> f64 {
    LINE * (name.len() + 1) as f64 + 20.0
}

/// A kernel's name in lines, broken after underscores.
fn broken(name: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for part in name.split_inclusive('_') {
        let fits = lines
            .last()
            .is_none_or(|l| l.is_empty() || l.len() + part.len() <= NAME_WIDTH);
        if !fits {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            line.push_str(part);
        }
    }
    lines
}

fn write_kernel(out: &mut String, drawn: &Drawn<'_>, (x, y): (f64, f64)) {
    let group = drawn.group;
    let (fill, line) = colours(group.template);
    let Item { width, height } = drawn.size;
    let _ = writeln!(
        out,
        r##"<g><title>{}: {}</title><rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" rx="9" fill="{fill}" stroke="{line}" stroke-width="1.5"/>"##,
        escaped(&group.name),
        escaped(&group.about)
    );
    let mut below = y + 6.0;
    for part in &drawn.name {
        below += LINE;
        text(
            out,
            x + PAD,
            below - 3.0,
            NAME_FONT,
            "#0f172a",
            "start",
            true,
            part,
        );
    }
    below += LINE;
    text(
        out,
        x + PAD,
        below - 4.0,
        ABOUT_FONT,
        line,
        "start",
        false,
        &group.about,
    );
    // The part of the layer's time, as a bar.
    let whole = width - 2.0 * PAD;
    let _ = writeln!(
        out,
        r##"<rect x="{:.1}" y="{:.1}" width="{whole:.1}" height="4" rx="2" fill="#ffffff"/><rect x="{:.1}" y="{:.1}" width="{:.1}" height="4" rx="2" fill="{line}"/>"##,
        x + PAD,
        below + 1.0,
        x + PAD,
        below + 1.0,
        (whole * group.share).max(2.0)
    );
    let (left, top) = (
        x + (width - drawn.inner.width) / 2.0,
        y + head_height(&drawn.name),
    );
    let place = |i: usize| (drawn.inner.at[i].0 + left, drawn.inner.at[i].1 + top);
    let pill = |i: usize| GLYPH * OP_FONT * group.ops[i].label.chars().count() as f64 + 16.0;
    for ((from, to), via) in group.edges.iter().zip(&drawn.inner.via) {
        let (a, b) = (place(*from), place(*to));
        let mut here = (a.0 + pill(*from) / 2.0, a.1 + OP_HEIGHT);
        let mut path = format!("M{:.1} {:.1}", here.0, here.1);
        for (vx, vtop, vbottom) in via {
            curve(&mut path, here, (vx + left, vtop + top));
            here = (vx + left, vbottom + top);
            let _ = write!(path, "L{:.1} {:.1}", here.0, here.1);
        }
        curve(&mut path, here, (b.0 + pill(*to) / 2.0, b.1));
        let _ = writeln!(
            out,
            r##"<path d="{path}" fill="none" stroke="{line}" stroke-opacity="0.55"/>"##
        );
    }
    for (i, op) in group.ops.iter().enumerate() {
        let (px, py) = place(i);
        let paint = if op.anchor { line } else { "#ffffff" };
        let ink = if op.anchor { "#ffffff" } else { "#0f172a" };
        let border = if op.stored { 2.2 } else { 0.7 };
        let _ = writeln!(
            out,
            r##"<g><title>{}</title><rect x="{px:.1}" y="{py:.1}" width="{:.1}" height="{OP_HEIGHT}" rx="6" fill="{paint}" stroke="{}" stroke-width="{border}"/>"##,
            escaped(&op.name),
            pill(i),
            if op.stored { "#0f172a" } else { line },
        );
        let middle = px + pill(i) / 2.0;
        text(
            out,
            middle,
            py + 15.0,
            OP_FONT,
            ink,
            "middle",
            false,
            &op.label,
        );
        out.push_str("</g>\n");
    }
    out.push_str("</g>\n");
}

fn legend(out: &mut String, picture: &Picture) {
    let mut x = MARGIN;
    let y = 62.0;
    let mut templates: Vec<Template> = picture.kernels.iter().filter_map(|k| k.template).collect();
    templates.sort_unstable();
    templates.dedup();
    let entry = |out: &mut String, rect: String, label: &str, x: &mut f64| {
        let _ = writeln!(
            out,
            r##"<rect x="{x:.1}" y="{y:.1}" width="20" height="13" rx="4" {rect}/>"##
        );
        text(
            out,
            *x + 26.0,
            y + 10.5,
            10.5,
            "#334155",
            "start",
            false,
            label,
        );
        *x += 26.0 + GLYPH * 10.5 * label.chars().count() as f64 + 18.0;
    };
    for template in templates {
        let (fill, line) = colours(Some(template));
        let rect = format!(r##"fill="{fill}" stroke="{line}" stroke-width="1.5""##);
        entry(out, rect, &format!("{template} kernel"), &mut x);
    }
    let rect = r##"fill="#475569" stroke="#475569" stroke-width="0.7""##.to_string();
    entry(out, rect, "anchor", &mut x);
    let rect = r##"fill="#ffffff" stroke="#0f172a" stroke-width="2.2""##.to_string();
    entry(out, rect, "written to memory", &mut x);
    text(
        out,
        x,
        y + 10.5,
        10.5,
        "#334155",
        "start",
        false,
        "bar: share of the time",
    );
}

/// A curve that leaves and arrives vertically.
fn curve(path: &mut String, from: (f64, f64), to: (f64, f64)) {
    let bend = (to.1 - from.1) / 2.0;
    let _ = write!(
        path,
        "C{:.1} {:.1} {:.1} {:.1} {:.1} {:.1}",
        from.0,
        from.1 + bend,
        to.0,
        to.1 - bend,
        to.0,
        to.1
    );
}

fn labels(out: &mut String, (x, y): (f64, f64), label: &str) {
    let width = GLYPH * 9.0 * label.chars().count() as f64 + 6.0;
    let _ = writeln!(
        out,
        r##"<rect x="{:.1}" y="{:.1}" width="{width:.1}" height="12" rx="3" fill="#ffffff" fill-opacity="0.85"/>"##,
        x - width / 2.0,
        y - 15.0
    );
    text(out, x, y - 6.0, 9.0, "#475569", "middle", false, label);
}

#[allow(clippy::too_many_arguments, reason = "the attributes of a text")]
fn text(
    out: &mut String,
    x: f64,
    y: f64,
    size: f64,
    colour: &str,
    anchor: &str,
    bold: bool,
    what: &str,
) {
    let weight = if bold { r#" font-weight="bold""# } else { "" };
    let _ = writeln!(
        out,
        r##"<text x="{x:.1}" y="{y:.1}" font-size="{size}" fill="{colour}" text-anchor="{anchor}"{weight}>{}</text>"##,
        escaped(what)
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
