//! `linux.seccomp.listenerPath`: the listener's descriptor goes to the agent with a document that says whose it is
//! (config-linux.md, "The Container Process State").

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use berth_spec::Spec;
use berth_sys::socket;
use serde_json::{Value, json};

use super::LaunchError;

/// Sends the listener to the agent of the configuration. `state` is the container's state document.
pub(super) fn hand_over(spec: &Spec, state: &[u8], pid: i32, listener: &OwnedFd) -> Result<(), LaunchError> {
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let Some((seccomp, path)) =
        seccomp.and_then(|seccomp| seccomp.listener_path().as_ref().map(|path| (seccomp, path)))
    else {
        return Err(LaunchError::Protocol);
    };
    let fail = |source| LaunchError::Listener {
        path: path.clone(),
        source,
    };
    let state: Value = serde_json::from_slice(state).map_err(|error| fail(io::Error::other(error)))?;
    let document = json!({
        "ociVersion": state.get("ociVersion"),
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": seccomp.listener_metadata().as_deref().unwrap_or_default(),
        "state": state,
    });
    let agent = socket::connect_stream(path.as_os_str().as_bytes()).map_err(fail)?;
    socket::send_fd(agent.as_fd(), document.to_string().as_bytes(), listener.as_fd()).map_err(fail)
}
