//! Device files.

use core::ffi::CStr;

use super::path::{self, Make};
use super::sys::{self, AT_SYMLINK_NOFOLLOW, Errno, Fd, O_NOFOLLOW, O_PATH, OPEN_TREE_CLONE};
use super::wire::{Step, reason};
use super::{Buffer, Done, Failure, Init};

/// Device number of /dev/null (Documentation/admin-guide/devices.txt).
const NULL_DEVICE: (u32, u32) = (1, 3);

impl Init {
    /// Makes a device file, or binds the host's where mknod(2) is not allowed.
    pub(super) fn device<'a>(&mut self, step: &Step<'a>) -> Done<'a> {
        let Step::Device {
            path,
            mode,
            major,
            minor,
            uid,
            gid,
            bind,
        } = step.clone()
        else {
            return Err(Failure::new(reason::PLAN, Errno::EBADMSG, b""));
        };
        if bind {
            return self.bind_device(path);
        }
        let fail = |errno| Failure::new(reason::TARGET, errno, path.to_bytes());
        let (folder, name) = self.place(path).map_err(fail)?;
        let name = name.text();
        let made = sys::mknodat(folder, name, mode, sys::makedev(major, minor));
        match made {
            Ok(()) if uid | gid != 0 => {
                sys::fchownat(folder, name, uid, gid, AT_SYMLINK_NOFOLLOW).map_err(Failure::from)
            }
            Ok(()) => Ok(()),
            // The image brought one, or an engine bound it: it must be the device that was asked for.
            Err(Errno::EEXIST) => same_device(folder, name, mode, (major, minor)),
            Err(Errno::EPERM) => self.bind_device(path),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The folder of a device or a link, which is made if it is missing, and the name in it. Most are in /dev, one
    /// after the other: the folder stays open until a step of another kind ([`Init::leave_place`]).
    pub(super) fn place(&mut self, path: &CStr) -> Result<(Fd, Buffer), Errno> {
        let (above, name) = path::split(path.to_bytes()).ok_or(Errno::EINVAL)?;
        let mut last = Buffer::new();
        last.push(name)?;
        if let Some(folder) = self.folder
            && self.folder_path.bytes() == above
        {
            return Ok((folder, last));
        }
        self.leave_place();
        let mut rooted = Buffer::new();
        rooted.push(b"/")?;
        rooted.push(above)?;
        let folder = path::ensure(self.root, rooted.text(), Make::Folder(0o755), false)?;
        self.folder_path.push(above)?;
        self.folder = Some(folder);
        Ok((folder, last))
    }

    /// Closes the folder of the last device or link: what follows may mount something over it.
    pub(super) fn leave_place(&mut self) {
        if let Some(folder) = self.folder.take() {
            sys::close(folder);
        }
        self.folder_path.clear();
    }

    /// Binds the host's device file of the same path.
    fn bind_device<'a>(&mut self, path: &'a CStr) -> Done<'a> {
        let mount = sys::open_tree(Fd::CWD, path, OPEN_TREE_CLONE)
            .map_err(|errno| Failure::new(reason::SOURCE, errno, path.to_bytes()))?;
        let place = path::ensure(self.root, path, Make::File(0), false)
            .map_err(|errno| Failure::new(reason::TARGET, errno, path.to_bytes()))?;
        sys::move_mount(mount, place)?;
        sys::close(place);
        sys::close(mount);
        Ok(())
    }

    /// A handle on the container's /dev/null, checked to be that device: an image that puts something else there
    /// must not get it over a masked path (CVE-2025-31133).
    pub(super) fn null_device<'a>(&mut self) -> Result<Fd, Failure<'a>> {
        if let Some(null) = self.null {
            return Ok(null);
        }
        let null = path::open(self.root, c"/dev/null", O_PATH | O_NOFOLLOW)
            .map_err(|errno| Failure::new(reason::SOURCE, errno, b"/dev/null"))?;
        let stat = sys::fstat(null)?;
        if stat.kind() != sys::S_IFCHR || stat.rdev != NULL_DEVICE {
            return Err(Failure::new(reason::UNSAFE, Errno::EINVAL, b"/dev/null"));
        }
        self.null = Some(null);
        Ok(null)
    }
}

fn same_device<'a>(folder: Fd, name: &CStr, mode: u32, device: (u32, u32)) -> Done<'a> {
    let fd = sys::openat(folder, name, O_PATH | O_NOFOLLOW, 0)?;
    let stat = sys::fstat(fd)?;
    sys::close(fd);
    let kind = mode & sys::S_IFMT;
    if stat.kind() == kind && (kind == sys::S_IFIFO || stat.rdev == device) {
        Ok(())
    } else {
        Err(Failure::new(reason::UNSAFE, Errno::EEXIST, b""))
    }
}
