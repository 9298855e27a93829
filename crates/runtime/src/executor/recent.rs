//! A bounded collection of recently used things.

/// Keeps the `limit` most recently used entries. Small limits only: look-ups are linear.
#[derive(Debug)]
pub struct Recent<K, V> {
    limit: usize,
    /// Oldest use first.
    entries: Vec<(K, V)>,
}

impl<K: PartialEq, V> Recent<K, V> {
    /// An empty collection for at most `limit` entries (at least one).
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            entries: Vec::new(),
        }
    }

    /// The entry of that key, which becomes the most recently used.
    pub fn get(&mut self, key: &K) -> Option<&mut V> {
        let at = self.entries.iter().position(|(k, _)| k == key)?;
        self.entries[at..].rotate_left(1);
        self.entries.last_mut().map(|(_, value)| value)
    }

    /// Adds or replaces an entry; the least recently used gives way.
    pub fn insert(&mut self, key: K, value: V) {
        self.entries.retain(|(k, _)| *k != key);
        if self.entries.len() == self.limit {
            self.entries.remove(0);
        }
        self.entries.push((key, value));
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_gives_way() {
        let mut recent = Recent::new(2);
        recent.insert("a", 1);
        recent.insert("b", 2);
        assert_eq!(recent.get(&"a"), Some(&mut 1));
        recent.insert("c", 3);
        assert_eq!(recent.get(&"b"), None);
        assert_eq!(recent.get(&"a"), Some(&mut 1));
        recent.insert("a", 4);
        assert_eq!(recent.get(&"c"), Some(&mut 3));
        assert_eq!(recent.get(&"a"), Some(&mut 4));
        recent.clear();
        assert_eq!(recent.get(&"a"), None);
    }
}
