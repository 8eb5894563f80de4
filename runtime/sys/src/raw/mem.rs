//! The memory functions that the compiler expects of a C library.

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
