//! Regions of a block's shared memory, one behind the other. Never here: what a template keeps in them.

/// Takes regions from the start of a block's shared memory on.
#[derive(Debug, Default)]
pub struct Regions {
    end: usize,
}

impl Regions {
    /// The first of `floats` f32 elements behind what is taken, 16-byte aligned for vector accesses.
    pub fn take(&mut self, floats: usize) -> usize {
        let start = self.end;
        self.end += floats.next_multiple_of(4);
        start
    }

    /// f32 elements that are taken.
    pub fn end(&self) -> usize {
        self.end
    }
}
