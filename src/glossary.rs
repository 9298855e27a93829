//! What the words of plans and explanations mean: docs/glossary.md, for `fusec explain --terms`.

use serde::Serialize;

use crate::table::wrapped;

const PAGE: &str = include_str!("../docs/glossary.md");

/// A word and its meaning.
#[derive(Debug, PartialEq, Serialize)]
pub struct Term {
    term: &'static str,
    meaning: String,
}

/// The entries of the page, in its order: paragraphs that begin with the word in bold.
pub fn terms() -> Vec<Term> {
    let paragraphs = PAGE.split("\n\n");
    let entries = paragraphs.filter_map(|paragraph| {
        let (term, meaning) = paragraph.trim().strip_prefix("**")?.split_once("**:")?;
        let words: Vec<&str> = meaning.split_whitespace().collect();
        Some(Term {
            term,
            meaning: words.join(" "),
        })
    });
    entries.collect()
}

/// The same for people.
pub fn text(terms: &[Term]) -> String {
    let entries = terms
        .iter()
        .map(|entry| format!("{}\n{}", entry.term, wrapped(&entry.meaning, 4, 92)));
    entries.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_paragraph_below_the_first_is_an_entry_and_no_word_comes_twice() {
        let terms = terms();
        let bold = PAGE.lines().filter(|line| line.starts_with("**")).count();
        assert_eq!(terms.len(), bold);
        assert!(terms.len() > 20, "{terms:?}");
        let words: BTreeSet<_> = terms.iter().map(|entry| entry.term).collect();
        assert_eq!(words.len(), terms.len());
        for entry in &terms {
            assert!(entry.meaning.ends_with('.'), "{entry:?}");
        }
    }
}
