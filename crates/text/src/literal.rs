//! String and byte literals of Python, as vocabulary files write tokens: `'a'`, `"it's"`, `b'\xff'`.

/// The bytes of a literal, or what is wrong with it. The text of a string becomes UTF-8.
pub(crate) fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let (is_bytes, quoted) = match text.strip_prefix('b') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let quote = quoted.chars().next().filter(|c| matches!(c, '\'' | '"'));
    let inner = quote.and_then(|quote| quoted.strip_prefix(quote)?.strip_suffix(quote));
    let inner = inner.ok_or("it is no quoted text")?;
    let mut out = Vec::new();
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        let value = match letter {
            '\\' => escape(&mut letters)?,
            letter => letter as u32,
        };
        if is_bytes {
            out.push(u8::try_from(value).map_err(|_| "a byte is above 255")?);
        } else {
            let letter = char::from_u32(value).ok_or("an escape is no character")?;
            out.extend(letter.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    Ok(out)
}

/// The number that the escape after a backslash stands for.
fn escape(letters: &mut std::str::Chars<'_>) -> Result<u32, String> {
    let digits = match letters.next() {
        Some('n') => return Ok(0x0a),
        Some('t') => return Ok(0x09),
        Some('r') => return Ok(0x0d),
        Some(same @ ('\\' | '\'' | '"')) => return Ok(same as u32),
        Some('x') => 2,
        Some('u') => 4,
        Some('U') => 8,
        Some(other) => return Err(format!("the escape \\{other} is not known")),
        None => return Err("it ends in an escape".into()),
    };
    let mut value = 0u32;
    for _ in 0..digits {
        let digit = letters.next().and_then(|letter| letter.to_digit(16));
        let digit = digit.ok_or("an escape lacks a hexadecimal digit")?;
        value = value.wrapping_mul(16).wrapping_add(digit);
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_read_as_python_reads_them() {
        for (text, expected) in [
            ("'a'", Ok("a".as_bytes().to_vec())),
            (r#""it's""#, Ok(b"it's".to_vec())),
            (r"'\n\t\r\\\''", Ok(b"\n\t\r\\'".to_vec())),
            (r"'\xe9'", Ok("\u{e9}".as_bytes().to_vec())),
            (r"b'\xe9'", Ok(vec![0xe9])),
            (r"'\u3000'", Ok("\u{3000}".as_bytes().to_vec())),
            (r"'\U0001f600'", Ok("\u{1f600}".as_bytes().to_vec())),
            ("'\u{4f60}'", Ok("\u{4f60}".as_bytes().to_vec())),
            ("''", Ok(vec![])),
            ("a", Err("it is no quoted text".into())),
            ("'", Err("it is no quoted text".into())),
            (r"'\", Err("it is no quoted text".into())),
            (r"'\q'", Err("the escape \\q is not known".into())),
            (r"'\x1'", Err("an escape lacks a hexadecimal digit".into())),
            (r"'\ud800'", Err("an escape is no character".into())),
            ("b'\u{4f60}'", Err("a byte is above 255".into())),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }
}
