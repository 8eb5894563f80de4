//! The terminal: made from the container's own devpts, its slave taken by TIOCGPTPEER, never by a path that the
//! container could have replaced (CVE-2025-52565).

use super::path::{self, Make};
use super::sys::{self, AT_EMPTY_PATH, Errno, Fd, O_NOCTTY, O_RDWR, S_IFCHR, Stat};
use super::wire::reason;
use super::{Done, Failure, Init};

/// Device number of the pseudoterminal multiplexer.
const PTMX: (u32, u32) = (5, 2);
/// Major numbers of pseudoterminal slaves (Documentation/admin-guide/devices.txt).
const SLAVE_MAJORS: core::ops::RangeInclusive<u32> = 136..=143;

/// Starts a session, which a terminal can control.
pub(super) fn session<'a>() -> Done<'a> {
    match sys::setsid() {
        // Already the leader of one.
        Ok(()) | Err(Errno::EPERM) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

impl Init {
    /// Makes the terminal, sends its master to the socket, and uses its slave.
    pub(super) fn console<'a>(&mut self, socket: Fd, size: (u16, u16), uid: u32, device: bool) -> Done<'a> {
        let ptmx = path::open(self.root, c"/dev/pts/ptmx", O_RDWR | O_NOCTTY)
            .map_err(|errno| Failure::new(reason::SOURCE, errno, b"/dev/pts/ptmx"))?;
        let stat = sys::fstat(ptmx)?;
        if stat.kind() != S_IFCHR || stat.rdev != PTMX {
            return Err(Failure::new(reason::UNSAFE, Errno::EINVAL, b"/dev/pts/ptmx"));
        }
        sys::unlock_pty(ptmx)?;
        let slave = sys::pty_peer(ptmx)?;
        let stat = sys::fstat(slave)?;
        if stat.kind() != S_IFCHR || !SLAVE_MAJORS.contains(&stat.rdev.0) {
            return Err(Failure::new(reason::UNSAFE, Errno::EINVAL, b"/dev/pts"));
        }
        if size != (0, 0) {
            sys::set_window(ptmx, size.0, size.1)?;
        }
        if device {
            self.console_device(slave)?;
        }
        if uid != 0 {
            chown_terminal(slave, uid)?;
        }
        sys::send_fd(socket, b"/dev/ptmx", ptmx)
            .map_err(|errno| Failure::new(reason::TARGET, errno, b"console socket"))?;
        sys::close(socket);
        sys::close(ptmx);
        sys::controlling_terminal(slave)?;
        for number in 0..3 {
            sys::dup3(slave, Fd(number), 0)?;
        }
        sys::close(slave);
        Ok(())
    }

    /// The slave itself, by its descriptor, at /dev/console.
    fn console_device<'a>(&mut self, slave: Fd) -> Done<'a> {
        let place = path::ensure(self.root, c"/dev/console", Make::File(0o666), true)
            .map_err(|errno| Failure::new(reason::TARGET, errno, b"/dev/console"))?;
        let mount = sys::clone_tree(slave, false)?;
        sys::move_mount(mount, place)?;
        sys::close(mount);
        sys::close(place);
        Ok(())
    }
}

fn chown_terminal<'a>(slave: Fd, uid: u32) -> Done<'a> {
    let gid = sys::fstat(slave)?.gid;
    Ok(sys::fchownat(slave, c"", uid, gid, AT_EMPTY_PATH)?)
}

/// Device number of /dev/null.
const NULL: (u32, u32) = (1, 3);

impl Init {
    /// A standard stream that is the host's /dev/null leads into a file system that the container does not have: it
    /// could be told from the container's own, and not be checkpointed. Without one of its own it stays.
    pub(super) fn reopen_null<'a>(&mut self) -> Done<'a> {
        let is_null = |stat: &Stat| stat.kind() == S_IFCHR && stat.rdev == NULL;
        let streams = [0, 1, 2].map(|number| sys::fstat(Fd(number)).ok());
        self.streams = Some(streams);
        let mut own = None;
        for (number, _) in (0..)
            .zip(streams)
            .filter(|(_, stat)| stat.as_ref().is_some_and(is_null))
        {
            let null = match own {
                Some(null) => null,
                None => match path::open(self.root, c"/dev/null", O_RDWR) {
                    Ok(null) if sys::fstat(null).is_ok_and(|stat| is_null(&stat)) => null,
                    Ok(other) => {
                        sys::close(other);
                        return Ok(());
                    }
                    Err(_) => return Ok(()),
                },
            };
            own = Some(null);
            sys::dup3(null, Fd(number), 0)?;
        }
        if let Some(null) = own {
            sys::close(null);
        }
        Ok(())
    }
}

/// A user must be able to open /dev/stdout and its kin again. /dev/null belongs to everybody and stays. `known` is what
/// was seen of the streams before; a /dev/null that was put in another's place is one, too.
pub(super) fn stdio_owner<'a>(uid: u32, known: Option<[Option<Stat>; 3]>) -> Done<'a> {
    let streams = known.unwrap_or_else(|| [0, 1, 2].map(|number| sys::fstat(Fd(number)).ok()));
    for (number, stat) in (0..).zip(streams) {
        let Some(stat) = stat else { continue };
        let null = stat.kind() == S_IFCHR && stat.rdev == NULL;
        if null || stat.uid == uid {
            continue;
        }
        match sys::fchownat(Fd(number), c"", uid, stat.gid, AT_EMPTY_PATH) {
            // Ids that this user namespace does not map, read-only file systems, descriptors of other kinds.
            Ok(()) | Err(Errno::EINVAL | Errno::EPERM | Errno::EROFS) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
