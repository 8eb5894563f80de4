//! The instruction that enters the kernel, and the call numbers, for each architecture.

use core::arch::asm;

/// Makes system call `number`.
///
/// # Safety
/// Arguments that the kernel takes for pointers must be valid for what the call does with them.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[allow(clippy::inline_always)]
pub(super) unsafe fn syscall(number: usize, a: [usize; 6]) -> isize {
    let value: isize;
    // SAFETY: the registers are those of the x86-64 system call convention; rcx and r11 are clobbered by it.
    // What the kernel does with memory is the caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => value,
            in("rdi") a[0], in("rsi") a[1], in("rdx") a[2], in("r10") a[3], in("r8") a[4], in("r9") a[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    value
}

/// Makes system call `number`.
///
/// # Safety
/// Arguments that the kernel takes for pointers must be valid for what the call does with them.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
#[allow(clippy::inline_always)]
pub(super) unsafe fn syscall(number: usize, a: [usize; 6]) -> isize {
    let value: isize;
    // SAFETY: the registers are those of the arm64 system call convention. What the kernel does with memory is
    // the caller's promise.
    unsafe {
        asm!(
            "svc #0",
            in("x8") number,
            inlateout("x0") a[0] as isize => value,
            in("x1") a[1], in("x2") a[2], in("x3") a[3], in("x4") a[4], in("x5") a[5],
            options(nostack),
        );
    }
    value
}

macro_rules! numbers {
    ($($name:ident $x86_64:literal $aarch64:literal)*) => {
        /// System call numbers of this architecture.
        #[allow(dead_code)]
        pub(super) mod nr {
            $(
                #[cfg(target_arch = "x86_64")]
                pub const $name: usize = $x86_64;
                #[cfg(target_arch = "aarch64")]
                pub const $name: usize = $aarch64;
            )*
        }
    };
}

numbers! {
    READ 0 63
    WRITE 1 64
    CLOSE 3 57
    LSEEK 8 62
    MMAP 9 222
    MUNMAP 11 215
    RT_SIGACTION 13 134
    RT_SIGPROCMASK 14 135
    IOCTL 16 29
    PREAD64 17 67
    GETPID 39 172
    SENDTO 44 206
    RECVFROM 45 207
    SENDMSG 46 211
    RECVMSG 47 212
    CONNECT 42 203
    BIND 49 200
    LISTEN 50 201
    SOCKET 41 198
    SOCKETPAIR 53 199
    CLONE 56 220
    EXECVE 59 221
    WAIT4 61 260
    KILL 62 129
    FCNTL 72 25
    FTRUNCATE 77 46
    GETCWD 79 17
    CHDIR 80 49
    FCHDIR 81 50
    FCHMOD 91 52
    FCHOWN 93 55
    UMASK 95 166
    GETUID 102 174
    SETSID 112 157
    SETGROUPS 116 159
    SETRESUID 117 147
    SETRESGID 119 149
    CAPGET 125 90
    CAPSET 126 91
    PERSONALITY 135 92
    PIVOT_ROOT 155 41
    PRCTL 157 167
    CHROOT 161 51
    MOUNT 165 40
    UMOUNT2 166 39
    SETHOSTNAME 170 161
    SETDOMAINNAME 171 162
    LSETXATTR 189 6
    FSETXATTR 190 7
    FGETXATTR 193 10
    FLISTXATTR 196 13
    SCHED_SETAFFINITY 203 122
    GETDENTS64 217 61
    EXIT_GROUP 231 94
    SET_MEMPOLICY 238 237
    WAITID 247 95
    KEYCTL 250 219
    IOPRIO_SET 251 30
    OPENAT 257 56
    MKDIRAT 258 34
    MKNODAT 259 33
    FCHOWNAT 260 54
    UNLINKAT 263 35
    LINKAT 265 37
    SYMLINKAT 266 36
    READLINKAT 267 78
    PPOLL 271 73
    UNSHARE 272 97
    UTIMENSAT 280 88
    ACCEPT4 288 242
    SIGNALFD4 289 74
    DUP3 292 24
    PIPE2 293 59
    PRLIMIT64 302 261
    SETNS 308 268
    FUTEX 202 98
    SCHED_SETATTR 314 274
    SECCOMP 317 277
    GETRANDOM 318 278
    MEMFD_CREATE 319 279
    EXECVEAT 322 281
    STATX 332 291
    FSTATFS 138 44
    PIDFD_SEND_SIGNAL 424 424
    OPEN_TREE 428 428
    MOVE_MOUNT 429 429
    FSOPEN 430 430
    FSCONFIG 431 431
    FSMOUNT 432 432
    PIDFD_OPEN 434 434
    CLONE3 435 435
    CLOSE_RANGE 436 436
    OPENAT2 437 437
    FACCESSAT2 439 439
    MOUNT_SETATTR 442 442
    FCHMODAT2 452 452
}
