//! Tables and figures for people: columns that line up, units that can be read.

/// Which side a column's text stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Lines of equally many cells.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with a head line.
    pub fn new<const N: usize>(head: [(&str, Align); N]) -> Self {
        Table {
            columns: head.iter().map(|(_, align)| *align).collect(),
            rows: vec![head.iter().map(|(name, _)| (*name).to_string()).collect()],
        }
    }

    /// Adds a line; it has as many cells as the head.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.columns.len());
        self.rows.push(cells.into());
    }

    /// The table, every line indented by two spaces and ended by a newline.
    pub fn text(&self) -> String {
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|c| {
                let cells = self.rows.iter().filter_map(|row| row.get(c));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), align) in row.iter().zip(&widths).zip(&self.columns) {
                let fill = " ".repeat(width.saturating_sub(cell.chars().count()));
                line.push_str("  ");
                let (first, second) = match align {
                    Align::Left => (cell.as_str(), fill.as_str()),
                    Align::Right => (fill.as_str(), cell.as_str()),
                };
                line.push_str(first);
                line.push_str(second);
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// A paragraph in lines of at most `width` columns, each indented and ended by a newline.
pub fn wrapped(text: &str, indent: usize, width: usize) -> String {
    let mut out = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column == 0 || column + 1 + length > width {
            if column > 0 {
                out.push('\n');
            }
            out.push_str(&" ".repeat(indent));
            column = indent;
        } else {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out.push('\n');
    out
}

/// Bytes with a decimal unit: `512 B`, `8.4 MB`.
pub fn bytes(count: f64) -> String {
    scaled(count, &["B", "kB", "MB", "GB", "TB", "PB"])
}

/// A count with a decimal prefix: `3.1 M`.
pub fn count(count: f64) -> String {
    scaled(count, &["", "k", "M", "G", "T", "P"])
        .trim_end()
        .to_string()
}

/// A time given in microseconds: `4.20 us`, `1.31 ms`.
pub fn microseconds(us: f64) -> String {
    if us < 1e3 {
        format!("{us:.2} us")
    } else if us < 1e6 {
        format!("{:.2} ms", us / 1e3)
    } else {
        format!("{:.2} s", us / 1e6)
    }
}

/// A part of a whole: `83 %`.
pub fn percent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}

fn scaled(mut number: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while number >= 999.5 && unit + 1 < units.len() {
        number /= 1000.0;
        unit += 1;
    }
    let name = units.get(unit).copied().unwrap_or_default();
    if unit == 0 {
        format!("{number:.0} {name}")
    } else {
        format!("{number:.1} {name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_given_the_unit_that_keeps_them_short() {
        let cases = [
            (0.0, "0 B"),
            (999.0, "999 B"),
            (1000.0, "1.0 kB"),
            (8_388_608.0, "8.4 MB"),
            (2.5e12, "2.5 TB"),
            (7e18, "7000.0 PB"),
        ];
        for (number, text) in cases {
            assert_eq!(bytes(number), text);
        }
        assert_eq!(count(3_100_000.0), "3.1 M");
        assert_eq!(count(12.0), "12");
        assert_eq!(microseconds(4.2), "4.20 us");
        assert_eq!(microseconds(1312.0), "1.31 ms");
    }

    #[test]
    fn paragraphs_are_broken_between_words() {
        assert_eq!(wrapped("one two  three", 2, 9), "  one two\n  three\n");
        assert_eq!(
            wrapped("longer-than-a-line x", 1, 5),
            " longer-than-a-line\n x\n"
        );
    }

    #[test]
    fn columns_line_up_and_lines_end_without_blanks() {
        let mut table = Table::new([("name", Align::Left), ("size", Align::Right)]);
        table.row(["a".into(), "12".into()]);
        table.row(["longer".into(), "3".into()]);
        assert_eq!(
            table.text(),
            "  name    size\n  a         12\n  longer     3\n"
        );
    }
}
