//! A limit as it will be written: computed without I/O, then written in one pass.

use std::borrow::Cow;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::CgroupError;
use crate::dir::{Dir, uninterrupted, write_value};

/// One value for one control file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    pub file: Cow<'static, str>,
    pub value: String,
    /// The field of the configuration that asks for it.
    pub field: Cow<'static, str>,
    /// The file may be missing: what is asked for is then true anyway, or cannot be had on any such
    /// kernel and is ignored by the specification's reference.
    pub optional: bool,
    /// The value alone, without the rest of what the file holds (cpu.max): `{}` stands for the file's
    /// present first word.
    pub keep_first: bool,
}

impl Write {
    // Values are numbers and literals: cheap to hand over.
    #[allow(clippy::needless_pass_by_value)]
    pub(crate) fn new(file: &'static str, value: impl ToString, field: &'static str) -> Self {
        Self::named(file, value, field)
    }

    #[allow(clippy::needless_pass_by_value)]
    pub(crate) fn named(
        file: impl Into<Cow<'static, str>>,
        value: impl ToString,
        field: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            file: file.into(),
            value: value.to_string(),
            field: field.into(),
            optional: false,
            keep_first: false,
        }
    }

    pub(crate) fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    pub(crate) fn keeping_first(mut self) -> Self {
        self.keep_first = true;
        self
    }
}

/// Writes `writes` into `dir`, in order.
///
/// Some pairs of limits check each other (v1 memory and memory+swap; CPU quota, period and burst), so that
/// the right order depends on the values in force. Instead of reading those first, a value that is refused
/// with EINVAL is tried again after the others went in.
pub(crate) fn apply(dir: &Dir, writes: &[Write]) -> Result<(), CgroupError> {
    let mut refused = Vec::new();
    let mut accepted = false;
    for write in writes {
        match put(dir, write) {
            Ok(()) => accepted = true,
            Err(Errno::EINVAL) => refused.push(write),
            Err(source) => return failure(dir, write, source),
        }
    }
    for write in refused {
        let again = if accepted {
            put(dir, write)
        } else {
            Err(Errno::EINVAL)
        };
        if let Err(source) = again {
            return failure(dir, write, source);
        }
    }
    Ok(())
}

/// What brings back the values that `writes` would change. Where the present value cannot be told, nothing does.
pub(crate) fn former(dir: &Dir, writes: &[Write]) -> Vec<Write> {
    let one = |write: &Write| {
        let text = dir.read(&write.file).ok()?;
        // Files with a line a device: the device is the first word.
        let device = write
            .value
            .split_whitespace()
            .next()
            .filter(|word| word.contains(':'));
        let value = match device {
            Some(device) => text
                .lines()
                .find(|line| line.split_whitespace().next() == Some(device))?,
            None => text.lines().next().filter(|_| text.lines().count() == 1)?,
        };
        Some(Write {
            value: value.trim().to_owned(),
            keep_first: false,
            optional: true,
            ..write.clone()
        })
    };
    writes.iter().filter_map(one).collect()
}

fn put(dir: &Dir, write: &Write) -> Result<(), Errno> {
    let value = if write.keep_first {
        let present = dir.read(&write.file)?;
        Cow::Owned(format!(
            "{} {}",
            present.split_whitespace().next().unwrap_or("max"),
            write.value
        ))
    } else {
        Cow::Borrowed(write.value.as_str())
    };
    let file = dir.open(&write.file, OFlag::O_WRONLY)?;
    uninterrupted(|| write_value(std::os::fd::AsFd::as_fd(&file), &value))
}

fn failure(dir: &Dir, write: &Write, source: Errno) -> Result<(), CgroupError> {
    let path = dir.file(&write.file);
    if source == Errno::ENOENT && write.optional {
        return Ok(());
    }
    // A missing file is ENOENT; in a test's plain directory as well.
    if source == Errno::ENOENT && dir.exists() && !dir.has(&write.file) {
        return Err(CgroupError::MissingFile {
            field: write.field.clone().into_owned(),
            path,
        });
    }
    Err(CgroupError::Write {
        field: write.field.clone().into_owned(),
        hint: hint(dir, &write.file, source),
        value: write.value.clone(),
        path,
        source,
    })
}

/// What a refusal means, where the errno alone would mislead.
fn hint(dir: &Dir, file: &str, source: Errno) -> String {
    let number = |name: &str| {
        dir.read(name)
            .map_or_else(|_| "unknown".into(), |text| text.trim().to_owned())
    };
    match (file, source) {
        ("memory.limit_in_bytes", Errno::EBUSY) => format!(
            ": more than that is in use (current usage: {}, peak usage: {})",
            number("memory.usage_in_bytes"),
            number("memory.max_usage_in_bytes")
        ),
        ("memory.memsw.limit_in_bytes", Errno::EINVAL) => {
            ": memory+swap must be at least the memory limit".into()
        }
        ("memory.limit_in_bytes", Errno::EINVAL) => {
            format!(
                ": memory must be at most the memory+swap limit ({})",
                number("memory.memsw.limit_in_bytes")
            )
        }
        ("cpu.max" | "cpu.cfs_quota_us" | "cpu.cfs_period_us", Errno::EINVAL) => {
            ": the period must be 1000 to 1000000 us, the quota at least 1000 us and within the parent's"
                .into()
        }
        ("cpu.max.burst" | "cpu.cfs_burst_us", Errno::EINVAL) => {
            ": the burst must be at most the quota".into()
        }
        ("cpu.rt_runtime_us", Errno::EINVAL) => ": the parent cgroup has not enough real-time budget".into(),
        ("cpuset.cpus", Errno::EACCES | Errno::EINVAL | Errno::ERANGE) => {
            ": not a list of CPUs that the host and the parent cgroup have".into()
        }
        ("cpuset.mems", Errno::EACCES | Errno::EINVAL | Errno::ERANGE) => {
            ": not a list of memory nodes that the host and the parent cgroup have".into()
        }
        (name, Errno::ENODEV) if name.starts_with("io.") || name.starts_with("blkio.") => {
            ": there is no such block device".into()
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[(&str, &str)]) -> (tempfile::TempDir, Dir) {
        let temporary = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(temporary.path().join(name), content).unwrap();
        }
        let dir = Dir::new(temporary.path());
        (temporary, dir)
    }

    #[test]
    fn values_reach_their_files() {
        let (_keep, dir) = directory(&[("cpu.weight", ""), ("cpu.max", "5000 100000")]);
        let writes = [
            Write::new("cpu.weight", 79, "linux.resources.cpu.shares"),
            Write::new("cpu.max", 200_000, "linux.resources.cpu.period").keeping_first(),
            Write::new("memory.swap.max", "max", "linux.resources.memory.swap").optional(),
        ];
        apply(&dir, &writes).unwrap();
        assert_eq!(dir.read("cpu.weight").unwrap(), "79");
        assert_eq!(dir.read("cpu.max").unwrap(), "5000 200000");
    }

    #[test]
    fn a_missing_file_names_the_field() {
        let (_keep, dir) = directory(&[]);
        let error = apply(&dir, &[Write::new("cpu.idle", 1, "linux.resources.cpu.idle")]).unwrap_err();
        assert!(matches!(error, CgroupError::MissingFile { .. }), "{error}");
        assert!(
            error
                .to_string()
                .starts_with("linux.resources.cpu.idle: this kernel has no "),
            "{error}"
        );
    }
}
