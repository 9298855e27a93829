//! The RWKV World vocabulary: a text file with one token a line, `ID LITERAL LENGTH`, and encoding by
//! the longest token that the rest of the text begins with. The format and the rule are those of the
//! PyPI package `rwkv` (`rwkv_vocab_v20230424.txt`, `rwkv_tokenizer.py`). Id 0 is in no file: it is
//! the end of a text.

use std::collections::BTreeMap;

use crate::literal;

/// The id that ends a text.
pub(crate) const END: u32 = 0;

/// Largest id that is accepted: ids index an embedding table.
const MAX_ID: u32 = 1 << 24;
/// Most bytes of all tokens together, each of which may be a node of the trie, some fifty times its size. The
/// public vocabulary has half a million.
const MAX_TOKEN_BYTES: usize = 1 << 24;

/// Tokens as bytes, and a trie of them.
#[derive(Clone, Debug)]
pub(crate) struct World {
    tokens: BTreeMap<u32, Vec<u8>>,
    nodes: Vec<Node>,
}

/// A prefix of some token.
#[derive(Clone, Debug, Default)]
struct Node {
    /// The token that it is.
    token: Option<u32>,
    /// Longer prefixes by their next byte, ascending.
    next: Vec<(u8, u32)>,
}

/// A line that is none of a vocabulary.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadLine {
    /// Its number, from 1 on.
    pub(crate) line: usize,
    /// Why.
    pub(crate) reason: String,
}

impl World {
    /// Reads the text of a vocabulary.
    pub(crate) fn parse(text: &str) -> Result<Self, BadLine> {
        let mut world = World {
            tokens: BTreeMap::new(),
            nodes: vec![Node::default()],
        };
        for (at, line) in text.lines().enumerate() {
            if line.is_empty() {
                continue;
            }
            world.line(line).map_err(|reason| BadLine {
                line: at + 1,
                reason,
            })?;
        }
        if world.tokens.is_empty() {
            return Err(BadLine {
                line: 1,
                reason: "there is no token".into(),
            });
        }
        Ok(world)
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        let form = || "it is not of the form ID 'TOKEN' LENGTH".to_string();
        let (id, rest) = line.split_once(' ').ok_or_else(form)?;
        let (token, length) = rest.rsplit_once(' ').ok_or_else(form)?;
        let id: u32 = id.parse().map_err(|_| form())?;
        let length: usize = length.parse().map_err(|_| form())?;
        if id == END || id > MAX_ID {
            return Err(format!("the id is {id}, allowed are 1 to {MAX_ID}"));
        }
        let bytes = literal::bytes(token)?;
        if bytes.len() != length || bytes.is_empty() {
            return Err(format!(
                "the token has {} bytes, and is said to have {length}",
                bytes.len()
            ));
        }
        if self.nodes.len() + bytes.len() > MAX_TOKEN_BYTES {
            return Err(format!(
                "the tokens up to here have more bytes than {MAX_TOKEN_BYTES}"
            ));
        }
        let node = self.node_of(&bytes);
        if let Some(other) = self.nodes[node].token.replace(id) {
            return Err(format!("the token is that of id {other} again"));
        }
        if self.tokens.insert(id, bytes).is_some() {
            return Err(format!("the id {id} is there twice"));
        }
        Ok(())
    }

    /// The node of a prefix, made if there is none.
    fn node_of(&mut self, bytes: &[u8]) -> usize {
        let mut node = 0;
        for byte in bytes {
            let found = self.nodes[node].next.binary_search_by_key(byte, |n| n.0);
            node = match found {
                Ok(at) => self.nodes[node].next[at].1 as usize,
                Err(at) => {
                    let new = self.nodes.len();
                    self.nodes.push(Node::default());
                    self.nodes[node].next.insert(at, (*byte, new as u32));
                    new
                }
            };
        }
        node
    }

    /// The longest token that some bytes begin with, and its length.
    fn longest(&self, bytes: &[u8]) -> Option<(u32, usize)> {
        let mut node = &self.nodes[0];
        let mut best = None;
        for (at, byte) in bytes.iter().enumerate() {
            let Ok(next) = node.next.binary_search_by_key(byte, |n| n.0) else {
                break;
            };
            node = &self.nodes[node.next[next].1 as usize];
            if let Some(token) = node.token {
                best = Some((token, at + 1));
            }
        }
        best
    }

    /// The ids of a text, or the byte that no token begins with. Time: the length of the text times
    /// that of the longest token.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, u8> {
        let mut rest = text.as_bytes();
        let mut ids = Vec::new();
        while let Some(first) = rest.first() {
            let (id, length) = self.longest(rest).ok_or(*first)?;
            ids.push(id);
            rest = &rest[length..];
        }
        Ok(ids)
    }

    /// The bytes of a token; none for the end, and for what is no token.
    pub(crate) fn token(&self, id: u32) -> Option<&[u8]> {
        match id {
            END => Some(&[]),
            id => self.tokens.get(&id).map(Vec::as_slice),
        }
    }

    /// One more than the largest id.
    pub(crate) fn entries(&self) -> usize {
        self.tokens.keys().last().map_or(0, |id| *id as usize + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_token_wins_and_the_trie_goes_back_where_it_ended() {
        let world = World::parse("1 'a' 1\n2 'b' 1\n3 'abba' 4\n7 'ab' 2\n").unwrap();
        // `abb` begins `abba`, which does not follow: the longest before it is taken.
        assert_eq!(world.encode("abbabbb"), Ok(vec![3, 2, 2, 2]));
        assert_eq!(world.encode("abb"), Ok(vec![7, 2]));
        assert_eq!(world.encode(""), Ok(vec![]));
        assert_eq!(world.encode("ac"), Err(b'c'));
        assert_eq!(world.entries(), 8);
        assert_eq!(world.token(3), Some(&b"abba"[..]));
        assert_eq!((world.token(0), world.token(5)), (Some(&b""[..]), None));
    }

    #[test]
    fn a_line_that_is_wrong_is_named() {
        let form = "it is not of the form ID 'TOKEN' LENGTH";
        for (text, line, reason) in [
            ("", 1, "there is no token"),
            ("1 'a' 1\nx 'b' 1", 2, form),
            ("1 'a'", 1, form),
            ("1", 1, form),
            ("0 'a' 1", 1, "the id is 0, allowed are 1 to 16777216"),
            ("1 'a' 2", 1, "the token has 1 bytes, and is said to have 2"),
            ("1 '' 0", 1, "the token has 0 bytes, and is said to have 0"),
            ("1 'a' 1\n1 'b' 1", 2, "the id 1 is there twice"),
            ("1 'a' 1\n2 'a' 1", 2, "the token is that of id 1 again"),
            ("1 a 1", 1, "it is no quoted text"),
        ] {
            let expected = BadLine {
                line,
                reason: reason.into(),
            };
            assert_eq!(World::parse(text).unwrap_err(), expected, "{text}");
        }
    }
}
