//! Tera: the template files and how they are filled.
//!
//! Templates are real files under `templates/`, compiled in. Rendering never escapes:
//! what is inserted is C text made by this crate from checked identifiers.

use crate::CodegenError;
use std::sync::LazyLock;
use tera::{Context, Tera};

const TEMPLATES: &[(&str, &str)] = &[
    ("attend.cu", include_str!("../templates/attend.cu")),
    ("draw.cu", include_str!("../templates/draw.cu")),
    ("last_row.cu", include_str!("../templates/last_row.cu")),
    ("scatter.cu", include_str!("../templates/scatter.cu")),
    ("attend_mma.cu", include_str!("../templates/attend_mma.cu")),
    (
        "attend_tails.cu",
        include_str!("../templates/attend_tails.cu"),
    ),
    ("kernel.cu", include_str!("../templates/kernel.cu")),
    (
        "row_sum_elements.cu",
        include_str!("../templates/row_sum_elements.cu"),
    ),
    (
        "row_sum_entries.cu",
        include_str!("../templates/row_sum_entries.cu"),
    ),
    (
        "row_sum_fetch.cu",
        include_str!("../templates/row_sum_fetch.cu"),
    ),
    (
        "row_sum_rows.cu",
        include_str!("../templates/row_sum_rows.cu"),
    ),
    (
        "row_sum_mma.cu",
        include_str!("../templates/row_sum_mma.cu"),
    ),
    (
        "row_sum_parts.cu",
        include_str!("../templates/row_sum_parts.cu"),
    ),
    (
        "row_sum_simt.cu",
        include_str!("../templates/row_sum_simt.cu"),
    ),
    (
        "standalone.cmake",
        include_str!("../templates/standalone.cmake"),
    ),
    (
        "standalone.cpp",
        include_str!("../templates/standalone.cpp"),
    ),
    (
        "standalone_driver.cpp",
        include_str!("../templates/standalone_driver.cpp"),
    ),
    (
        "standalone_files.cpp",
        include_str!("../templates/standalone_files.cpp"),
    ),
    (
        "standalone_main.cpp",
        include_str!("../templates/standalone_main.cpp"),
    ),
    (
        "standalone_memory.cpp",
        include_str!("../templates/standalone_memory.cpp"),
    ),
    ("walk.cu", include_str!("../templates/walk.cu")),
    (
        "weighted_rows.cu",
        include_str!("../templates/weighted_rows.cu"),
    ),
    (
        "weighted_walk.cu",
        include_str!("../templates/weighted_walk.cu"),
    ),
];

static TERA: LazyLock<Result<Tera, String>> = LazyLock::new(|| {
    let mut tera = Tera::default();
    tera.add_raw_templates(TEMPLATES.to_vec())
        .map_err(|e| format!("{e:?}"))?;
    Ok(tera)
});

/// Fills one template.
pub fn render(template: &str, context: &Context) -> Result<String, CodegenError> {
    let tera = TERA.as_ref().map_err(|why| CodegenError::Template {
        template: template.into(),
        why: why.clone(),
    })?;
    tera.render(template, context)
        .map_err(|e| CodegenError::Template {
            template: template.into(),
            why: format!("{e:?}"),
        })
}

#[cfg(test)]
mod tests {
    #[test]
    fn all_templates_parse() {
        assert!(super::TERA.is_ok(), "{:?}", super::TERA.as_ref().err());
    }
}
