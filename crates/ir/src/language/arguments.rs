//! Arguments of a call of a function: positions, keywords, axes.

use super::error::{Problem, Result, fail};
use super::pointwise::{Host, need_axis};
use super::syntax::{Arg, Call, Ident, Node, NodeKind};
use super::tensor::Tensor;
use crate::{AxisId, Span};

/// Arguments of a call, sorted by kind.
pub(super) struct Args<'c> {
    pub function: &'c Ident,
    pub usage: &'static str,
    pub positional: Vec<&'c Node>,
    pub keywords: Vec<(&'c Ident, &'c Node)>,
    pub renames: Vec<(&'c Ident, &'c Ident)>,
    pub span: Span,
}

impl<'c> Args<'c> {
    /// Checks the keywords against those the function has.
    pub fn new(
        call: &'c Call,
        usage: &'static str,
        known: &[&str],
        span: Span,
    ) -> Result<Args<'c>> {
        let mut out = Args {
            function: &call.function,
            usage,
            positional: Vec::new(),
            keywords: Vec::new(),
            renames: Vec::new(),
            span,
        };
        for arg in &call.args {
            match arg {
                Arg::Positional(node) => out.positional.push(node),
                Arg::Keyword(name, node) => {
                    if !known.contains(&name.text.as_str()) {
                        return fail(
                            Problem::UnknownArgument {
                                function: call.function.text.clone(),
                                name: name.text.clone(),
                                known: known.iter().map(|k| k.to_string()).collect(),
                            },
                            name.span,
                        );
                    }
                    if out.keyword(&name.text).is_some() {
                        return fail(
                            Problem::Twice {
                                what: "argument",
                                name: name.text.clone(),
                            },
                            name.span,
                        );
                    }
                    out.keywords.push((name, node));
                }
                Arg::Rename(from, to) => out.renames.push((from, to)),
            }
        }
        if !out.renames.is_empty()
            && !["rename", "split", "slice", "concat", "outer"]
                .contains(&call.function.text.as_str())
        {
            return out.bad("`->` belongs into rename(x, A -> B)");
        }
        Ok(out)
    }

    /// A keyword argument.
    pub fn keyword(&self, name: &str) -> Option<&'c Node> {
        self.keywords
            .iter()
            .find(|(k, _)| k.text == name)
            .map(|(_, node)| *node)
    }

    /// Positional argument number `i`, called `what`.
    pub fn at(&self, i: usize, what: &str) -> Result<&'c Node> {
        match self.positional.get(i) {
            Some(node) => Ok(node),
            None => self.missing(what),
        }
    }

    /// Refuses more than `n` positional arguments.
    pub fn at_most(&self, n: usize) -> Result<()> {
        if self.positional.len() > n {
            return self.bad(&format!("got {} arguments", self.positional.len()));
        }
        Ok(())
    }

    pub fn missing<T>(&self, what: &str) -> Result<T> {
        fail(
            Problem::MissingArgument {
                function: self.function.text.clone(),
                argument: what.to_owned(),
                usage: self.usage.into(),
            },
            self.span,
        )
    }

    pub fn bad<T>(&self, found: &str) -> Result<T> {
        fail(
            Problem::BadArgument {
                function: self.function.text.clone(),
                takes: self.usage.into(),
                found: found.to_owned(),
            },
            self.span,
        )
    }

    /// The axes named by the positional arguments from number `first` on.
    pub fn axes_of(
        &self,
        host: &mut dyn Host,
        first: usize,
        of: &Tensor,
        of_node: &Node,
    ) -> Result<Vec<AxisId>> {
        let mut out = Vec::new();
        for node in self.positional.iter().skip(first) {
            let name = axis_name(node)?;
            for atom in host.axis(&name)? {
                need_axis(host, of, of_node, atom, &name)?;
                if out.contains(&atom) {
                    return fail(
                        Problem::AxisTwice {
                            axis: name.text,
                            place: format!("`{}`", self.function.text),
                        },
                        node.span,
                    );
                }
                out.push(atom);
            }
        }
        Ok(out)
    }
}

/// An argument that has to be the name of an axis.
pub(super) fn axis_name(node: &Node) -> Result<Ident> {
    match &node.kind {
        NodeKind::Name(text) => Ok(Ident {
            text: text.clone(),
            span: node.span,
        }),
        _ => fail(
            Problem::Syntax {
                expected: "the name of an axis".into(),
                found: "an expression".into(),
            },
            node.span,
        ),
    }
}
