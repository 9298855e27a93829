//! Patterns of tensor names: `*` stands for any characters, also none; all else is literal.

/// Whether `name` as a whole matches `pattern`. Time: length of one times length of the other.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // Where to resume when the text after the last star does not match.
    let mut resume = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                resume = Some((p, n));
            }
            Some(c) if c == &name[n] => {
                p += 1;
                n += 1;
            }
            _ => match resume {
                Some((after, start)) => {
                    p = after;
                    n = start + 1;
                    resume = Some((after, n));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    #[test]
    fn star_stands_for_anything() {
        for (pattern, name, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "axb", false),
            ("*", "", true),
            ("*.bias", "x.y.bias", true),
            ("*.bias", "x.bias.y", false),
            ("a*c*e", "abcde", true),
            ("a*c*e", "ace", true),
            ("a*c*e", "acde.", false),
            ("*ab", "aab", true),
            ("", "", true),
            ("", "x", false),
            ("x", "", false),
        ] {
            assert_eq!(super::matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
