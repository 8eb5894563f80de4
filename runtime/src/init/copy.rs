//! `tmpcopyup`: what the image has at the place of a new file system is copied into it.

use core::ffi::CStr;

use super::sys::{
    self, AT_SYMLINK_NOFOLLOW, Errno, Fd, O_DIRECTORY, O_NOFOLLOW, O_RDONLY, S_IFDIR, S_IFLNK, S_IFREG, Stat,
};
use super::{Buffer, PATH_MAX};

/// Folders in folders, at most: each takes some stack and two descriptors.
const MAX_DEPTH: u32 = 64;

/// Copies the contents of the folder at `place` into the root of the detached mount `into`.
pub(super) fn folder(place: Fd, into: Fd) -> Result<(), Errno> {
    let from = sys::openat(place, c".", O_RDONLY | O_DIRECTORY, 0)?;
    let result = contents(from, into, 0);
    let own = sys::fstat(from)?;
    sys::close(from);
    result?;
    sys::fchownat(into, c".", own.uid, own.gid, 0)?;
    let top = sys::openat(into, c".", O_RDONLY | O_DIRECTORY, 0)?;
    let done = sys::fchmod(top, own.mode & 0o7777).and_then(|()| sys::set_times(top, own.mtime));
    sys::close(top);
    done
}

fn contents(from: Fd, into: Fd, depth: u32) -> Result<(), Errno> {
    if depth > MAX_DEPTH {
        return Err(Errno::ELOOP);
    }
    let mut entries = [0u8; 2048];
    loop {
        let length = sys::getdents(from, &mut entries)?;
        if length == 0 {
            return Ok(());
        }
        let mut rest = &entries[..length];
        // struct linux_dirent64: inode and offset (8 bytes each), record length (2), type (1), name.
        while rest.len() > 19 {
            let record = usize::from(u16::from_ne_bytes([rest[16], rest[17]]));
            let (entry, next) = rest.split_at_checked(record).ok_or(Errno::EBADMSG)?;
            let name = CStr::from_bytes_until_nul(entry.get(19..).ok_or(Errno::EBADMSG)?)
                .map_err(|_| Errno::EBADMSG)?;
            if name != c"." && name != c".." {
                entry_copy(from, into, name, depth)?;
            }
            rest = next;
        }
    }
}

fn entry_copy(from: Fd, into: Fd, name: &CStr, depth: u32) -> Result<(), Errno> {
    let stat = sys::stat(from, name, AT_SYMLINK_NOFOLLOW)?;
    match stat.kind() {
        S_IFDIR => {
            sys::mkdirat(into, name, 0o700)?;
            let below = sys::openat(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0)?;
            let made = sys::openat(into, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0)?;
            let result = contents(below, made, depth + 1);
            let result = result.and_then(|()| properties(below, made, &stat));
            sys::close(below);
            sys::close(made);
            result
        }
        S_IFREG => {
            let source = sys::openat(from, name, O_RDONLY | O_NOFOLLOW, 0)?;
            let made = sys::openat(
                into,
                name,
                sys::O_WRONLY | sys::O_CREAT | sys::O_EXCL | O_NOFOLLOW,
                0o600,
            )?;
            let result = bytes(source, made).and_then(|()| properties(source, made, &stat));
            sys::close(source);
            sys::close(made);
            result
        }
        S_IFLNK => {
            let mut target = Buffer::new();
            let mut text = [0u8; PATH_MAX];
            let length = sys::readlinkat(from, name, &mut text)?;
            target.push(&text[..length])?;
            sys::symlinkat(target.text(), into, name)?;
            sys::fchownat(into, name, stat.uid, stat.gid, AT_SYMLINK_NOFOLLOW)
        }
        _ => {
            let device = sys::makedev(stat.rdev.0, stat.rdev.1);
            sys::mknodat(into, name, stat.mode, device)?;
            sys::fchownat(into, name, stat.uid, stat.gid, AT_SYMLINK_NOFOLLOW)
        }
    }
}

fn bytes(from: Fd, into: Fd) -> Result<(), Errno> {
    let mut buffer = [0u8; 8192];
    loop {
        let length = sys::read(from, &mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            let written = sys::write(into, rest)?;
            rest = rest.get(written..).ok_or(Errno::EBADMSG)?;
        }
    }
}

/// Owner, permissions, extended attributes and time, in this order: a change of owner clears permission bits.
fn properties(from: Fd, into: Fd, stat: &Stat) -> Result<(), Errno> {
    sys::fchownat(into, c"", stat.uid, stat.gid, sys::AT_EMPTY_PATH)?;
    sys::fchmod(into, stat.mode & 0o7777)?;
    let mut names = [0u8; 1024];
    let length = match sys::flistxattr(from, &mut names) {
        Ok(length) => length,
        Err(Errno::EOPNOTSUPP) => 0,
        Err(errno) => return Err(errno),
    };
    for name in names[..length].split_inclusive(|b| *b == 0) {
        let name = CStr::from_bytes_with_nul(name).map_err(|_| Errno::EBADMSG)?;
        let mut value = [0u8; 1024];
        let length = sys::fgetxattr(from, name, &mut value)?;
        match sys::fsetxattr(into, name, &value[..length]) {
            // tmpfs does not keep every kind; what it refuses is not content.
            Ok(()) | Err(Errno::EOPNOTSUPP | Errno::EPERM) => {}
            Err(errno) => return Err(errno),
        }
    }
    sys::set_times(into, stat.mtime)
}
