//! The document itself, its root, mounts and hooks (runtime-spec config.md).

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Linux, LinuxIdMapping, Process, object};

object! {
    /// A container's configuration.
    pub struct Spec {
        /// The version of the specification that the document complies with.
        version: by_ref String = "ociVersion",
        /// The root file system.
        root: by_ref Option<Root> = "root",
        /// Mounts besides the root, in their order.
        mounts: by_ref Option<Vec<Mount>> = "mounts",
        /// The program to run.
        process: by_ref Option<Process> = "process",
        /// The name in the UTS namespace.
        hostname: by_ref Option<String> = "hostname",
        /// The domain name in the UTS namespace.
        domainname: by_ref Option<String> = "domainname",
        /// Programs to run at the container's events.
        hooks: by_ref Option<Hooks> = "hooks",
        /// What others noted about the container.
        annotations: by_ref Option<BTreeMap<String, String>> = "annotations",
        /// What only Linux has.
        linux: by_ref Option<Linux> = "linux",
    }
}

object! {
    /// The root file system.
    pub struct Root {
        /// Its directory, relative to the bundle.
        path: by_ref PathBuf = "path",
        /// Whether it is mounted read-only.
        readonly: copy Option<bool> = "readonly",
    }
}

object! {
    /// A mount.
    pub struct Mount {
        /// Where, inside the container.
        destination: by_ref PathBuf = "destination" required,
        /// The file system's type; for a bind mount anything.
        typ: by_ref Option<String> = "type",
        /// A device, a folder or file to bind, or any word.
        source: by_ref Option<PathBuf> = "source",
        /// Options as for mount(8).
        options: by_ref Option<Vec<String>> = "options",
        /// User ids of an idmapped mount.
        uid_mappings: by_ref Option<Vec<LinuxIdMapping>> = "uidMappings",
        /// Group ids of an idmapped mount.
        gid_mappings: by_ref Option<Vec<LinuxIdMapping>> = "gidMappings",
    }
}

object! {
    /// Programs to run at the container's events ("POSIX-platform Hooks").
    pub struct Hooks {
        /// The older name of `createRuntime`; runs before it.
        prestart: by_ref Option<Vec<Hook>> = "prestart",
        /// After the namespaces were made, in the runtime's.
        create_runtime: by_ref Option<Vec<Hook>> = "createRuntime",
        /// Before the root is changed, in the container's namespaces.
        create_container: by_ref Option<Vec<Hook>> = "createContainer",
        /// Before the program is executed, in the container.
        start_container: by_ref Option<Vec<Hook>> = "startContainer",
        /// After the program was executed, in the runtime's namespaces.
        poststart: by_ref Option<Vec<Hook>> = "poststart",
        /// After the container was deleted, in the runtime's namespaces.
        poststop: by_ref Option<Vec<Hook>> = "poststop",
    }
}

object! {
    /// A program to run.
    #[derive(Serialize, Deserialize)]
    pub struct Hook {
        /// The file to execute, absolute.
        path: by_ref PathBuf = "path" required,
        /// Its arguments, the first being its name.
        args: by_ref Option<Vec<String>> = "args",
        /// Its environment.
        env: by_ref Option<Vec<String>> = "env",
        /// Seconds after which it is killed.
        timeout: copy Option<i64> = "timeout",
    }
}
