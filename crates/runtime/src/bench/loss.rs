//! The loss of a run: what is computed fast has to be what would be computed slowly, to the last figure that
//! a training or an evaluation would see.

use crate::gates::entropy::{cross_entropy, vocabulary};
use crate::gates::sane::rows;
use crate::inputs::{Data, RunInputs};
use crate::session::{Session, SessionError};
use fusec_fuse::Shape;

/// Most logits that are read for it. Longer runs give the loss of their first tokens.
const MOST_LOGITS: usize = 1 << 26;

/// Mean cross-entropy, nats, of the next token over a run from an empty state: tokens drawn from a seed, the
/// same for every plan. Not finite where the logits are not. `None` for what does not turn token ids into logits over them, or gives last rows only.
pub fn loss(
    session: &mut dyn Session,
    shape: Shape,
    seed: u64,
) -> Result<Option<f64>, SessionError> {
    let Some(vocabulary) = vocabulary(session.graph()) else {
        return Ok(None);
    };
    let of_each = MOST_LOGITS / (vocabulary * shape.batch).max(1);
    let longest = session.longest_run().unwrap_or(usize::MAX);
    let time = shape.time.min(of_each.max(1)).min(longest);
    // One more than is run: the last target.
    let longer = Shape {
        time: time + 1,
        ..shape
    };
    session.reset(shape.batch)?;
    let all = RunInputs::random(session.graph(), longer, seed);
    let inputs = rows(session, &all, longer, 0, time);
    let outputs = session.run(time, &inputs.given())?;
    let targets = rows(session, &all, longer, 1, time);
    let logits = outputs.first().and_then(|output| output.numbers());
    Ok(match (logits, targets.data()) {
        (Some(logits), [Data::Ids(targets)]) if logits.len() == targets.len() * vocabulary => {
            Some(cross_entropy(logits, targets, vocabulary))
        }
        _ => None,
    })
}
