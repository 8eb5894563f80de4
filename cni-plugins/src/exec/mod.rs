//! The runtime side of CNI: runs lists of plugins for a container, as libcni does for Go programs.
//!
//! For use inside a program of many threads: it only starts plugins and never changes the process's
//! namespaces. All calls block; from asynchronous code use `spawn_blocking`.
//!
//! ```no_run
//! use cni_plugins::exec::{Attachment, Network, Runtime};
//! # fn main() -> Result<(), cni_plugins::exec::ExecError> {
//! let runtime = Runtime::new(["/opt/cni/bin".into()], "/var/lib/cni");
//! let network = Network::load("/etc/cni/net.d".as_ref(), "pods")?;
//! let attachment = Attachment::new("c1", "/run/netns/c1", "eth0");
//! let result = runtime.add(&network, &attachment)?;
//! println!("{:?}", result.decode()?.ips);
//! runtime.del(&network, &attachment)?;
//! # Ok(()) }
//! ```

mod cache;
mod collect;
pub(crate) mod invoke;
mod load;
mod locks;
mod object;
mod repair;
mod runtime;

pub use cache::Cached;
pub use load::{Network, PluginConfig};
pub use object::Object;
pub use repair::Repair;
pub use runtime::{Attachment, Outcome, Runtime};

use std::path::PathBuf;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// A plugin answered with an error.
    #[error("CNI plugin {plugin} failed {verb} in network {network}: {msg}{} (code {code})", if details.is_empty() { String::new() } else { format!(": {details}") })]
    Plugin {
        /// The plugin's type.
        plugin: String,
        /// The verb.
        verb: &'static str,
        /// The network's name.
        network: String,
        /// The CNI error code; 0 when the plugin gave none.
        code: u32,
        /// Its message.
        msg: String,
        /// More about it; may be empty.
        details: String,
    },
    /// No program of that name in the plugin directories.
    #[error("CNI plugin {plugin} of network {network} is not in {}: install it there", dirs.iter().map(|d| d.display().to_string()).collect::<Vec<_>>().join(":"))]
    NotFound {
        /// The plugin's type.
        plugin: String,
        /// The network's name.
        network: String,
        /// Where it was looked for.
        dirs: Vec<PathBuf>,
    },
    /// No configuration has that network name.
    #[error("no CNI network {} in {}: add a .conflist file there", if name.is_empty() { "configuration" } else { name }, dir.display())]
    NoNetwork {
        /// The name; empty when any network would have done.
        name: String,
        /// The configuration directory.
        dir: PathBuf,
    },
    /// A configuration file is wrong.
    #[error("CNI configuration {}: {problem}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Field and mistake.
        problem: String,
    },
    /// A file of the configuration or of the cache could not be read or written.
    #[error("{what} {}", path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Container ID, interface name or argument are not valid.
    #[error("{field}: {problem}")]
    Invalid {
        /// What is wrong.
        field: &'static str,
        /// Why.
        problem: String,
    },
    /// The list's version does not know the verb.
    #[error("CNI network {network} has cniVersion {version}, which does not allow {verb}")]
    Version {
        /// The network's name.
        network: String,
        /// Its version.
        version: String,
        /// The verb.
        verb: &'static str,
    },
    /// A result is not JSON or not a CNI result.
    #[error("result of network {network} cannot be decoded: {problem}")]
    Result {
        /// The network's name.
        network: String,
        /// Why.
        problem: String,
    },
    /// CHECK: the runtime has no result of an ADD.
    #[error("container {container} has no interface {ifname} in network {network}: run ADD first")]
    NotAttached {
        /// The container's ID.
        container: String,
        /// The interface's name.
        ifname: String,
        /// The network's name.
        network: String,
    },
    /// GC: some steps failed; the others were done.
    #[error("garbage collection of network {network}: {}", failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Gc {
        /// The network's name.
        network: String,
        /// All failures.
        failures: Vec<ExecError>,
    },
}
