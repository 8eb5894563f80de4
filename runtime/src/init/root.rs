//! The container's root: made a mount, entered, and the old one left behind.

use core::ffi::CStr;

use super::sys::{self, AT_RECURSIVE, Fd, MNT_DETACH, MS_MOVE, O_DIRECTORY, O_PATH, OPEN_TREE_CLONE};
use super::wire::{TextList, reason};
use super::{Done, Failure, Init};

/// Propagation of the tree as it was cloned from the host: nothing made here may reach it.
pub(super) fn propagation<'a>(flags: u64, recursive: bool) -> Done<'a> {
    let recursive = if recursive { 0x4000 } else { 0 };
    Ok(sys::mount(None, c"/", None, flags | recursive, None)?)
}

impl Init {
    /// A bind mount of the root folder onto itself: pivot_root(2) wants a mount.
    pub(super) fn make_root<'a>(&mut self, path: &'a CStr, source: i32, mount: bool) -> Done<'a> {
        let fail = |errno| Failure::new(reason::SOURCE, errno, path.to_bytes());
        if !mount {
            self.root = sys::openat(Fd::CWD, path, O_PATH | O_DIRECTORY, 0).map_err(fail)?;
            return Ok(());
        }
        let tree = if source < 0 {
            sys::open_tree(Fd::CWD, path, OPEN_TREE_CLONE | AT_RECURSIVE).map_err(fail)?
        } else {
            Fd(source)
        };
        // The place to attach it to is never looked at again: a root that cannot be reached from this user
        // namespace is put over the host's.
        let place = sys::openat(Fd::CWD, path, O_PATH | O_DIRECTORY, 0)
            .or_else(|_| sys::openat(Fd::CWD, c"/", O_PATH | O_DIRECTORY, 0))
            .map_err(fail)?;
        sys::move_mount(tree, place)?;
        sys::close(place);
        self.root = tree;
        Ok(())
    }

    fn go_to_root<'a>(&mut self) -> Done<'a> {
        sys::chdir(c"/")?;
        self.at_root = true;
        Ok(())
    }

    /// The root as it is: for processes that join a running container, and containers without a mount namespace.
    pub(super) fn current_root<'a>(&mut self) -> Done<'a> {
        self.root = sys::openat(Fd::CWD, c"/", O_PATH | O_DIRECTORY, 0)?;
        Ok(())
    }

    /// The old root ends up on top of the new one, from where it is taken away (pivot_root(2), "pivot_root(".", ".")").
    pub(super) fn pivot_root<'a>(&mut self) -> Done<'a> {
        sys::fchdir(self.root)?;
        sys::pivot_root(c".", c".")?;
        sys::umount(c".", MNT_DETACH)?;
        self.go_to_root()
    }

    /// For hosts whose root is a ramfs. The host's root stays mounted below: its procfs and sysfs, which would be
    /// fully visible, are taken away or covered first.
    pub(super) fn move_root<'a>(&mut self, cover: TextList<'a>) -> Done<'a> {
        for path in cover {
            let _ = sys::mount(None, path, None, sys::MS_SLAVE | 0x4000, None);
            if sys::umount(path, MNT_DETACH).is_err() {
                // Locked in this user namespace: cover it.
                sys::mount(None, path, Some(c"tmpfs"), 0, None)
                    .map_err(|errno| Failure::new(reason::CALL, errno, path.to_bytes()))?;
            }
        }
        sys::fchdir(self.root)?;
        sys::mount(Some(c"."), c"/", None, MS_MOVE, None)?;
        sys::chroot(c".")?;
        self.go_to_root()
    }

    /// Without a mount namespace of its own.
    pub(super) fn change_root<'a>(&mut self) -> Done<'a> {
        sys::fchdir(self.root)?;
        sys::chroot(c".")?;
        self.go_to_root()
    }
}
