//! Other names for stored tensors, and for parts and transpositions of them. Nothing is copied.
//!
//! Which names mean the same is not decided here.

use super::{Checkpoint, Entry, Skipped};

impl Checkpoint {
    /// The name that the file has for the tensor `name`: its own, unless it was given by one of
    /// the methods below.
    pub fn stored_name<'a>(&'a self, name: &'a str) -> &'a str {
        self.stored_as.get(name).map_or(name, String::as_str)
    }

    /// Which stored elements a tensor has, in which order: two that are equal here are equal.
    pub(crate) fn place(&self, name: &str) -> Option<impl Ord + use<'_>> {
        let entry = self.tensors.get(name)?;
        Some((
            entry.file,
            entry.dtype,
            (entry.bytes.start, entry.bytes.end),
            &entry.shape[..],
            &entry.strides[..],
        ))
    }

    /// Gives a tensor another name, unless that is taken.
    pub(crate) fn rename(&mut self, stored: &str, name: &str) {
        if self.tensors.contains_key(name) {
            return;
        }
        if let Some(entry) = self.tensors.remove(stored) {
            let original = self.stored_name(stored).to_string();
            self.stored_as.remove(stored);
            self.tensors.insert(name.to_string(), entry);
            self.stored_as.insert(name.to_string(), original);
        }
    }

    /// Exchanges the last two dimensions of a tensor.
    pub(crate) fn transpose(&mut self, name: &str) {
        let Some(entry) = self.tensors.get_mut(name) else {
            return;
        };
        let rank = entry.shape.len();
        if let (Some(a), Some(b)) = (rank.checked_sub(2), rank.checked_sub(1)) {
            entry.shape.swap(a, b);
            entry.strides.swap(a, b);
            let original = format!("{} (transposed)", self.stored_name(name));
            self.stored_as.insert(name.to_string(), original);
        }
    }

    /// Names the elements of a tensor along its first dimension, in order, each a tensor of its
    /// own. Nothing is done unless there are as many as names, and none of them is taken.
    pub(crate) fn unpack(&mut self, stored: &str, names: &[String]) {
        let taken = names.iter().any(|name| self.tensors.contains_key(name));
        let Some(entry) = self.tensors.get(stored).filter(|_| !taken) else {
            return;
        };
        let (Some((&count, shape)), Some((&stride, strides))) =
            (entry.shape.split_first(), entry.strides.split_first())
        else {
            return;
        };
        if count != names.len() || shape.contains(&0) {
            return;
        }
        let size = entry.dtype.size();
        // From the first element to the last of one part; both are inside the whole.
        let reach: usize = (shape.iter().zip(strides))
            .map(|(extent, stride)| extent.saturating_sub(1) * stride)
            .sum();
        let parts: Vec<Entry> = (0..count)
            .map(|part| {
                let start = entry.bytes.start + part * stride * size;
                Entry {
                    file: entry.file,
                    dtype: entry.dtype,
                    shape: shape.to_vec(),
                    strides: strides.to_vec(),
                    bytes: start..start + (reach + 1) * size,
                }
            })
            .collect();
        let original = self.stored_name(stored).to_string();
        self.tensors.remove(stored);
        self.stored_as.remove(stored);
        for (part, (name, entry)) in names.iter().zip(parts).enumerate() {
            self.tensors.insert(name.clone(), entry);
            let original = format!("{original} ({part} of {count})");
            self.stored_as.insert(name.clone(), original);
        }
    }

    /// Puts `prefix` before every name.
    pub(crate) fn add_prefix(&mut self, prefix: &str) {
        for name in self.all_names() {
            self.rename(&name, &format!("{prefix}{name}"));
        }
    }

    /// Takes `prefix` from every name. What has another name is of no use then, and listed as
    /// skipped.
    pub(crate) fn take_prefix(&mut self, prefix: &str) {
        // All leave first, so that none is in the way of another.
        let all = std::mem::take(&mut self.tensors);
        for (name, entry) in all {
            let original = self.stored_name(&name).to_string();
            self.stored_as.remove(&name);
            match name.strip_prefix(prefix) {
                Some(rest) => {
                    self.tensors.insert(rest.to_string(), entry);
                    self.stored_as.insert(rest.to_string(), original);
                }
                None => self.skipped.push(Skipped {
                    name,
                    why: format!("a tensor outside '{}'", prefix.trim_end_matches('.')),
                }),
            }
        }
    }

    /// The names, apart from the checkpoint, so that it can be changed on the way.
    pub(crate) fn all_names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }
}
