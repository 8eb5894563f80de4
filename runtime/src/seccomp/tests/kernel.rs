use nix::errno::Errno;
use serde_json::json;

use super::profiles::{engine_like, parse};
use super::*;

/// Loads `filter` for the calling thread alone.
fn load(filter: &[[u8; 8]], flags: u32) {
    nix::sys::prctl::set_no_new_privs().unwrap();
    assert!(
        berth_sys::raw::seccomp(filter.as_flattened(), flags).is_ok(),
        "the kernel takes the filter"
    );
}

/// Runs `work` in a thread of its own, which takes its filter with it.
fn in_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(work).join().unwrap()
}

#[test]
fn the_kernel_does_what_the_profile_says() {
    let seccomp = parse(&json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71},
            {"names": ["lseek"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "value": 700, "op": "SCMP_CMP_GT"}]}
        ]
    }));
    let program = compile(&seccomp).unwrap();
    let found = in_thread(move || {
        load(&program.filter, program.flags);
        let made = nix::unistd::mkdir("/proc/nothing", nix::sys::stat::Mode::empty());
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        (
            made,
            nix::unistd::lseek(&file, 700, nix::unistd::Whence::SeekSet).map(drop),
            nix::unistd::lseek(&file, 701, nix::unistd::Whence::SeekSet).map(drop),
        )
    });
    assert_eq!(found, (Err(Errno::EPROTO), Ok(()), Err(Errno::EPERM)));
}

#[test]
fn an_engines_profile_loads() {
    let program = compile(&engine_like()).unwrap();
    let found = in_thread(move || {
        load(&program.filter, program.flags);
        let set = nix::sys::personality::set(nix::sys::personality::Persona::ADDR_NO_RANDOMIZE);
        let name = nix::unistd::sethostname("never");
        (set.map(drop), name, std::fs::read("/proc/self/stat").is_ok())
    });
    assert_eq!(found, (Err(Errno::EPERM), Err(Errno::EPERM), true));
}
