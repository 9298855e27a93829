//! Source text under construction: indented lines.

/// C source being written. Lines are indented by the blocks opened so far.
#[derive(Clone, Debug, Default)]
pub struct Text {
    out: String,
    depth: usize,
}

impl Text {
    /// Empty text whose lines start `depth` levels in.
    pub fn at(depth: usize) -> Self {
        Text {
            out: String::new(),
            depth,
        }
    }

    /// One line; an empty one stays empty.
    pub fn line(&mut self, line: impl AsRef<str>) {
        let line = line.as_ref();
        if !line.is_empty() {
            for _ in 0..self.depth {
                self.out.push_str("    ");
            }
            self.out.push_str(line);
        }
        self.out.push('\n');
    }

    /// Several lines, already indented relative to each other.
    pub fn lines(&mut self, text: &str) {
        for line in text.lines() {
            self.line(line);
        }
    }

    /// A line that opens a block: `head {`.
    pub fn open(&mut self, head: impl AsRef<str>) {
        let head = head.as_ref();
        self.line(if head.is_empty() {
            "{".to_string()
        } else {
            format!("{head} {{")
        });
        self.depth += 1;
    }

    /// Closes the innermost block.
    pub fn close(&mut self) {
        self.close_with("");
    }

    /// Closes the innermost block: `}` and what follows it.
    pub fn close_with(&mut self, end: &str) {
        self.depth = self.depth.saturating_sub(1);
        self.line(format!("}}{end}"));
    }

    /// The text.
    pub fn finish(self) -> String {
        self.out
    }
}
