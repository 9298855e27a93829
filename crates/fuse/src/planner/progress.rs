//! What the planner is doing, for whoever waits.

use std::fmt;

/// Where the planner is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Forms of the model begun so far.
    pub forms: usize,
    /// Parts of the form, and which of them is planned, from 1; 0 before the first.
    pub parts: (usize, usize),
    /// Operations of the part.
    pub operations: usize,
    /// What is done to it.
    pub work: &'static str,
    /// How far that is: rounds of adding columns, or states that a search may look at.
    pub steps: usize,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "form {}", self.forms)?;
        let (part, parts) = self.parts;
        if part > 0 {
            write!(
                f,
                ", part {part} of {parts} ({} operations)",
                self.operations
            )?;
        }
        match self.work {
            "" => Ok(()),
            work => write!(f, ": {work} ({})", self.steps),
        }
    }
}
