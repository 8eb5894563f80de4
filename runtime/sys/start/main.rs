//! Entry point of the tiny init: a program without libc that finds its plan in its own memory.
//!
//! What it does is in the crate `berth_init` (runtime/src/init); only what needs `unsafe` is here.
#![no_std]
#![no_main]

use core::arch::naked_asm;
use core::panic::PanicInfo;

use berth_init::Start;

/// Start of the segment that carries the plan. In the linked file it only has this header, of zeros; what launches
/// the program appends the plan to the file and enlarges the segment (runtime/src/launch/program.rs).
#[repr(C)]
struct Segment {
    /// The plan's length in bytes, counted from the segment's start.
    length: u64,
    /// The scratch memory's length in words; it starts behind the plan, at the next multiple of 16.
    scratch: u64,
}

#[used]
#[unsafe(link_section = ".plan")]
static SEGMENT: Segment = Segment { length: 0, scratch: 0 };

/// Finds plan and scratch memory and runs the plan.
extern "C" fn enter() -> ! {
    let base = &raw const SEGMENT;
    // SAFETY: the static exists; volatile, because the file was changed after it was compiled.
    let Segment { length, scratch } = unsafe { core::ptr::read_volatile(base) };
    let length = length as usize;
    let scratch_at = (base as usize + length).next_multiple_of(16);
    // SAFETY: the file's writer sized the segment for the plan, padding to 16 bytes, and the scratch words; it is
    // mapped privately and writable, the two slices do not overlap, and nobody else refers to them.
    let start = unsafe {
        Start {
            plan: core::slice::from_raw_parts(base.cast(), length),
            scratch: core::slice::from_raw_parts_mut(scratch_at as *mut usize, scratch as usize),
        }
    };
    berth_sys_raw::exit(berth_init::run(start))
}

#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn _start() -> ! {
    naked_asm!("xor ebp, ebp", "and rsp, -16", "call {enter}", "ud2", enter = sym enter)
}

#[cfg(target_arch = "aarch64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn _start() -> ! {
    naked_asm!("mov x29, xzr", "mov x30, xzr", "bl {enter}", "brk #1", enter = sym enter)
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    berth_sys_raw::exit(254)
}
