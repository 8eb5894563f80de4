//! bpf(2) for device filters of cgroup v2: load a program, attach it to a cgroup, replace it.
//!
//! The kernel's `union bpf_attr` is written field by field into byte buffers: only the fields that a command
//! uses are passed, with their length, so that older and newer kernels take them alike.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// One instruction, in the kernel's layout (`struct bpf_insn`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Class, operation and operand kind.
    pub code: u8,
    /// Destination register in the low half, source register in the high half (little-endian hosts).
    pub registers: u8,
    /// Jump distance or memory offset.
    pub offset: i16,
    /// Constant operand.
    pub constant: i32,
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_DETACH: libc::c_long = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_PROG_QUERY: libc::c_long = 16;

const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 1 << 1;
const BPF_F_REPLACE: u32 = 1 << 2;

#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach: u32,
}

#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replaced: u32,
}

#[repr(C)]
struct Query {
    target: u32,
    kind: u32,
    scope: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

#[repr(C)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

/// Calls bpf(2) with `attributes`, whose fields must be those of `command`.
fn call<T>(command: libc::c_long, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: `attributes` is a live, initialised #[repr(C)] value of the length passed; the kernel reads and
    // writes at most that length. Addresses in its fields are set by the callers below to buffers that
    // outlive the call and are as long as the count beside them says.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as i32)
    }
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel just returned this descriptor (bpf(2) descriptors are close-on-exec), so nobody
    // else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Loads a program of type BPF_PROG_TYPE_CGROUP_DEVICE; it shows up as `berth_device` in bpftool.
///
/// # Errors
/// EPERM without CAP_BPF (or CAP_SYS_ADMIN), EINVAL or EACCES if the verifier refuses the program.
pub fn load_device_program(program: &[Instruction]) -> io::Result<OwnedFd> {
    let mut name = [0; 16];
    name[..12].copy_from_slice(b"berth_device");
    let license = c"Apache-2.0";
    let mut attributes = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name,
        interface: 0,
        expected_attach: 0,
    };
    call(BPF_PROG_LOAD, &mut attributes).map(owned)
}

/// Attaches a device program to a cgroup v2 directory, beside others (BPF_F_ALLOW_MULTI: all programs of
/// the cgroup and its ancestors must allow), or in the place of `replaced` (Linux 5.6).
///
/// # Errors
/// EPERM without the right or if an ancestor's program forbids it, EINVAL on an older kernel.
pub fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replaced: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut attributes = Attach {
        target: cgroup.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        flags: if replaced.is_some() {
            BPF_F_ALLOW_MULTI | BPF_F_REPLACE
        } else {
            BPF_F_ALLOW_MULTI
        },
        replaced: replaced.map_or(0, |fd| fd.as_raw_fd() as u32),
    };
    call(BPF_PROG_ATTACH, &mut attributes).map(drop)
}

/// Detaches a device program from a cgroup v2 directory.
///
/// # Errors
/// ENOENT if it is not attached.
pub fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = Attach {
        target: cgroup.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        flags: 0,
        replaced: 0,
    };
    call(BPF_PROG_DETACH, &mut attributes).map(drop)
}

/// The device programs attached to a cgroup v2 directory itself (not to its ancestors).
///
/// # Errors
/// EPERM without CAP_BPF or CAP_SYS_ADMIN. A program that goes away meanwhile is left out.
pub fn device_programs(cgroup: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    // The kernel's limit a cgroup and attach type (BPF_CGROUP_MAX_PROGS).
    let mut ids = [0_u32; 64];
    let mut attributes = Query {
        target: cgroup.as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        scope: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        padding: 0,
    };
    call(BPF_PROG_QUERY, &mut attributes)?;
    let mut programs = Vec::new();
    for id in ids.iter().take(attributes.count as usize) {
        let mut attributes = ById {
            id: *id,
            next: 0,
            flags: 0,
        };
        match call(BPF_PROG_GET_FD_BY_ID, &mut attributes) {
            Ok(fd) => programs.push(owned(fd)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(programs)
}
