//! The page: HTML, CSS and JavaScript around the data.
//!
//! The files are compiled in and filled by tera. What a script reads stands in the page as JSON, in
//! which no `<` is left: whatever a model calls its values, it cannot end the element that holds it.

use crate::data::Report;
use tera::{Context, Tera};

const PAGE: &str = include_str!("../templates/report.html");
const STYLE: &str = include_str!("../templates/report.css");

/// The scripts, in the order in which they are read.
const SCRIPTS: &[&str] = &[
    include_str!("../templates/base.js"),
    include_str!("../templates/graph.js"),
    include_str!("../templates/detail.js"),
    include_str!("../templates/charts.js"),
    include_str!("../templates/main.js"),
];

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// The page cannot be filled.
    #[error("the page cannot be filled: {0}")]
    Template(#[from] tera::Error),
    /// The data cannot be written.
    #[error("the page's data cannot be written: {0}")]
    Data(#[from] serde_json::Error),
}

/// Writes a page that needs nothing beside it.
pub fn page(report: &Report) -> Result<String, PageError> {
    let mut tera = Tera::default();
    // What is inserted is made to fit its place here.
    tera.autoescape_on(Vec::<String>::new());
    tera.add_raw_template("report.html", PAGE)?;
    let mut context = Context::new();
    context.insert("title", &escaped(&report.model));
    context.insert("style", STYLE);
    context.insert("scripts", &SCRIPTS.concat());
    context.insert("data", &embedded(&serde_json::to_string(report)?));
    Ok(tera.render("report.html", &context)?)
}

/// JSON that can stand in an element: `<` only occurs in strings, where it may be written by number.
fn embedded(json: &str) -> String {
    json.replace('<', "\\u003c")
}

/// Text that can stand between tags.
fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;");
    text.replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::DeviceFigures;
    use fusec_fuse::Template;

    #[test]
    fn every_template_has_a_colour_on_light_and_on_dark_and_is_explained() {
        for template in [
            Template::Row,
            Template::Scan,
            Template::Chunked,
            Template::Gemv,
            Template::Thin,
            Template::Gemm,
            Template::Attend,
            Template::LastRow,
            Template::Scatter,
            Template::RowSum,
        ] {
            let name = template.to_string();
            let colour = format!("  --{}: #", name.replace(' ', "-"));
            assert_eq!(STYLE.matches(&colour).count(), 2, "{name}");
            let legend = [format!("\n  {name}: \""), format!("\n  \"{name}\": \"")];
            assert!(
                legend.iter().any(|line| SCRIPTS[0].contains(line)),
                "{name}"
            );
        }
    }

    #[test]
    fn a_page_asks_for_nothing_and_no_name_gets_out_of_its_data() {
        let report = Report {
            model: "</script><script>alert(1)</script>".into(),
            source: "a&b.toml".into(),
            layers: 0,
            fusec: "0".into(),
            device: DeviceFigures {
                title: "<b>".into(),
                arch: "sm_90".into(),
                sms: 1.0,
                memory_tbs: 1.0,
                l2_tbs: 1.0,
                tensor_tflops: 1.0,
                fp32_tflops: 1.0,
                from: "estimate".into(),
            },
            plans: vec![],
            changes: vec![],
        };
        let page = page(&report).expect("a page");
        assert!(!page.contains("<script>alert"), "{page}");
        assert_eq!(page.matches("</script>").count(), 2);
        for outside in ["src=", "href=\"http", "@import", "url(http", "fetch("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
