//! How much memory and how much time one input may take.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

/// Far more than any input of this size takes on a busy machine. A reader that is still at it after
/// [`HOPELESS`] will not end, and ends the test.
const PATIENCE: Duration = Duration::from_secs(10);
const HOPELESS: Duration = Duration::from_secs(60);
/// Bytes that all threads of the test may hold together.
const MOST_BYTES: usize = 1 << 30;

/// Counts what is held; what is beyond [`MOST_BYTES`] ends the test.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

fn take(bytes: usize) {
    let held = HELD.fetch_add(bytes, Ordering::Relaxed) + bytes;
    if held > MOST_BYTES {
        // Nothing that allocates: it would come here again.
        HELD.store(0, Ordering::Relaxed);
        give_up("holds more memory than it may");
    }
}

// SAFETY: every call goes to the system's allocator with the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: as the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller's.
        unsafe { System.dealloc(address, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What is being read: since when, of which kind, and its bytes.
type Reading = (Instant, &'static str, Vec<u8>);

static READING: Mutex<BTreeMap<usize, Reading>> = Mutex::new(BTreeMap::new());
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// An input that is being read.
pub struct Watched {
    number: usize,
    began: Instant,
}

/// Begins to watch.
pub fn watch(kind: &'static str, data: &[u8]) -> Watched {
    static WATCHMAN: Once = Once::new();
    WATCHMAN.call_once(|| {
        std::thread::spawn(|| {
            loop {
                std::thread::sleep(Duration::from_secs(1));
                let late = |began: &Instant| began.elapsed() > HOPELESS;
                let reading = READING.lock().expect("no panic inside");
                let hopeless = reading.values().any(|(began, ..)| late(began));
                drop(reading);
                if hopeless {
                    give_up("does not end");
                }
            }
        });
    });
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let began = Instant::now();
    let mut reading = READING.lock().expect("no panic inside");
    reading.insert(number, (began, kind, data.to_vec()));
    Watched { number, began }
}

impl Watched {
    /// Ends, in time or not.
    pub fn end(self) -> Result<(), String> {
        let took = self.began.elapsed();
        READING
            .lock()
            .expect("no panic inside")
            .remove(&self.number);
        match took > PATIENCE {
            true => Err(format!("took {took:?}")),
            false => Ok(()),
        }
    }
}

/// Ends the test with everything that is being read.
fn give_up(why: &str) -> ! {
    if let Ok(reading) = READING.try_lock() {
        for (_, kind, data) in reading.values() {
            let path = saved(kind, data);
            eprintln!("one of what is read {why}: {kind}, {}", path.display());
        }
    }
    std::process::abort()
}

/// Writes an input to a file.
pub fn saved(kind: &str, data: &[u8]) -> PathBuf {
    let hash = fusec_runtime::plan_dir::sha256(data);
    let name = format!("fuzz-{kind}-{}", &hash[..12]);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, data).ok();
    path
}
