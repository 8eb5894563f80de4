//! The start of a program without the standard library's own: that reads /proc/self/maps to find the stack's end, for
//! the message of a stack overflow, and makes a second stack for it, which takes 14 system calls and 45,000
//! instructions before `main`. What protects is kept: open standard descriptors, and no death by SIGPIPE.

use std::io;

/// Makes `$main`, a function from the arguments to the exit code, the program's, with `$heap` as its allocator. For
/// the root of a binary with `#![no_main]`; the arguments are glibc's to find ([`std::env::args_os`]).
#[macro_export]
macro_rules! program {
    ($main:path) => {
        #[global_allocator]
        static HEAP: $crate::heap::Heap = $crate::heap::Heap::new();

        #[unsafe(no_mangle)]
        extern "C" fn main(_count: i32, _arguments: *const *const u8) -> i32 {
            HEAP.claim();
            $crate::start::protect();
            $main(std::env::args_os())
        }
    };
}

/// Opens /dev/null in place of standard descriptors that are closed, as the next file opened would take their place and
/// be read, written or passed on as such; and has writing to a pipe without a reader fail instead of kill.
pub fn protect() {
    let mut standard = [0, 1, 2].map(|fd| libc::pollfd {
        fd,
        events: 0,
        revents: 0,
    });
    // SAFETY: the array has three elements; the path ends with NUL; SIG_IGN is a valid disposition.
    unsafe {
        let polled = libc::poll(standard.as_mut_ptr(), 3, 0) >= 0;
        for one in standard {
            let closed = if polled {
                one.revents & libc::POLLNVAL != 0
            } else {
                libc::fcntl(one.fd, libc::F_GETFD) == -1 && is(libc::EBADF)
            };
            // The lowest descriptor that is free is this one: those below are open by now.
            if closed && libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) == -1 {
                libc::abort();
            }
        }
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

fn is(errno: i32) -> bool {
    io::Error::last_os_error().raw_os_error() == Some(errno)
}
