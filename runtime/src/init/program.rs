//! The user's program: its working directory, its home, its place, and execve(2).

use core::ffi::CStr;

use super::sys::{self, Errno, Fd, O_NONBLOCK, S_IFDIR, S_IFREG, StringArray};
use super::wire::{TextList, reason};
use super::{Buffer, Done, Failure, Init};

impl Init {
    /// Goes to the working directory, which must be inside the container: a leaked descriptor in a path like
    /// /proc/self/fd/7 must not lead out of it (CVE-2024-21626).
    pub(super) fn working_directory<'a>(&mut self, path: &'a CStr, lenient: bool) -> Done<'a> {
        if self.in_place || (self.at_root && path == c"/") {
            return Ok(());
        }
        match sys::chdir(path) {
            Ok(()) => self.in_place = true,
            Err(Errno::EACCES) if lenient => {}
            Err(errno) => return Err(Failure::new(reason::CALL, errno, path.to_bytes())),
        }
        Ok(())
    }

    /// The kernel says whether the working directory can be reached from the root: its path starts with `/`, and
    /// not with `(unreachable)` (getcwd(2)).
    pub(super) fn seal<'a>(&mut self) -> Done<'a> {
        let mut path = [0u8; super::PATH_MAX];
        match sys::getcwd(&mut path) {
            Ok(_) if path[0] == b'/' => {}
            Ok(_) | Err(Errno::ENOENT) => return Err(Failure::new(reason::OUTSIDE, Errno::EPERM, b"")),
            Err(errno) => return Err(errno.into()),
        }
        Ok(sys::cloexec_range(self.first_private, u32::MAX)?)
    }

    /// HOME from the container's /etc/passwd, as login(1) would; `/` for users that are not there.
    pub(super) fn find_home<'a>(&mut self, uid: u32) -> Done<'a> {
        self.home.clear();
        self.home.push(b"HOME=")?;
        // Neither a pipe nor a device in the file's place may hold us up.
        let file = sys::openat(Fd::CWD, c"/etc/passwd", O_NONBLOCK | sys::O_NOCTTY, 0);
        let Ok(file) = file else {
            return Ok(self.home.push(b"/")?);
        };
        if sys::fstat(file)?.kind() == S_IFREG {
            scan_passwd(|buffer| sys::read(file, buffer), uid, &mut self.home)?;
        }
        sys::close(file);
        if self.home.bytes() == b"HOME=" {
            self.home.push(b"/")?;
        }
        Ok(())
    }

    /// Finds the program as execvp(3) would, but tells why it cannot be run before anything is started.
    pub(super) fn find_program<'a>(&mut self, name: &'a CStr, search: &'a CStr) -> Done<'a> {
        let bytes = name.to_bytes();
        self.program.clear();
        if bytes.contains(&b'/') {
            self.program.push(bytes)?;
            return may_run(name).map_err(|(reason, errno)| Failure::new(reason, errno, bytes));
        }
        let mut denied = None;
        for folder in search.to_bytes().split(|b| *b == b':') {
            self.program.clear();
            // An empty entry is the working directory.
            self.program.push(if folder.is_empty() { b"." } else { folder })?;
            self.program.push(b"/")?;
            self.program.push(bytes)?;
            match may_run(self.program.text()) {
                Ok(()) => return Ok(()),
                Err((_, Errno::EACCES)) => denied = Some(Errno::EACCES),
                Err(_) => {}
            }
        }
        self.program.clear();
        let errno = denied.unwrap_or(Errno::ENOENT);
        Err(Failure::new(reason::NOT_IN_PATH, errno, bytes))
    }

    /// Becomes the user's program.
    pub(super) fn execute<'a>(&mut self, arguments: TextList<'a>, environment: TextList<'a>) -> Done<'a> {
        // Ignored by the runtime (SIGPIPE), and by libc's users for its own two: ignoring outlives execve(2).
        for signal in [13, 32, 33] {
            sys::default_signal(signal)?;
        }
        sys::set_signal_mask(0)?;
        let small = || Failure::new(reason::PLAN, Errno::ENOMEM, b"");
        let has_home = environment
            .clone()
            .any(|variable| variable.to_bytes().starts_with(b"HOME="));
        let home = (!has_home && self.home.bytes().len() > 5).then_some(self.home.text());
        let scratch = core::mem::take(&mut self.scratch);
        let (argv, rest) = StringArray::fill(scratch, arguments).ok_or_else(small)?;
        let (envp, _) = StringArray::fill(rest, environment.chain(home)).ok_or_else(small)?;
        let errno = sys::execve(self.program.text(), &argv, &envp);
        // The program's name is the first argument the report can show.
        Err(Failure::new(reason::CALL, errno, argv.first()))
    }
}

/// Whether a path leads to a file that this user may execute.
fn may_run(path: &CStr) -> Result<(), (u32, Errno)> {
    let stat = sys::stat(Fd::CWD, path, 0).map_err(|errno| (reason::STAT, errno))?;
    if stat.kind() == S_IFDIR {
        return Err((reason::IS_FOLDER, Errno::EISDIR));
    }
    // root may "execute" anything that has one execute bit; the kernel's answer knows.
    sys::executable(path).map_err(|errno| (reason::CALL, errno))
}

/// The home folder of `uid` in the text of a passwd file.
#[cfg(any(test, clippy, feature = "fuzz"))]
pub fn home_of(text: &[u8], uid: u32) -> Vec<u8> {
    let mut rest = text;
    let mut home = Buffer::new();
    let read = |buffer: &mut [u8]| {
        let length = rest.len().min(buffer.len()).min(1000);
        let (now, later) = rest.split_at(length);
        buffer[..length].copy_from_slice(now);
        rest = later;
        Ok(length)
    };
    let _ = scan_passwd(read, uid, &mut home);
    home.bytes().to_vec()
}

/// Appends the home folder of `uid` to `home`. Lines without the fields are passed over, and so are lines longer
/// than the buffer.
fn scan_passwd(
    mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>,
    uid: u32,
    home: &mut Buffer,
) -> Result<(), Errno> {
    let mut buffer = [0u8; 4096];
    let mut kept = 0;
    let mut too_long = false;
    // Nobody's passwd is longer than this; a hostile one shall not take time without end.
    for _ in 0..65536 {
        if kept == buffer.len() {
            too_long = true;
            kept = 0;
        }
        let length = read(&mut buffer[kept..])?;
        let filled = kept + length;
        // At the end of the file, the last line may lack its newline.
        let end = match buffer[..filled].iter().rposition(|b| *b == b'\n') {
            Some(at) => at + 1,
            None if length == 0 => filled,
            None => 0,
        };
        for line in buffer[..end].split_inclusive(|b| *b == b'\n') {
            let found = home_in(line.trim_ascii_end(), uid);
            if let Some(folder) = found.filter(|_| !core::mem::take(&mut too_long)) {
                return home.push(folder);
            }
            too_long = false;
        }
        if length == 0 {
            return Ok(());
        }
        buffer.copy_within(end..filled, 0);
        kept = filled - end;
    }
    Ok(())
}

/// The sixth field of a line whose third is `uid` (passwd(5)).
fn home_in(line: &[u8], uid: u32) -> Option<&[u8]> {
    let mut fields = line.split(|b| *b == b':');
    let id = fields.nth(2)?;
    // Digits only: a sign would be taken, too.
    let digits = id.iter().all(u8::is_ascii_digit);
    let id: u32 = core::str::from_utf8(id).ok().filter(|_| digits)?.parse().ok()?;
    let folder = fields.nth(2)?;
    (id == uid && !folder.is_empty() && !folder.contains(&0)).then_some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(text: &[u8], uid: u32, chunk: usize) -> String {
        let mut rest = text;
        let mut home = Buffer::new();
        scan_passwd(
            |buffer| {
                let length = rest.len().min(chunk).min(buffer.len());
                buffer[..length].copy_from_slice(&rest[..length]);
                rest = &rest[length..];
                Ok(length)
            },
            uid,
            &mut home,
        )
        .unwrap();
        String::from_utf8_lossy(home.bytes()).into_owned()
    }

    /// The last of three sweeps: whatever a step between has left open (CVE-2024-21626).
    #[test]
    fn descriptors_that_a_step_left_open_close_at_execve() {
        use nix::fcntl::{FcntlArg, fcntl};
        // Higher than those of other tests.
        const FIRST: u32 = 900;
        let closes = |fd: u32| {
            let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
            let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            u32::from_str_radix(flags.trim(), 8).unwrap() & 0o2_000_000 != 0
        };
        let file = std::fs::File::open("/").unwrap();
        let duplicate = |number| fcntl(&file, FcntlArg::F_DUPFD(number)).unwrap() as u32;
        let (kept, left) = (duplicate(FIRST as i32 - 50), duplicate(FIRST as i32));
        assert!(kept < FIRST && left >= FIRST && !closes(left));
        assert!(Init::new(Fd(-1), FIRST, &mut []).seal().is_ok());
        assert!(closes(left) && !closes(kept));
    }

    #[test]
    fn home_is_the_sixth_field_of_the_users_line() {
        let text = b"root:x:0:0:root:/root:/bin/sh\nme:x:1000:1000::/home/me:/bin/sh\nlast:x:7:7::/seven:";
        for chunk in [1, 3, 7, 4096] {
            assert_eq!(home(text, 0, chunk), "/root");
            assert_eq!(home(text, 1000, chunk), "/home/me");
            assert_eq!(home(text, 7, chunk), "/seven");
            assert_eq!(home(text, 8, chunk), "");
        }
    }

    #[test]
    fn damaged_passwd_files_are_harmless() {
        for text in [
            &b""[..],
            b"\n\n:::",
            b"a:b:c:d:e:f:g\n",
            b"x:x:99999999999999999999:0::/h:\n",
            b"x:x:-1:0::/h:\n",
            b"x:x:0\n",
            b"x:x:0:0::/a\0b:\n",
        ] {
            assert_eq!(home(text, 0, 5), "");
        }
        let long = vec![b'x'; 20000];
        assert_eq!(home(&long, 0, 4096), "");
    }
}
