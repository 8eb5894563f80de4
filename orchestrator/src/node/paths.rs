//! Where the node keeps what belongs to a pod.
//!
//! ```text
//! <run-dir>/pods/<uid>/        pod.json, monitor.{sock,lock,log}, hosts, hostname, resolv.conf
//!                     ns/          the ipc, uts and user namespaces, held by bind mounts
//!                     shm/         /dev/shm of all containers
//!                     volumes/     projected volumes and those in memory
//!                     subpaths/    bind mounts of parts of volumes, and idmapped ones
//!                     containers/<name>-<attempt>/   the bundle: config.json, record.json, termination-log
//! <run-dir>/netns/<uid>        the network namespace, held by a bind mount
//! <run-dir>/ids/<first id>     the pod that has the 65,536 ids from this one on
//! <run-dir>/runtime/           state of the runtime (its --root)
//! <data-dir>/pods/<uid>/       volumes/ on the disk; containers/<name>-<attempt>/{upper,work,rootfs}
//! <data-dir>/logs/<namespace>_<name>_<uid>/<container>/<attempt>.log
//! <data-dir>/cni/              attachments and leases
//! ```

use std::path::{Path, PathBuf};

use super::volumes::Places;

/// Directories of one pod.
#[derive(Debug, Clone)]
pub struct PodPaths {
    /// Below the run directory.
    pub run: PathBuf,
    /// Below the data directory.
    pub data: PathBuf,
    /// Its network namespace.
    pub netns: PathBuf,
    /// Its logs.
    pub logs: PathBuf,
}

impl PodPaths {
    /// The directories of the pod with this identity.
    pub fn new(run_dir: &Path, data_dir: &Path, namespace: &str, name: &str, uid: &str) -> PodPaths {
        PodPaths {
            run: run_dir.join("pods").join(uid),
            data: data_dir.join("pods").join(uid),
            netns: run_dir.join("netns").join(uid),
            logs: data_dir.join("logs").join(format!("{namespace}_{name}_{uid}")),
        }
    }

    /// The state file.
    pub fn state(&self) -> PathBuf {
        self.run.join("pod.json")
    }

    /// A held namespace other than the network's.
    pub fn namespace(&self, kind: &str) -> PathBuf {
        self.run.join("ns").join(kind)
    }

    /// The bundle of a container's run.
    pub fn bundle(&self, container: &str, attempt: u32) -> PathBuf {
        self.run.join("containers").join(format!("{container}-{attempt}"))
    }

    /// The folder with the root file system of a container's run.
    pub fn root(&self, container: &str, attempt: u32) -> PathBuf {
        self.data
            .join("containers")
            .join(format!("{container}-{attempt}"))
    }

    /// The log of a container's run.
    pub fn log(&self, container: &str, attempt: u32) -> PathBuf {
        self.logs.join(container).join(format!("{attempt}.log"))
    }

    /// The folders for volumes.
    pub fn volumes(&self) -> Places {
        Places {
            data: self.data.join("volumes"),
            run: self.run.join("volumes"),
        }
    }

    /// The place of a container's subPath mount.
    pub fn subpath(&self, container: &str, attempt: u32, number: usize) -> PathBuf {
        self.run
            .join("subpaths")
            .join(format!("{container}-{attempt}"))
            .join(number.to_string())
    }
}
