//! Memory for a program that lives for some milliseconds: small blocks come from lists by size, which costs a tenth of
//! what a general allocator takes (runtime/DESIGN.md, "Where the time goes").

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, UnsafeCell};
use std::ptr;

/// Sizes are rounded up to multiples of this, and every block is aligned to it.
const GRAIN: usize = 16;
/// Blocks up to this size are kept in lists; greater ones are the system's.
const GREATEST: usize = 1024;
/// What the lists are filled from; once it is used up, all is the system's. Pages of it that are never used cost nothing,
/// and it is less than a huge page, which would be cleared and charged as a whole.
const ROOM: usize = 1 << 20;

thread_local! {
    /// Set in the one thread that may use the lists.
    static OWNER: Cell<bool> = const { Cell::new(false) };
}

/// The allocator, for a `#[global_allocator]`. Until [`Heap::claim`] is called, and in all other threads, it is the
/// system's.
pub struct Heap {
    state: UnsafeCell<State>,
    room: UnsafeCell<Room>,
}

struct State {
    claimed: bool,
    used: usize,
    free: [*mut Free; GREATEST / GRAIN + 1],
}

/// A block that is free holds the next one of its list.
struct Free {
    next: *mut Free,
}

#[repr(C, align(4096))]
struct Room([u8; ROOM]);

// SAFETY: the state and the room are only touched by the thread with OWNER set, and `claim` sets it in one thread only.
unsafe impl Sync for Heap {}

impl Heap {
    /// An allocator with nothing used.
    #[expect(clippy::new_without_default, reason = "a second one makes no sense")]
    #[expect(
        clippy::large_stack_arrays,
        reason = "it is made when it is compiled, and stands in .bss"
    )]
    pub const fn new() -> Self {
        Self {
            state: UnsafeCell::new(State {
                claimed: false,
                used: 0,
                free: [ptr::null_mut(); GREATEST / GRAIN + 1],
            }),
            room: UnsafeCell::new(Room([0; ROOM])),
        }
    }

    /// Lets the calling thread use the lists. Only for the start of a program, while it has one thread.
    ///
    /// # Panics
    /// If the lists were claimed before.
    pub fn claim(&self) {
        // SAFETY: by the contract above no other thread runs.
        let state = unsafe { &mut *self.state.get() };
        assert!(!state.claimed, "the heap is claimed once");
        state.claimed = true;
        OWNER.set(true);
    }

    fn owned(&self, block: *const u8) -> bool {
        let start = self.room.get() as usize;
        (start..start + ROOM).contains(&(block as usize))
    }
}

/// The list for blocks of this layout, unless they are the system's matter.
fn list(layout: Layout) -> Option<usize> {
    let small = layout.size() <= GREATEST && layout.align() <= GRAIN;
    small.then(|| layout.size().div_ceil(GRAIN))
}

// SAFETY: blocks of the room are cut from it once, never overlap, are aligned to GRAIN, and come back into the list of
// the size they were cut for; all others are the system allocator's, told apart by their address.
unsafe impl GlobalAlloc for Heap {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if let Some(list) = list(layout).filter(|_| OWNER.get()) {
            // SAFETY: this thread owns the state, and nothing below calls the allocator again.
            let state = unsafe { &mut *self.state.get() };
            let block = state.free[list];
            if !block.is_null() {
                // SAFETY: what is in a list was put there by `dealloc` and is nobody else's.
                state.free[list] = unsafe { (*block).next };
                return block.cast();
            }
            let size = list.max(1) * GRAIN;
            if size <= ROOM - state.used {
                // SAFETY: the result lies within the room.
                let block = unsafe { self.room.get().cast::<u8>().add(state.used) };
                state.used += size;
                return block;
            }
        }
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    #[inline(never)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if !self.owned(block) {
            // SAFETY: a block outside of the room was given out by the system allocator, with this layout.
            return unsafe { System.dealloc(block, layout) };
        }
        // A block that another thread drops is lost: the lists are not its.
        if let Some(list) = list(layout).filter(|_| OWNER.get()) {
            #[expect(
                clippy::cast_ptr_alignment,
                reason = "every block of the room is aligned to GRAIN"
            )]
            let block = block.cast::<Free>();
            // SAFETY: as in `alloc`; the block is at least GRAIN long, aligned to it, and its owner is done with it.
            unsafe {
                let state = &mut *self.state.get();
                (*block).next = state.free[list];
                state.free[list] = block;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_apart_and_come_back() {
        static HEAP: Heap = Heap::new();
        HEAP.claim();
        let layout = |size| Layout::from_size_align(size, 8).unwrap();
        let mut blocks: Vec<(*mut u8, usize)> = Vec::new();
        for round in 0..2000 {
            let size = 1 + round * 37 % 1500;
            // SAFETY: the size is not 0; the block is written within it and freed once, below.
            let block = unsafe {
                let block = HEAP.alloc(layout(size));
                block.write_bytes(round as u8, size);
                block
            };
            assert_eq!(HEAP.owned(block), size <= GREATEST);
            assert_eq!(block as usize % 8, 0);
            blocks.push((block, size));
        }
        for (round, (block, size)) in blocks.iter().enumerate() {
            // SAFETY: the block was written above.
            let whole = unsafe { std::slice::from_raw_parts(*block, *size) };
            assert!(whole.iter().all(|byte| *byte == round as u8));
        }
        let used = || {
            // SAFETY: only this thread has claimed it.
            unsafe { (*HEAP.state.get()).used }
        };
        let before = used();
        for (block, size) in &blocks {
            // SAFETY: allocated above with this layout.
            unsafe { HEAP.dealloc(*block, layout(*size)) };
        }
        for (_, size) in &blocks {
            // SAFETY: the size is not 0.
            let again = unsafe { HEAP.alloc(layout(*size)) };
            assert!(!again.is_null());
        }
        assert_eq!(used(), before, "what was freed is used again");
    }

    #[test]
    fn a_full_room_and_other_threads_use_the_system() {
        static HEAP: Heap = Heap::new();
        let layout = Layout::from_size_align(GREATEST, GRAIN).unwrap();
        // SAFETY: the sizes are not 0.
        let allocate = || unsafe { HEAP.alloc(layout) };
        assert!(!HEAP.owned(allocate()), "unclaimed");
        HEAP.claim();
        let blocks: Vec<_> = (0..=ROOM / GREATEST).map(|_| allocate()).collect();
        assert!(HEAP.owned(blocks[0]));
        assert!(!HEAP.owned(blocks[ROOM / GREATEST]), "full");
        let address = blocks[0] as usize;
        std::thread::spawn(move || {
            // SAFETY: as above; the block is not used by the other thread any more.
            unsafe {
                assert!(!HEAP.owned(HEAP.alloc(layout)));
                HEAP.dealloc(address as *mut u8, layout);
            }
        })
        .join()
        .unwrap();
        assert!(
            !HEAP.owned(allocate()),
            "a block that another thread freed is lost"
        );
    }
}
