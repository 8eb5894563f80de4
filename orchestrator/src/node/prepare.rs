//! The blocking part of a container's creation: root file system, user, volumes, configuration, log folder.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use berth_client::protocol::{RECORD, Record};
use berth_image::{Rootfs, Shift, user};
use serde_json::Value;

use super::env::{self, Facts};
use super::execute::chain;
use super::ids::LENGTH;
use super::pod::Definition;
use super::sources::Stored;
use super::spec::{self, Bind, Device, Identity, Parts};
use super::{Node, etc, image, resources, sandbox, volumes};

/// A container that could not be created, with kubelet's word for it.
pub(super) struct Refusal {
    /// The word.
    pub reason: &'static str,
    /// The whole story in one line.
    pub message: String,
}

/// Everything that the blocking part of a container's creation needs.
pub(super) struct Preparation {
    pub node: std::sync::Arc<Node>,
    pub paths: super::paths::PodPaths,
    pub pod: Box<super::pod::Pod>,
    pub definition: Definition,
    pub environment: Vec<(String, String)>,
    pub facts: Facts,
    pub sources: Stored,
    pub cgroup: String,
    pub attempt: u32,
    pub id: String,
    /// The process namespace of the pod, if its containers share one.
    pub shared_pids: Option<PathBuf>,
    /// Bundle of the container whose processes this one sees.
    pub target_bundle: Option<PathBuf>,
}

/// The users of a pod with `hostUsers: false`.
struct Users {
    /// Its user namespace.
    namespace: std::fs::File,
    /// What its user and group 0 are on the host.
    first: u32,
}

impl Users {
    fn shift(&self) -> Shift<'_> {
        Shift {
            namespace: self.namespace.as_fd(),
            uid: self.first,
            gid: self.first,
        }
    }
}

impl Preparation {
    /// Returns the image (name and id) and the number of its stop signal.
    pub fn run(&self) -> Result<((String, String), i32), Refusal> {
        let container = &self.definition.spec;
        let name = &container.name;
        let failed = |message: String| Refusal {
            reason: "CreateContainerError",
            message,
        };
        let config_failed = |message: String| Refusal {
            reason: "CreateContainerConfigError",
            message,
        };
        let found = image::find(self.node.images.store(), container).map_err(|error| match error {
            image::ImageError::Missing { reason, text } => Refusal {
                reason,
                message: text,
            },
            error @ image::ImageError::Store { .. } => Refusal {
                reason: "InvalidImageName",
                message: chain(&error),
            },
        })?;
        let root = self.paths.root(name, self.attempt);
        Rootfs::remove(&root).map_err(|error| failed(chain(&error)))?;
        std::fs::create_dir_all(&root)
            .map_err(|error| failed(format!("make {}: {error}", root.display())))?;
        let rootfs = self
            .node
            .images
            .store()
            .prepare_rootfs(&found, &root)
            .map_err(|error| failed(chain(&error)))?;
        let users = self.users().map_err(config_failed)?;
        let mounted = match &users {
            Some(users) => rootfs.mount_shifted(&users.shift()),
            None => rootfs.mount(),
        };
        mounted.map_err(|error| failed(chain(&error)))?;
        let identity = self
            .identity(&rootfs.target, &image::user(&found))
            .map_err(config_failed)?;
        let bundle = self.paths.bundle(name, self.attempt);
        std::fs::create_dir_all(&bundle)
            .map_err(|error| failed(format!("make {}: {error}", bundle.display())))?;
        let binds = self
            .binds(&bundle, users.as_ref())
            .map_err(|error| config_failed(chain(&error)))?;
        let privileged = container
            .security_context
            .as_ref()
            .and_then(|s| s.privileged)
            .unwrap_or(false);
        let parts = Parts {
            pod: &self.pod,
            container,
            image: &image::settings(&found),
            identity: &identity,
            env: &self.environment,
            hostname: &etc::hostname(&self.pod, &self.node.config.name)
                .map_err(|error| config_failed(chain(&error)))?,
            rootfs: &rootfs.target,
            namespaces: &self.namespaces().map_err(config_failed)?,
            binds: &binds,
            cgroup: &self.cgroup,
            oom_score: resources::oom_score(resources::qos(self.pod.spec()), container, self.node.memory)
                .max(self.node.oom_floor),
            last_capability: self.node.last_capability,
            devices: &if privileged {
                host_devices(Path::new("/dev"))
            } else {
                Vec::new()
            },
            first_user: users.as_ref().map(|users| users.first),
            local_seccomp: self.local_seccomp().map_err(config_failed)?,
            unified: self.node.layout.is_unified(),
        };
        let config = spec::config(&parts).map_err(|error| failed(error.to_string()))?;
        let path = bundle.join("config.json");
        std::fs::write(&path, config.to_string())
            .map_err(|error| failed(format!("write {}: {error}", path.display())))?;
        self.prepare_log()
            .map_err(|error| failed(format!("prepare the log of {}: {error}", self.id)))?;
        let id = found.id.to_string();
        Ok((
            (container.image.clone().unwrap_or_default(), id),
            container
                .lifecycle
                .as_ref()
                .and_then(|l| image::parse_signal(l.stop_signal.as_deref()?))
                .unwrap_or_else(|| image::stop_signal(&found)),
        ))
    }

    /// The users of a pod that has some of its own.
    fn users(&self) -> Result<Option<Users>, String> {
        if !self.pod.own_users() {
            return Ok(None);
        }
        let first = self.node.ids.of(&self.pod.uid);
        let first = first.ok_or_else(|| "the pod's user ids are not known".to_owned())?;
        let path = self.paths.namespace("user");
        let namespace =
            std::fs::File::open(&path).map_err(|error| format!("open {}: {error}", path.display()))?;
        Ok(Some(Users { namespace, first }))
    }

    /// The pod's namespaces, and for an ephemeral container with a target the process namespace of that.
    fn namespaces(&self) -> Result<Vec<(&'static str, PathBuf)>, String> {
        let mut list = sandbox::shared_namespaces(&self.pod, &self.paths);
        if let Some(path) = &self.shared_pids {
            list.push(("pid", path.clone()));
            return Ok(list);
        }
        if let (Some(target), Some(bundle)) = (&self.definition.target, &self.target_bundle) {
            let record = std::fs::read(bundle.join(RECORD))
                .map_err(|e| format!("look for container {target}: {e}"))?;
            let record: Record =
                serde_json::from_slice(&record).map_err(|e| format!("look for container {target}: {e}"))?;
            if record.exit.is_some() {
                return Err(format!(
                    "container {target} has ended: its processes cannot be joined"
                ));
            }
            list.push(("pid", PathBuf::from(format!("/proc/{}/ns/pid", record.pid))));
        }
        Ok(list)
    }

    /// Who the program runs as: the image's user, unless the pod says otherwise.
    fn identity(&self, rootfs: &Path, image_user: &str) -> Result<Identity, String> {
        let own = self.definition.spec.security_context.as_ref();
        let pod = self.pod.spec().security_context.as_ref();
        let run_as_user = own
            .and_then(|s| s.run_as_user)
            .or(pod.and_then(|s| s.run_as_user));
        let run_as_group = own
            .and_then(|s| s.run_as_group)
            .or(pod.and_then(|s| s.run_as_group));
        let text = match (run_as_user, run_as_group) {
            (Some(user), Some(group)) => format!("{user}:{group}"),
            (Some(user), None) => user.to_string(),
            (None, Some(group)) => {
                let user = image_user
                    .split(':')
                    .next()
                    .filter(|u| !u.is_empty())
                    .unwrap_or("0");
                format!("{user}:{group}")
            }
            (None, None) => image_user.to_owned(),
        };
        let found = if text.is_empty() {
            user::lookup(rootfs, "0")
        } else {
            user::lookup(rootfs, &text)
        };
        let found = found.map_err(|error| chain(&error))?;
        let non_root = own
            .and_then(|s| s.run_as_non_root)
            .or(pod.and_then(|s| s.run_as_non_root));
        if non_root == Some(true) && found.uid == 0 {
            return Err(format!(
                "container {} has runAsNonRoot, but would run as root: set runAsUser, or a USER in the image",
                self.definition.spec.name
            ));
        }
        // What the image says of the user's groups counts, unless only the pod's word is to.
        let strict = pod.and_then(|s| s.supplemental_groups_policy.as_deref()) == Some("Strict");
        let mut additional = if strict { Vec::new() } else { found.additional_gids };
        let more = pod
            .and_then(|s| s.supplemental_groups.clone())
            .unwrap_or_default();
        for group in more.into_iter().chain(pod.and_then(|s| s.fs_group)) {
            let group = u32::try_from(group).map_err(|_| format!("group {group} is out of range"))?;
            if !additional.contains(&group) {
                additional.push(group);
            }
        }
        if self.pod.own_users()
            && let Some(id) = [found.uid, found.gid]
                .into_iter()
                .chain(additional.iter().copied())
                .find(|id| *id >= LENGTH)
        {
            return Err(format!(
                "container {} would run with the user or group {id}, but with hostUsers: false there are 0 to {} only",
                self.definition.spec.name,
                LENGTH - 1
            ));
        }
        Ok(Identity {
            uid: found.uid,
            gid: found.gid,
            additional,
        })
    }

    /// The node's files and the volumes.
    fn binds(&self, bundle: &Path, users: Option<&Users>) -> Result<Vec<Bind>, volumes::VolumeError> {
        let container = &self.definition.spec;
        let bind = |source: PathBuf, target: &str, read_only| Bind {
            source,
            target: target.to_owned(),
            read_only,
            recursive: false,
            propagation: "rprivate",
        };
        let run = &self.paths.run;
        let mut binds = vec![
            bind(run.join("hosts"), "/etc/hosts", false),
            bind(run.join("hostname"), "/etc/hostname", false),
            bind(run.join("resolv.conf"), "/etc/resolv.conf", false),
            bind(run.join("shm"), "/dev/shm", false),
        ];
        let words = bundle.join("termination-log");
        let made = std::fs::File::create(&words)
            .and_then(|file| file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)))
            .and_then(|()| match users {
                Some(users) => std::os::unix::fs::chown(&words, Some(users.first), Some(users.first)),
                None => Ok(()),
            });
        made.map_err(|source| volumes::VolumeError::File {
            path: words.clone(),
            source,
        })?;
        let place = container
            .termination_message_path
            .as_deref()
            .filter(|p| !p.is_empty());
        binds.push(bind(words, place.unwrap_or("/dev/termination-log"), false));
        let hosts = volumes::prepare(&self.pod, &self.paths.volumes(), &self.facts, &self.sources)?;
        for (number, wanted) in container.volume_mounts.iter().flatten().enumerate() {
            let path = hosts
                .get(&wanted.name)
                .ok_or_else(|| volumes::VolumeError::Undeclared {
                    container: container.name.clone(),
                    volume: wanted.name.clone(),
                })?;
            let sub = self.subpath_of(wanted);
            let source = if sub.is_none() && users.is_none() {
                path.clone()
            } else {
                let target = self.paths.subpath(&container.name, self.attempt, number);
                sandbox::unmount_below(&target).map_err(|error| volumes::VolumeError::File {
                    path: target.clone(),
                    source: std::io::Error::other(error),
                })?;
                let namespace = users.map(|users| users.namespace.as_fd());
                volumes::bind(&wanted.name, path, sub.as_deref(), &target, namespace)?;
                target
            };
            binds.retain(|known| known.target != wanted.mount_path);
            binds.push(Bind {
                source,
                target: wanted.mount_path.clone(),
                read_only: wanted.read_only.unwrap_or(false)
                    || volumes::is_read_only(&self.pod, &wanted.name),
                recursive: matches!(
                    wanted.recursive_read_only.as_deref(),
                    Some("Enabled" | "IfPossible")
                ),
                propagation: match wanted.mount_propagation.as_deref() {
                    Some("Bidirectional") => "rshared",
                    Some("HostToContainer") => "rslave",
                    _ => "rprivate",
                },
            });
        }
        // An outer place is mounted before what lies in it.
        binds.sort_by_key(|known| known.target.matches('/').count());
        Ok(binds)
    }

    /// `subPath`, or `subPathExpr` with the container's variables in it.
    fn subpath_of(&self, wanted: &k8s_openapi::api::core::v1::VolumeMount) -> Option<String> {
        let plain = wanted.sub_path.clone().filter(|p| !p.is_empty());
        plain.or_else(|| {
            let text = wanted.sub_path_expr.as_deref().filter(|p| !p.is_empty())?;
            let variables: BTreeMap<&str, &String> = self
                .environment
                .iter()
                .map(|(name, value)| (name.as_str(), value))
                .collect();
            Some(env::expand(text, |name| {
                variables.get(name).map(|value| (*value).clone())
            }))
        })
    }

    /// A `Localhost` seccomp profile from `<data-dir>/seccomp`.
    fn local_seccomp(&self) -> Result<Option<Value>, String> {
        let own = self
            .definition
            .spec
            .security_context
            .as_ref()
            .and_then(|s| s.seccomp_profile.as_ref());
        let pod = self
            .pod
            .spec()
            .security_context
            .as_ref()
            .and_then(|s| s.seccomp_profile.as_ref());
        let Some(profile) = own.or(pod).filter(|p| p.type_ == "Localhost") else {
            return Ok(None);
        };
        let name = profile.localhost_profile.clone().unwrap_or_default();
        let relative = Path::new(&name);
        let plain = relative
            .components()
            .all(|c| matches!(c, std::path::Component::Normal(_)));
        if name.is_empty() || !plain {
            return Err(format!(
                "seccompProfile.localhostProfile {name:?} must be a relative path without \"..\""
            ));
        }
        let path = self.node.config.data_dir.join("seccomp").join(relative);
        let text =
            std::fs::read(&path).map_err(|e| format!("read seccomp profile {}: {e}", path.display()))?;
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|e| format!("seccomp profile {} is not JSON: {e}", path.display()))
    }

    /// Makes the log's folder and removes the logs of runs before the last one.
    fn prepare_log(&self) -> std::io::Result<()> {
        let path = self.paths.log(&self.definition.spec.name, self.attempt);
        let Some(dir) = path.parent() else { return Ok(()) };
        std::fs::create_dir_all(dir)?;
        for entry in std::fs::read_dir(dir)?.flatten() {
            let name = entry.file_name();
            let number = name
                .to_str()
                .and_then(|n| n.split('.').next())
                .and_then(|n| n.parse::<u32>().ok());
            if number.is_some_and(|number| number + 1 < self.attempt) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Devices of the host that a privileged container gets: everything in /dev but terminals of the host's
/// own devpts and what the runtime makes itself.
fn host_devices(dir: &Path) -> Vec<Device> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(meta) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        let kind = meta.file_type();
        if kind.is_dir() {
            if !matches!(
                entry.file_name().to_str(),
                Some("pts" | "shm" | "mqueue" | "fd" | "hugepages")
            ) {
                found.extend(host_devices(&path));
            }
        } else if kind.is_char_device() || kind.is_block_device() {
            if path == Path::new("/dev/console") || path == Path::new("/dev/ptmx") {
                continue;
            }
            let Some(text) = path.to_str() else { continue };
            found.push(Device {
                path: text.to_owned(),
                kind: if kind.is_char_device() { "c" } else { "b" },
                major: nix::sys::stat::major(meta.rdev()),
                minor: nix::sys::stat::minor(meta.rdev()),
                mode: meta.mode() & 0o777,
                uid: meta.uid(),
                gid: meta.gid(),
            });
        }
    }
    found
}
