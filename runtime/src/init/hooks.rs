//! The hooks that run inside: createContainer before the root changes, startContainer after the start.

use core::ffi::CStr;

use super::sys::{self, Errno, Fd, POLLIN, StringArray};
use super::wire::{Step, reason};
use super::{Done, Failure, Init};

impl Init {
    /// Runs one hook and waits for it (runtime-spec, config.md, "POSIX-platform Hooks").
    pub(super) fn hook<'a>(&mut self, step: &Step<'a>) -> Done<'a> {
        let Step::Hook {
            path,
            arguments,
            environment,
            timeout,
            document,
            number,
            home,
            filter,
            filter_flags,
            ..
        } = step.clone()
        else {
            return Err(Failure::new(reason::PLAN, Errno::EBADMSG, b""));
        };
        let document = Fd(document);
        sys::rewind(document)?;
        let (output, output_end) = sys::pipe()?;
        let small = Failure::new(reason::PLAN, Errno::ENOMEM, b"");
        // The pointer arrays are only needed until the hook runs: the memory serves all hooks and the program.
        let (argv, rest) = StringArray::fill(self.scratch, arguments).ok_or(small)?;
        let has_home = environment
            .clone()
            .any(|variable| variable.to_bytes().starts_with(b"HOME="));
        let more = (home && !has_home && self.home.bytes().len() > 5).then_some(self.home.text());
        let (envp, _) = StringArray::fill(rest, environment.chain(more)).ok_or(small)?;
        // Before the root has changed, hooks that run inside begin in it, as with runc.
        if !self.at_root && self.root != Fd::CWD {
            sys::fchdir(self.root)?;
        }
        let filter = (!filter.is_empty()).then_some((filter, filter_flags));
        let started = sys::spawn(path, &argv, &envp, (document, output_end), filter);
        sys::close(output_end);
        let result = match started {
            Ok(pid) => self.wait_for_hook(path, pid, output, timeout),
            Err(errno) => Err(Failure::new(reason::CALL, errno, path.to_bytes())),
        };
        sys::close(output);
        result.map_err(|failure| Failure { number, ..failure })
    }

    fn wait_for_hook<'a>(&mut self, path: &'a CStr, pid: i32, output: Fd, timeout: u64) -> Done<'a> {
        let mut left = [(timeout / 1000) as i64, ((timeout % 1000) * 1_000_000) as i64];
        self.text.clear();
        loop {
            let limit = (timeout != 0).then_some(&mut left);
            match sys::poll(output, POLLIN, limit) {
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(Errno::ETIMEDOUT) => {
                    let _ = sys::kill(pid, 9);
                    let _ = sys::wait(pid, 0);
                    return Err(Failure::new(reason::TIMEOUT, Errno::ETIMEDOUT, path.to_bytes()));
                }
                Err(errno) => return Err(errno.into()),
            }
            let mut buffer = [0u8; 256];
            let length = sys::read(output, &mut buffer)?;
            if length == 0 {
                break;
            }
            if self.text.bytes().len() < 256 {
                let _ = self.text.push(&buffer[..length]);
            }
        }
        // It closed its output and may still run.
        let status = sys::wait(pid, 0)?;
        match (status & 0x7f, (status >> 8) & 0xff) {
            (0, 0) => Ok(()),
            (0, code) => Err(Failure::new(reason::STATUS, Errno(code), b"")),
            (signal, _) => Err(Failure::new(reason::SIGNAL, Errno(signal), path.to_bytes())),
        }
    }
}
