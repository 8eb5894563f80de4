//! The configuration that `berth spec` writes: a starting point that opens a shell, as runc's.

use crate::host::HostFacts;

/// Version of the runtime specification that this runtime implements.
pub const OCI_VERSION: &str = "1.3.0";

const DEFAULT: &str = include_str!("default.json");
const ROOTLESS: &str = include_str!("rootless.json");

/// The namespace that is only asked for where the host has the unified cgroup hierarchy alone, as runc does.
const CGROUP_NAMESPACE: &str = ",\n\t\t\t{\n\t\t\t\t\"type\": \"cgroup\"\n\t\t\t}";

/// The document for a container made by root.
pub fn default_document(unified_cgroups: bool) -> String {
    with_cgroup_namespace(DEFAULT, unified_cgroups)
}

/// The document for a container made by an unprivileged user: its own user namespace in which that user is root, the
/// host's network, and no limits.
pub fn rootless_document(host: &HostFacts, unified_cgroups: bool) -> String {
    let text = with_cgroup_namespace(ROOTLESS, unified_cgroups);
    // The template maps container root to host id 0: first the user, then the group.
    let template = "\"hostID\": 0";
    text.replacen(template, &format!("\"hostID\":  {}", host.euid), 1)
        .replacen(template, &format!("\"hostID\": {}", host.egid), 1)
        .replacen("\"hostID\":  ", "\"hostID\": ", 1)
}

fn with_cgroup_namespace(text: &str, wanted: bool) -> String {
    if wanted {
        text.to_owned()
    } else {
        text.replace(CGROUP_NAMESPACE, "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::facts;
    use berth_spec::{LinuxNamespaceType, Spec};

    fn namespaces(text: &str) -> Vec<LinuxNamespaceType> {
        let spec: Spec = berth_spec::read(text.as_bytes()).unwrap().value;
        assert_eq!(spec.version(), OCI_VERSION);
        let linux = spec.linux().as_ref().unwrap();
        linux
            .namespaces()
            .iter()
            .flatten()
            .map(berth_spec::LinuxNamespace::typ)
            .collect()
    }

    #[test]
    fn the_cgroup_namespace_depends_on_the_host() {
        let cgroup = LinuxNamespaceType::Cgroup;
        assert!(namespaces(&default_document(true)).contains(&cgroup));
        assert!(!namespaces(&default_document(false)).contains(&cgroup));
        assert!(!namespaces(&rootless_document(&facts(), false)).contains(&cgroup));
    }

    #[test]
    fn rootless_maps_the_user() {
        for (euid, egid) in [(1000, 100), (0, 0), (0, 5)] {
            let host = HostFacts {
                euid,
                egid,
                ..facts()
            };
            let text = rootless_document(&host, true);
            let spec: Spec = berth_spec::read(text.as_bytes()).unwrap().value;
            let linux = spec.linux().as_ref().unwrap();
            assert_eq!(linux.uid_mappings().as_ref().unwrap()[0].host_id(), euid);
            assert_eq!(linux.gid_mappings().as_ref().unwrap()[0].host_id(), egid);
            assert!(linux.resources().is_none());
        }
    }
}
