//! Loop devices: a file as a block device (loop(4)).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

// <linux/loop.h>
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// How often another process may take the free device before this one does.
const TRIES: usize = 64;

/// struct loop_info64.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// struct loop_config.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<Info>() == 232 && size_of::<Config>() == 304);

/// A loop device that frees itself when it is no longer open or mounted anywhere.
#[derive(Debug)]
pub struct Loop {
    path: PathBuf,
    _device: File,
}

impl Loop {
    /// Attaches a file, for reading only or past the page cache (`direct`) if asked for.
    ///
    /// # Errors
    /// The system's answer: ENOENT also for a kernel without loop devices.
    pub fn attach(file: &Path, read_only: bool, direct: bool) -> io::Result<Self> {
        let mut open = OpenOptions::new();
        open.read(true).write(!read_only);
        let backing = open.open(file)?;
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/loop-control")?;
        let mut last = io::Error::from_raw_os_error(libc::EBUSY);
        for _ in 0..TRIES {
            // SAFETY: the request takes no argument.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
            if number < 0 {
                return Err(io::Error::last_os_error());
            }
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = open.open(&path)?;
            let config = config(&backing, file, read_only, direct);
            // SAFETY: the kernel reads one `Config`, which lives for the call.
            if unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) } == 0 {
                return Ok(Self {
                    path,
                    _device: device,
                });
            }
            last = io::Error::last_os_error();
            if last.raw_os_error() != Some(libc::EBUSY) {
                break;
            }
        }
        Err(last)
    }

    /// The device.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn config(backing: &File, file: &Path, read_only: bool, direct: bool) -> Config {
    let mut flags = LO_FLAGS_AUTOCLEAR;
    if read_only {
        flags |= LO_FLAGS_READ_ONLY;
    }
    if direct {
        flags |= LO_FLAGS_DIRECT_IO;
    }
    let mut file_name = [0; 64];
    // Only what losetup(8) shows; the last byte ends it.
    let shown = file.as_os_str().as_encoded_bytes();
    let length = shown.len().min(63);
    file_name[..length].copy_from_slice(&shown[..length]);
    Config {
        fd: backing.as_raw_fd() as u32,
        block_size: 0,
        info: Info {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags,
            file_name,
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        },
        reserved: [0; 8],
    }
}
