//! Mounts of a container without a mount namespace: they are made on the host, below the container's root, as runc makes
//! them. Berth takes them away with the container, which runc does not.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

/// The mount points strictly below `root`, in the order in which they were made.
pub fn below(root: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(below_in(&fs::read("/proc/self/mountinfo")?, root))
}

/// Takes away what was mounted below `root` since `before` was its list of mount points.
pub fn detach(root: &Path, before: &[PathBuf]) -> io::Result<()> {
    let mut found = below(root)?;
    for known in before {
        // Mounts on top of one another share a place: those below were there.
        if let Some(at) = found.iter().position(|path| path == known) {
            found.remove(at);
        }
    }
    for path in found.iter().rev() {
        umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    }
    Ok(())
}

fn below_in(mountinfo: &[u8], root: &Path) -> Vec<PathBuf> {
    // "36 35 98:0 /root /mount options... - fstype source superoptions" (proc_pid_mountinfo(5)).
    mountinfo
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(unescape)
        .filter(|path| path != root && path.starts_with(root))
        .collect()
}

/// A path of mountinfo: space, tab, newline and backslash are written as three octal digits.
pub fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let code = after
            .get(..3)
            .filter(|digits| *first == b'\\' && digits.iter().all(|digit| (b'0'..=b'7').contains(digit)));
        let (byte, next) = match code {
            Some(digits) => (
                digits
                    .iter()
                    .fold(0u8, |value, digit| (value << 3) | (digit - b'0')),
                &after[3..],
            ),
            None => (*first, after),
        };
        bytes.push(byte);
        rest = next;
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_a_root() {
        let text = b"22 1 0:20 / /b/rootfs rw - bind bind rw\n\
            23 1 0:21 / /b/rootfs/proc rw shared:7 - proc proc rw\n\
            24 1 0:22 / /b/rootfs2/proc rw - proc proc rw\n\
            25 1 0:23 / /b/rootfs/with\\040space rw - tmpfs tmpfs rw\nnonsense\n";
        assert_eq!(
            below_in(text, Path::new("/b/rootfs")),
            [Path::new("/b/rootfs/proc"), Path::new("/b/rootfs/with space")]
        );
    }
}
