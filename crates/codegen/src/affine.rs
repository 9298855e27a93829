//! Addresses as C text: an element number of a space back into an offset, with as few divisions as
//! the strides allow.

pub use fusec_fuse::schedule::affine::{Grid, Offset, Space};
use fusec_ir::AxisId;
use std::collections::BTreeMap;

/// The text of an [`Offset`].
pub trait OffsetText {
    /// The part of the offset that depends on the block only, if not zero.
    fn block_text(&self, first_index: &impl Fn(AxisId) -> String) -> Option<String>;

    /// The local part, for element number `e` of `space`; `None` if it is zero.
    ///
    /// Neighbouring axes whose strides nest are merged, so that a contiguous operand is
    /// simply `e`.
    fn local_text(&self, space: &Space, e: &str) -> Option<String>;
}

impl OffsetText for Offset {
    fn block_text(&self, first_index: &impl Fn(AxisId) -> String) -> Option<String> {
        let mut parts: Vec<String> = Vec::new();
        for (axis, coefficient) in &self.block {
            match coefficient {
                0 => {}
                1 => parts.push(first_index(*axis)),
                c => parts.push(format!("{} * {c}", first_index(*axis))),
            }
        }
        if self.base != 0 {
            parts.push(self.base.to_string());
        }
        (!parts.is_empty()).then(|| parts.join(" + "))
    }

    fn local_text(&self, space: &Space, e: &str) -> Option<String> {
        struct Group {
            coefficient: i64,
            extent: i64,
            inner: i64,
        }
        let mut groups: Vec<Group> = Vec::new();
        let mut inner = 1i64;
        for (axis, extent) in space.axes.iter().zip(&space.extents).rev() {
            let coefficient = self.local.get(axis).copied().unwrap_or(0);
            let extent = *extent as i64;
            match groups.last_mut() {
                Some(g) if coefficient == g.coefficient * g.extent => g.extent *= extent,
                _ => groups.push(Group {
                    coefficient,
                    extent,
                    inner,
                }),
            }
            inner *= extent;
        }
        let total = inner;
        let mut parts: Vec<String> = Vec::new();
        for g in groups.iter().rev().filter(|g| g.coefficient != 0) {
            let outermost = g.inner * g.extent == total;
            // `elem + nth` is one operand of what follows.
            let alone = g.inner == 1 && outermost && g.coefficient == 1;
            let mut text = match alone || e.starts_with('(') || !e.contains(' ') {
                true => e.to_string(),
                false => format!("({e})"),
            };
            let mut compound = false;
            if g.inner != 1 {
                text = format!("{text} / {}", g.inner);
                compound = true;
            }
            if !outermost {
                text = if compound {
                    format!("({text}) % {}", g.extent)
                } else {
                    format!("{text} % {}", g.extent)
                };
                compound = true;
            }
            parts.push(match (g.coefficient, compound) {
                (1, false) => text,
                (1, true) => format!("({text})"),
                (c, false) => format!("{text} * {c}"),
                (c, true) => format!("({text}) * {c}"),
            });
        }
        (!parts.is_empty()).then(|| parts.join(" + "))
    }
}

/// The parts of an offset as one expression.
pub fn sum_text(parts: Vec<String>) -> String {
    match parts.is_empty() {
        true => "0".into(),
        false => parts.join(" + "),
    }
}

/// The local index along `axis` of element `e` of a space, as C text.
pub fn index_text(space: &Space, axis: AxisId, e: &str) -> String {
    let unit = Offset {
        base: 0,
        local: BTreeMap::from([(axis, 1)]),
        block: BTreeMap::new(),
    };
    unit.local_text(space, e).unwrap_or_else(|| "0".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(extents: &[(u32, usize)]) -> Space {
        Space {
            axes: extents.iter().map(|(a, _)| AxisId(*a)).collect(),
            extents: extents.iter().map(|(_, n)| *n).collect(),
        }
    }

    fn offset(local: &[(u32, i64)]) -> Offset {
        Offset {
            base: 0,
            local: local.iter().map(|(a, c)| (AxisId(*a), *c)).collect(),
            block: BTreeMap::new(),
        }
    }

    #[test]
    fn an_element_that_is_a_sum_is_taken_as_a_whole() {
        let space = space(&[(0, 4), (1, 3), (2, 2)]);
        for (axis, e, text) in [
            (0, "elem + nth", "((elem + nth) / 6)"),
            (1, "elem + nth", "(((elem + nth) / 2) % 3)"),
            (2, "elem + nth", "((elem + nth) % 2)"),
            (2, "(elem + nth)", "((elem + nth) % 2)"),
            (2, "elem", "(elem % 2)"),
        ] {
            assert_eq!(index_text(&space, AxisId(axis), e), text);
        }
        let one = Space {
            axes: vec![AxisId(0)],
            extents: vec![8],
        };
        assert_eq!(index_text(&one, AxisId(0), "elem + nth"), "elem + nth");
    }

    #[test]
    fn text_uses_as_few_divisions_as_the_strides_allow() {
        let hn = space(&[(0, 4), (1, 64)]);
        let cases = [
            (offset(&[(0, 64), (1, 1)]), Some("e")),
            (
                offset(&[(0, 128), (1, 1)]),
                Some("(e / 64) * 128 + (e % 64)"),
            ),
            (offset(&[(0, 1), (1, 4)]), Some("(e / 64) + (e % 64) * 4")),
            (offset(&[(1, 1)]), Some("(e % 64)")),
            (offset(&[(0, 1)]), Some("(e / 64)")),
            (offset(&[]), None),
            (offset(&[(0, -64), (1, -1)]), Some("e * -1")),
        ];
        for (offset, expected) in cases {
            assert_eq!(offset.local_text(&hn, "e").as_deref(), expected);
        }
    }
}
