//! User, groups, capabilities, keyring.

use core::ffi::CStr;

use super::sys::{self, CapabilitySets, Errno};
use super::wire::reason;
use super::{Done, Failure};

/// Drops from the bounding set what is not in `keep`.
pub(super) fn bounding<'a>(keep: u64) -> Done<'a> {
    for capability in 0..64 {
        if keep & (1 << capability) == 0 {
            match sys::drop_bounding(capability) {
                Ok(()) => {}
                // The kernel knows no more of them.
                Err(Errno::EINVAL) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    Ok(())
}

/// Becomes the user. Capabilities stay permitted until [`capabilities`] decides about them.
pub(super) fn user(uid: u32, gid: u32, groups: Option<&[u8]>) -> Done<'_> {
    // Only who is no longer root loses capabilities by that (capabilities(7)).
    if uid != 0 {
        sys::keep_capabilities(true)?;
    }
    if let Some(groups) = groups {
        match sys::setgroups(groups) {
            Ok(()) => {}
            // Denied in this user namespace (user_namespaces(7), /proc/PID/setgroups), and nothing was to be set.
            Err(Errno::EPERM) if groups.is_empty() => {}
            Err(errno) => return Err(Failure::new(reason::CALL, errno, b"setgroups")),
        }
    }
    sys::setresgid(gid).map_err(|errno| Failure::new(reason::CALL, errno, b"setgid"))?;
    sys::setresuid(uid).map_err(|errno| Failure::new(reason::CALL, errno, b"setuid"))?;
    if uid != 0 {
        sys::keep_capabilities(false)?;
    }
    Ok(())
}

/// Sets the four sets of the thread (capabilities(7)). An ambient capability must be permitted and inheritable;
/// one that is not is left out, as the kernel would refuse it.
pub(super) fn capabilities<'a>(effective: u64, permitted: u64, inheritable: u64, ambient: u64) -> Done<'a> {
    sys::capset(CapabilitySets {
        effective,
        permitted,
        inheritable,
    })?;
    sys::clear_ambient()?;
    for capability in 0..64 {
        if ambient & (1 << capability) != 0 {
            match sys::raise_ambient(capability) {
                Ok(()) | Err(Errno::EPERM | Errno::EINVAL) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    Ok(())
}

/// A session keyring of the container's own, whose owner may also search it.
pub(super) fn keyring(name: &CStr) -> Done<'_> {
    const OWNER_SEARCH: u32 = 0x0008_0000;
    let key = match sys::join_session_keyring(name) {
        Ok(key) => key,
        // A kernel without keyrings.
        Err(Errno::ENOSYS) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    let mut text = [0u8; 256];
    let length = sys::describe_key(key, &mut text)?.min(text.len());
    let permissions = text[..length].split(|b| *b == b';').nth(3).and_then(hexadecimal);
    if let Some(permissions) = permissions {
        sys::set_key_permissions(key, permissions | OWNER_SEARCH)?;
    }
    Ok(())
}

fn hexadecimal(digits: &[u8]) -> Option<u32> {
    u32::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()
}
