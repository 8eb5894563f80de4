//! Entry point of the tiny init: a program without libc that finds its plan in its own memory.
//!
//! What it does is in the crate `berth_init` (runtime/src/init); only what needs `unsafe` is here.
#![no_std]
#![no_main]

use core::arch::naked_asm;
use core::panic::PanicInfo;

use berth_init::Start;

/// Address of the segment that carries the plan (runtime/src/init/link.ld).
const PLAN_ADDRESS: usize = 0x2000_0000;

/// Finds plan and scratch memory and runs the plan.
///
/// The segment starts with two 64-bit numbers: the plan's length in bytes, counted from the segment's start, and
/// the scratch memory's length in words. Both were written by the program that made this file.
extern "C" fn enter() -> ! {
    // SAFETY: the loader maps a segment of at least 16 bytes at this address (link.ld reserves it, the program
    // that writes the file fills it), and it is private to this process.
    let header = unsafe { core::ptr::read(PLAN_ADDRESS as *const [u64; 2]) };
    let length = header[0] as usize;
    let scratch_at = (PLAN_ADDRESS + length).next_multiple_of(16);
    // SAFETY: the file's writer sized the segment for the plan, padding to 16 bytes, and the scratch words; the
    // two slices do not overlap, and nobody else refers to them.
    let start = unsafe {
        Start {
            plan: core::slice::from_raw_parts(PLAN_ADDRESS as *const u8, length),
            scratch: core::slice::from_raw_parts_mut(scratch_at as *mut usize, header[1] as usize),
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
