//! Entry point, panic handler and memory functions of a program without libc.

use core::arch::naked_asm;
use core::panic::PanicInfo;

/// What the program finds in its memory when it starts.
#[derive(Debug)]
pub struct Start {
    /// The plan's bytes, which the kernel mapped privately from the program's own file.
    pub plan: &'static [u8],
    /// Zeroed memory behind the plan, for pointer arrays and buffers.
    pub scratch: &'static mut [usize],
}

/// Address of the segment that carries the plan (runtime/src/init/link.ld).
const PLAN_ADDRESS: usize = 0x2000_0000;

/// Finds plan and scratch memory and runs `main` with them.
///
/// The segment starts with two 64-bit numbers: the plan's length in bytes, counted from the segment's start, and
/// the scratch memory's length in words. Both were written by the program that made this file.
pub fn run_with_start(main: fn(Start) -> i32) -> ! {
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
    crate::exit(main(start))
}

#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn _start() -> ! {
    naked_asm!("xor ebp, ebp", "and rsp, -16", "call berth_init_main", "ud2")
}

#[cfg(target_arch = "aarch64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn _start() -> ! {
    naked_asm!("mov x29, xzr", "mov x30, xzr", "bl berth_init_main", "brk #1")
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    crate::exit(254)
}

/// memcpy(3).
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as in C: both regions are valid for `length` bytes.
    unsafe {
        core::arch::asm!("rep movsb", inout("rcx") length => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    for index in 0..length {
        // SAFETY: as in C; volatile keeps the compiler from making this a call to itself.
        unsafe { core::ptr::write_volatile(to.add(index), core::ptr::read_volatile(from.add(index))) };
    }
    to
}

/// memmove(3).
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    if (to as usize) <= from as usize || to as usize >= from as usize + length {
        // SAFETY: as in C; copying upwards is right for these positions. `rep movsb` goes upwards byte by byte.
        return unsafe { memcpy(to, from, length) };
    }
    for index in (0..length).rev() {
        // SAFETY: as in C.
        unsafe { core::ptr::write_volatile(to.add(index), core::ptr::read_volatile(from.add(index))) };
    }
    to
}

/// memset(3).
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memset(to: *mut u8, byte: i32, length: usize) -> *mut u8 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as in C: the region is valid for `length` bytes.
    unsafe {
        core::arch::asm!("rep stosb", inout("rcx") length => _, inout("rdi") to => _, in("al") byte as u8,
            options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    for index in 0..length {
        // SAFETY: as in C.
        unsafe { core::ptr::write_volatile(to.add(index), byte as u8) };
    }
    to
}

/// memcmp(3).
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, length: usize) -> i32 {
    for index in 0..length {
        // SAFETY: as in C.
        let (x, y) = unsafe {
            (
                core::ptr::read_volatile(a.add(index)),
                core::ptr::read_volatile(b.add(index)),
            )
        };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}

/// bcmp(3).
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, length: usize) -> i32 {
    // SAFETY: as in C.
    unsafe { memcmp(a, b, length) }
}

/// strlen(3): the core library's CStr asks for it.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: as in C: the string ends with a NUL.
    while unsafe { core::ptr::read_volatile(text.add(length)) } != 0 {
        length += 1;
    }
    length
}
