//! Memory that the runs of a stream have in turn, whichever models they are of. It stays until the process ends:
//! were it a model's, whoever drops the model would wait for the device.

use crate::executor::ExecuteError;
use crate::executor::in_place::Lent;
use crate::executor::recent::Recent;
use std::sync::{LazyLock, Mutex, PoisonError};

/// Streams whose memory is kept; of one more, the least recently used gives way, and freeing waits for its runs.
const MOST_STREAMS: usize = 64;

/// By device and by the number of the stream, which no other stream has before or after.
static LENT: LazyLock<Mutex<Recent<(usize, u64), Lent>>> =
    LazyLock::new(|| Mutex::new(Recent::new(MOST_STREAMS)));

/// That of a stream of device `ordinal`, allocated by the first who asks.
pub(super) fn lent(
    ordinal: usize,
    stream: u64,
    allocate: impl FnOnce() -> Result<Lent, ExecuteError>,
) -> Result<Lent, ExecuteError> {
    let mut all = LENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(lent) = all.get(&(ordinal, stream)) {
        return Ok(lent.clone());
    }
    let lent = allocate()?;
    all.insert((ordinal, stream), lent.clone());
    Ok(lent)
}
