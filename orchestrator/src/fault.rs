//! Points at which a test ends `berthd` by SIGKILL: around every write of the store, around every action of the node
//! and between its parts.
//!
//! Only builds with debug assertions have them; in any other a point is nothing, and nothing reads the variables.
//! `BERTH_FAULT=NAME:NUMBER` kills at the NUMBERth time that the point NAME is passed (`*` for any);
//! `BERTH_FAULT_LOG` names a file that gets the name of the point.

/// A point with this name.
#[cfg(not(debug_assertions))]
#[inline]
pub(crate) fn point(_name: &'static str) {}

#[cfg(debug_assertions)]
pub(crate) use armed::point;

#[cfg(debug_assertions)]
mod armed {
    use std::io::Write as _;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    /// Name of the point and number of the passage.
    static TARGET: LazyLock<Option<(String, u64)>> = LazyLock::new(|| {
        let text = std::env::var("BERTH_FAULT").ok()?;
        let (name, number) = text.rsplit_once(':')?;
        Some((name.to_owned(), number.parse().ok()?))
    });
    static PASSED: AtomicU64 = AtomicU64::new(0);

    /// A point with this name.
    pub(crate) fn point(name: &'static str) {
        let Some((wanted, number)) = &*TARGET else { return };
        if wanted != "*" && wanted != name {
            return;
        }
        if PASSED.fetch_add(1, Ordering::Relaxed) + 1 != *number {
            return;
        }
        if let Some(path) = std::env::var_os("BERTH_FAULT_LOG")
            && let Ok(mut log) = std::fs::File::options().append(true).create(true).open(path)
        {
            // One write(2); whoever reads the log misses a line that could not be written.
            let _ = log.write_all(format!("{name}\n").as_bytes());
        }
        let _ = kill(Pid::this(), Signal::SIGKILL);
        // Other threads may live for a moment longer; this one goes no further.
        loop {
            std::thread::park();
        }
    }
}
