//! Compiled filters, kept from one container to the next: an engine gives most of its containers the same profile.
//!
//! A folder that only its owner may enter holds at most [`PLACES`] of them. A profile's hash says which of them is its own,
//! and the file says which profile it is for in full, so that a hash need not be unique: whatever is not exactly right
//! (another profile, another compiler, another owner, cut short) is compiled anew and replaced.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use berth_spec::{LinuxSeccomp, LinuxSyscall};
use libseccomp::ScmpVersion;

use super::{FLAG_NEW_LISTENER, MAX_INSTRUCTIONS, Program, SeccompError, compile, listener};

/// How many filters are kept, of some 12 KiB each.
const PLACES: u64 = 64;

/// The greatest file that is read, in bytes: the longest filter and the longest profile that is kept.
const LONGEST: usize = 256 * 1024;

/// What a file begins with: the layout, and a hash of the compiler's source (build.rs).
const HEAD: &[u8] = concat!("berth seccomp 1 ", env!("BERTH_SECCOMP_SOURCE"), "\n").as_bytes();

/// The folder of compiled filters. Without it, or where it cannot be used, every profile is compiled.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// Uses `folder`, which need not exist yet; the folder above must be one that only trusted users write to.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// [`compile`], but for profiles that were compiled before.
    ///
    /// # Errors
    /// As [`compile`]; a cache that cannot be read or written is none.
    pub fn compile(&self, seccomp: &LinuxSeccomp) -> Result<Program, SeccompError> {
        let profile = words(seccomp);
        let place = self.folder.join(format!("{:02x}", hash(&profile) % PLACES));
        if let Some(kept) = read(&place)
            .ok()
            .flatten()
            .and_then(|file| decode(&file, &profile))
        {
            let notifies = kept.flags & FLAG_NEW_LISTENER != 0;
            return Ok(Program {
                listener: listener(seccomp, notifies)?,
                ..kept
            });
        }
        let program = compile(seccomp)?;
        let file = encode(&program, &profile);
        if file.len() <= LONGEST {
            // Without a place to keep it, it was compiled for this container only.
            let _ = self.keep(&place, &file);
        }
        Ok(program)
    }

    /// Puts a file in its place at once: whoever reads meanwhile sees the old one or the new one.
    fn keep(&self, place: &Path, file: &[u8]) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // Two that write it at once spoil it at worst, and the sum tells.
        let prepared = place.with_extension("new");
        let write = || {
            let mut made = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .custom_flags(libc::O_NOFOLLOW)
                .mode(0o600)
                .open(&prepared)?;
            made.write_all(file)?;
            std::fs::rename(&prepared, place)
        };
        write().inspect_err(|_| {
            let _ = std::fs::remove_file(&prepared);
        })
    }
}

/// The bytes of a file that nobody else could have written. `None` if it is not such a file.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let found = file.metadata()?;
    let own = found.is_file()
        && found.uid() == nix::unistd::geteuid().as_raw()
        && found.mode() & 0o022 == 0
        && found.nlink() == 1;
    let length = found.len() as usize;
    if !own || length > LONGEST {
        return Ok(None);
    }
    let mut bytes = vec![0; length];
    (&file).read_exact(&mut bytes)?;
    Ok(Some(bytes))
}

/// A hash that tells profiles and damaged files apart, not a cryptographic one: eight bytes at a time, as FNV-1a does one.
fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, word: u64| {
        let mixed = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ mixed >> 29
    };
    let (words, rest) = bytes.as_chunks::<8>();
    let hash = words.iter().fold(bytes.len() as u64, |hash, word| {
        step(hash, u64::from_ne_bytes(*word))
    });
    rest.iter().fold(hash, |hash, byte| step(hash, u64::from(*byte)))
}

/// Everything of a profile that its filter depends on, unambiguously.
pub(super) fn words(seccomp: &LinuxSeccomp) -> Vec<u8> {
    let mut out = Vec::with_capacity(12 * 1024);
    if let Ok(version) = ScmpVersion::current() {
        for number in [version.major, version.minor, version.micro] {
            put(&mut out, number);
        }
    }
    put(&mut out, seccomp.default_action() as u32);
    put_optional(&mut out, seccomp.default_errno_ret().map(u64::from));
    let architectures = seccomp.architectures().iter().flatten();
    put_list(&mut out, architectures.map(|architecture| *architecture as u32));
    // No list of flags means another than an empty one.
    put(&mut out, u32::from(seccomp.flags().is_some()));
    put_list(
        &mut out,
        seccomp.flags().iter().flatten().map(|flag| *flag as u32),
    );
    for rule in seccomp.syscalls().iter().flatten() {
        put_rule(&mut out, rule);
    }
    out
}

fn put_rule(out: &mut Vec<u8>, rule: &LinuxSyscall) {
    put(out, rule.action() as u32);
    put_optional(out, rule.errno_ret().map(u64::from));
    let conditions = rule.args().as_deref().unwrap_or_default();
    put(out, conditions.len() as u32);
    for condition in conditions {
        put_optional(out, Some(condition.index() as u64));
        put_optional(out, Some(condition.value()));
        put_optional(out, condition.value_two());
        put(out, condition.op() as u32);
    }
    put(out, rule.names().len() as u32);
    for name in rule.names() {
        put(out, name.len() as u32);
        out.extend_from_slice(name.as_bytes());
    }
}

fn put(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_ne_bytes());
}

fn put_optional(out: &mut Vec<u8>, number: Option<u64>) {
    put(out, u32::from(number.is_some()));
    out.extend_from_slice(&number.unwrap_or_default().to_ne_bytes());
}

fn put_list(out: &mut Vec<u8>, numbers: impl Iterator<Item = u32>) {
    let start = out.len();
    put(out, 0);
    for number in numbers {
        put(out, number);
    }
    let count = ((out.len() - start) / 4 - 1) as u32;
    out[start..start + 4].copy_from_slice(&count.to_ne_bytes());
}

/// Head, three lengths and the flags, the profile, the filter, the names of ignored calls (each after its length), and a
/// sum over all of it.
pub(super) fn encode(program: &Program, profile: &[u8]) -> Vec<u8> {
    let mut ignored = Vec::new();
    for name in &program.ignored {
        put(&mut ignored, name.len() as u32);
        ignored.extend_from_slice(name.as_bytes());
    }
    let mut out = Vec::with_capacity(profile.len() + 8 * program.filter.len() + 256);
    out.extend_from_slice(HEAD);
    for number in [
        profile.len() as u32,
        program.filter.len() as u32,
        ignored.len() as u32,
        program.flags,
    ] {
        put(&mut out, number);
    }
    out.extend_from_slice(profile);
    for instruction in &program.filter {
        out.extend_from_slice(instruction);
    }
    out.extend_from_slice(&ignored);
    let sum = hash(&out);
    out.extend_from_slice(&sum.to_ne_bytes());
    out
}

/// The program, without its listener, if `file` was written for exactly this profile by exactly this compiler.
fn decode(file: &[u8], profile: &[u8]) -> Option<Program> {
    let (content, sum) = file.split_last_chunk::<8>()?;
    let mut rest = content.strip_prefix(HEAD)?;
    let mut number = || {
        let (number, after) = rest.split_first_chunk::<4>()?;
        rest = after;
        Some(u32::from_ne_bytes(*number))
    };
    let (length, instructions, ignored_length, flags) = (number()?, number()?, number()?, number()?);
    let rest = rest
        .strip_prefix(profile)
        .filter(|_| length as usize == profile.len())?;
    let (filter, mut names) = rest.split_at_checked(8 * instructions as usize)?;
    let right = names.len() == ignored_length as usize
        && (1..=MAX_INSTRUCTIONS).contains(&(instructions as usize))
        && hash(content) == u64::from_ne_bytes(*sum);
    if !right {
        return None;
    }
    let (filter, _) = filter.as_chunks::<8>();
    let mut ignored = Vec::new();
    while let Some((length, after)) = names.split_first_chunk::<4>() {
        let (name, after) = after.split_at_checked(u32::from_ne_bytes(*length) as usize)?;
        ignored.push(String::from_utf8(name.to_vec()).ok()?);
        names = after;
    }
    Some(Program {
        filter: filter.to_vec(),
        flags,
        listener: None,
        ignored,
    })
}
