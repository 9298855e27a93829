//! Texts that end a generation, found in text that arrives in pieces.

/// Texts of which the first to appear ends the text; it is not part of it.
#[derive(Clone, Debug, Default)]
pub struct StopTexts {
    texts: Vec<String>,
    /// The end of the text so far that one of them may begin with.
    held: String,
}

/// What came through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Text that belongs to no stop.
    pub text: String,
    /// Whether a stop follows it.
    pub stopped: bool,
}

impl StopTexts {
    /// These; empty ones stop nothing.
    pub fn new(texts: impl IntoIterator<Item = String>) -> Self {
        StopTexts {
            texts: texts.into_iter().filter(|text| !text.is_empty()).collect(),
            held: String::new(),
        }
    }

    /// More text. What may be the beginning of a stop is kept back. Of several stops the one that
    /// begins first counts; of those the shortest, which is complete first.
    pub fn push(&mut self, text: &str) -> Passed {
        self.held.push_str(text);
        let found = self.texts.iter().filter_map(|stop| self.held.find(stop));
        if let Some(at) = found.min() {
            self.held.truncate(at);
            return Passed {
                text: std::mem::take(&mut self.held),
                stopped: true,
            };
        }
        // The longest end that is the beginning of a stop.
        let begins = |at: &usize| {
            let end = &self.held[*at..];
            self.texts.iter().any(|stop| stop.starts_with(end))
        };
        let mut places = self.held.char_indices().map(|(at, _)| at);
        let longest = self.texts.iter().map(String::len).max().unwrap_or(0);
        let near = self.held.len().saturating_sub(longest);
        let kept = places.find(|at| *at >= near && begins(at));
        let held = self.held.split_off(kept.unwrap_or(self.held.len()));
        Passed {
            text: std::mem::replace(&mut self.held, held),
            stopped: false,
        }
    }

    /// What was kept back, when nothing more comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn passed(text: &str, stopped: bool) -> Passed {
        Passed {
            text: text.into(),
            stopped,
        }
    }

    #[test]
    fn a_stop_is_found_across_pieces_and_held_back_until_it_is_none() {
        let mut stops = StopTexts::new(["\n\n".into(), "END".into(), String::new()]);
        assert_eq!(stops.push("a\n"), passed("a", false));
        assert_eq!(stops.push("b E"), passed("\nb ", false));
        assert_eq!(stops.push("NE"), passed("EN", false));
        assert_eq!(stops.push("ND!"), passed("", true));
        let mut none = StopTexts::new([]);
        assert_eq!(none.push("x\n\n"), passed("x\n\n", false));
        let mut held = StopTexts::new(["ab".into()]);
        assert_eq!(held.push("xa"), passed("x", false));
        assert_eq!(held.finish(), "a");
    }

    proptest! {
        #[test]
        fn pieces_do_what_the_whole_does(text in "[ab\u{e9}]{0,12}", stop in "[ab\u{e9}]{1,3}", cut: prop::sample::Index) {
            let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            let cut = places[cut.index(places.len())];
            let mut stops = StopTexts::new([stop.clone()]);
            let mut out = String::new();
            let mut stopped = false;
            for piece in [&text[..cut], &text[cut..]] {
                if !stopped {
                    let passed = stops.push(piece);
                    out.push_str(&passed.text);
                    stopped = passed.stopped;
                }
            }
            if !stopped {
                out.push_str(&stops.finish());
            }
            let expected = text.split_once(&stop).map_or(&text[..], |(before, _)| before);
            prop_assert_eq!(out, expected);
            prop_assert_eq!(stopped, text.contains(&stop));
        }
    }
}
