//! Graphviz.

use super::svg::colours;
use super::{End, Picture};
use std::fmt::Write;

/// The picture as a `digraph` with one cluster per kernel.
pub fn write(picture: &Picture) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail; the results are dropped for that reason only.
    let mut put = |line: std::fmt::Arguments<'_>| {
        let _ = out.write_fmt(line);
        out.push('\n');
    };
    put(format_args!("digraph plan {{"));
    put(format_args!(
        "  compound=true; rankdir=TB; fontname=\"monospace\"; labelloc=t;"
    ));
    put(format_args!(
        "  label={};",
        quoted(&format!("{}\n{}", picture.title, picture.subtitle))
    ));
    put(format_args!(
        "  node [shape=box, style=\"rounded,filled\", fillcolor=white, fontname=\"monospace\", fontsize=10];"
    ));
    put(format_args!(
        "  edge [fontname=\"monospace\", fontsize=9, color=\"#64748b\"];"
    ));
    for (k, kernel) in picture.kernels.iter().enumerate() {
        let (fill, line) = colours(kernel.template);
        put(format_args!("  subgraph cluster_{k} {{"));
        put(format_args!(
            "    label={}; style=\"rounded,filled\"; fillcolor=\"{fill}\"; color=\"{line}\";",
            quoted(&format!("{}\n{}", kernel.name, kernel.about))
        ));
        for (i, op) in kernel.ops.iter().enumerate() {
            let anchor = if op.anchor { ", penwidth=2" } else { "" };
            let stored = if op.stored {
                format!(", color=\"{line}\"")
            } else {
                String::new()
            };
            put(format_args!(
                "    k{k}_{i} [label={}, tooltip={}{anchor}{stored}];",
                quoted(&op.label),
                quoted(&op.name)
            ));
        }
        for (from, to) in &kernel.edges {
            put(format_args!("    k{k}_{from} -> k{k}_{to};"));
        }
        put(format_args!("  }}"));
    }
    for (end, name, label) in [
        (End::Before, "before", "from before"),
        (End::After, "after", "to what follows"),
    ] {
        if picture.flows.iter().any(|f| f.from == end || f.to == end) {
            put(format_args!(
                "  {name} [label=\"{label}\", shape=plaintext, style=\"\"];"
            ));
        }
    }
    for flow in &picture.flows {
        // Clusters are joined through one of their operations.
        let node = |end: End, last: bool| match end {
            End::Before => "before".to_string(),
            End::After => "after".to_string(),
            End::Kernel(k) => {
                let n = picture.kernels[k].ops.len();
                format!("k{k}_{}", if last { n.saturating_sub(1) } else { 0 })
            }
        };
        let mut attributes = vec![
            format!("label={}", quoted(&flow.label())),
            format!("tooltip={}", quoted(&flow.values.join(", "))),
            "penwidth=2".to_string(),
        ];
        if let End::Kernel(k) = flow.from {
            attributes.push(format!("ltail=cluster_{k}"));
        }
        if let End::Kernel(k) = flow.to {
            attributes.push(format!("lhead=cluster_{k}"));
        }
        put(format_args!(
            "  {} -> {} [{}];",
            node(flow.from, true),
            node(flow.to, false),
            attributes.join(", ")
        ));
    }
    put(format_args!("}}"));
    out
}

fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", escaped.replace('\n', "\\n"))
}
