//! Messages that quote what came from outside: names and lines of any length, with any characters in them.

/// What a message may be long, in bytes. Names in it may be as long as a path.
pub const LONGEST_MESSAGE: usize = 8 * 1024;

/// A message without what a terminal would obey; of one that is longer than `most` bytes, how it begins and how
/// it ends, where parsers say the place.
pub fn readable(message: &str, most: usize) -> String {
    // Escapes are longer than what they stand for.
    cut(&escaped(&cut(message, most)), most)
}

fn cut(message: &str, most: usize) -> String {
    if message.len() <= most {
        return message.to_owned();
    }
    let head = &message[..floor(message, most / 2)];
    let tail = &message[floor(message, message.len() - most / 4)..];
    let left_out = message.len() - head.len() - tail.len();
    format!("{head} ... {left_out} bytes ... {tail}")
}

/// The last character boundary that is not behind `at`.
fn floor(text: &str, at: usize) -> usize {
    (0..=at)
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0)
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push(c),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_keep_their_ends_and_terminals_obey_none() {
        let (digits, accents) = ("0123456789".repeat(20), "é".repeat(100));
        let cut = |head: &str, tail: &str| format!("{head} ... 140 bytes ... {tail}");
        for (message, most, expected) in [
            ("a name", 10, "a name".into()),
            (
                "two\nlines\t\u{1b}[31m",
                40,
                "two\nlines\\t\\u{1b}[31m".into(),
            ),
            (&digits, 80, cut(&digits[..40], &digits[..20])),
            // Characters of two bytes are not cut.
            (&accents, 82, cut(&accents[..40], &accents[..20])),
        ] {
            assert_eq!(readable(message, most), expected);
        }
    }
}
