//! How much memory this process can still have.

/// Bytes that can be allocated before the system, the control group or the limit of the process is
/// reached: the least of what each of them says. `None` where none says anything.
pub fn available() -> Option<usize> {
    [system(), group(), process()].into_iter().flatten().min()
}

/// What the system thinks can be had without swapping.
fn system() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    field_kb(&text, "MemAvailable:")
}

/// A line like `MemAvailable:   12345 kB`, in bytes.
fn field_kb(text: &str, name: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let number = line.split_whitespace().next()?;
    number.parse::<usize>().ok()?.checked_mul(1024)
}

/// What the control groups of the process leave (version 2). Caches that a group can give back do not
/// count as used.
fn group() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let root = std::path::Path::new("/sys/fs/cgroup");
    let own = root.join(own);
    let number = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(path).ok()?;
        text.trim().parse::<usize>().ok()
    };
    own.ancestors()
        .take_while(|group| group.starts_with(root))
        .filter_map(|group| {
            let most = number(group.join("memory.max"))?;
            let used = number(group.join("memory.current"))?;
            let stat = std::fs::read_to_string(group.join("memory.stat")).ok()?;
            let file = stat.lines().find_map(|line| line.strip_prefix("file "));
            let cached = file.and_then(|n| n.trim().parse::<usize>().ok());
            Some(most.saturating_sub(used.saturating_sub(cached.unwrap_or(0))))
        })
        .min()
}

/// What a limit on the address space (`ulimit -v`) leaves.
#[cfg(target_os = "linux")]
fn process() -> Option<usize> {
    use rustix::process::{Resource, getrlimit};

    let most = getrlimit(Resource::As).current?;
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let used = field_kb(&text, "VmSize:")?;
    Some(
        usize::try_from(most)
            .unwrap_or(usize::MAX)
            .saturating_sub(used),
    )
}

#[cfg(not(target_os = "linux"))]
fn process() -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_with_their_unit() {
        let text = "MemTotal:       100 kB\nMemAvailable:    12 kB\n";
        assert_eq!(field_kb(text, "MemAvailable:"), Some(12 * 1024));
        assert_eq!(field_kb(text, "Swap:"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_machine_that_runs_tests_has_some_memory() {
        assert!(available().is_some_and(|bytes| bytes > 1 << 20));
    }
}
