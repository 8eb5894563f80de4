//! The tiny init with a plan behind it, as one sealed file in memory.
//!
//! The program is an ELF file whose last segment is empty; the plan is appended to the file, and the segment's
//! header changed to cover it. So the kernel maps program and plan together, there is nothing to open or read
//! inside, and the file that /proc/PID/exe leads to is neither on disk nor writable (CVE-2019-5736).

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use berth_sys::files;

use crate::wire::InitStep;
use crate::wire::encode::{self, SlotNumbers};

include!(concat!(env!("OUT_DIR"), "/init.rs"));

/// Alignment of segments in memory and in the file.
const PAGE: usize = 4096;

/// Makes the file. `socket` and `first_private` are the plan's header; `folder` is where a file may be made if
/// the host forbids to execute memory files (sysctl vm.memfd_noexec=2).
pub(super) fn build(
    steps: &[InitStep],
    socket: i32,
    first_private: u32,
    slots: &dyn SlotNumbers,
    folder: &Path,
) -> io::Result<OwnedFd> {
    let (plan, scratch) = encode::plan(steps, socket, first_private, slots);
    let offset = PROGRAM.len().next_multiple_of(PAGE);
    let memory = plan.len().next_multiple_of(16) + scratch * 8;
    let mut header = PROGRAM.get(..PAGE).unwrap_or(PROGRAM).to_vec();
    // Elf64_Phdr: p_offset at 8, p_filesz at 32, p_memsz at 40 (elf(5)).
    for (at, value) in [(8, offset), (32, plan.len()), (40, memory)] {
        let at = PLAN_HEADER + at;
        header[at..at + 8].copy_from_slice(&(value as u64).to_le_bytes());
    }
    let rest = PROGRAM.get(PAGE..).unwrap_or_default();
    let padding = [0u8; PAGE];
    let parts = [&header[..], rest, &padding[..offset - PROGRAM.len()], &plan[..]];
    match files::memory_program(c"berth-init") {
        Ok(file) => {
            let mut file = File::from(file);
            write_all(&mut file, &parts)?;
            files::seal(file.as_fd())?;
            Ok(file.into())
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => on_disk(&parts, folder),
        Err(error) => Err(error),
    }
}

/// The same in a file without a name. What is executed is a descriptor for reading on a read-only mount of its
/// own: nobody can open the file for writing through it, and no name leads to it.
fn on_disk(parts: &[&[u8]], folder: &Path) -> io::Result<OwnedFd> {
    let mut file = File::options()
        .read(true)
        .write(true)
        .mode(0o500)
        .custom_flags(libc::O_TMPFILE)
        .open(folder)?;
    write_all(&mut file, parts)?;
    // A file that is open for writing cannot be executed (ETXTBSY).
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let reader = File::open(path)?;
    drop(file);
    Ok(reader.into())
}

fn write_all(file: &mut File, parts: &[&[u8]]) -> io::Result<()> {
    let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let total: usize = parts.iter().map(|part| part.len()).sum();
    let written = file.write_vectored(&slices)?;
    if written == total {
        return Ok(());
    }
    // Rare: write the rest piece by piece.
    let mut skip = written;
    for part in parts {
        let from = skip.min(part.len());
        file.write_all(&part[from..])?;
        skip -= from;
    }
    Ok(())
}
