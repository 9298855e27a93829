//! The text of placements: which thread, which element of it.

pub use fusec_fuse::schedule::placement::{Layout, Layouts, Place, Reduction};
use fusec_ir::Combine;

/// The text of a [`Layout`].
pub trait LayoutText {
    /// Distance of element `v` of a vector from its first, as C text.
    fn step_text(&self) -> String;

    /// The number of a thread among those that share the elements, C text.
    fn thread(&self) -> &'static str;
}

impl LayoutText for Layout {
    fn step_text(&self) -> String {
        match self.turns() {
            None => "nth".into(),
            Some(turns) => format!(
                "nth / {c} * {} + nth % {c}",
                turns * self.chunk,
                c = self.chunk
            ),
        }
    }

    fn thread(&self) -> &'static str {
        if self.in_teams { "member" } else { "tid" }
    }
}

/// The neutral element of a reduction, as C text.
pub fn neutral(combine: Combine) -> &'static str {
    match combine {
        Combine::Sum => "0.0f",
        Combine::Max => "-FUSEC_INF",
    }
}
