//! Memory that children share with this process: a page for what they are told and answer, and their stacks.

use std::io;
use std::ptr::NonNull;

/// Size of the shared page in bytes.
pub(crate) const PAGE: usize = 4096;
/// Stack of each child in bytes: they make some dozen system calls.
pub(crate) const STACK: usize = 16 * 1024;

/// A mapping of its own: one page, then stacks. Whoever drops it promises that no child uses it any more.
#[derive(Debug)]
pub(crate) struct Area {
    start: NonNull<u8>,
    length: usize,
}

impl Area {
    /// A new, zeroed mapping with so many stacks. `sharing` is MAP_PRIVATE, which serves children with CLONE_VM, or
    /// MAP_SHARED, which also serves those that have a copy of this process's memory.
    pub(crate) fn new(sharing: libc::c_int, stacks: usize) -> io::Result<Self> {
        let length = PAGE + stacks * STACK;
        // SAFETY: a new anonymous mapping; nothing existing is touched.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                sharing | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(address.cast())
            .map(|start| Self { start, length })
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
    }

    /// The page, as what lies in it.
    pub(crate) fn page<T>(&self) -> *mut T {
        const { assert!(size_of::<T>() <= PAGE && align_of::<T>() <= PAGE) };
        self.start.as_ptr().cast()
    }

    /// Lowest address of a stack.
    pub(crate) fn stack(&self, index: usize) -> u64 {
        self.start.as_ptr() as u64 + (PAGE + index * STACK) as u64
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and by the type's promise no child uses it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}
