//! A pod as the node sees it: the stored object, checked once, with the defaults that matter here.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as api;

use crate::events::ObjectRef;
use crate::store::Object;

/// `spec.restartPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Start again whatever the exit code.
    Always,
    /// Start again after a failure.
    OnFailure,
    /// Never start again.
    Never,
}

impl RestartPolicy {
    /// Whether a container that ended with `code` is started again.
    pub fn restarts(self, code: i32) -> bool {
        match self {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => code != 0,
            RestartPolicy::Never => false,
        }
    }
}

/// A rule about a container that ended with some exit codes: it is started again (`restartPolicyRules`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartRule {
    /// The codes that are meant; otherwise all others.
    among: bool,
    codes: Vec<i32>,
}

impl RestartRule {
    fn of(container: &api::Container) -> Vec<RestartRule> {
        let rules = container.restart_policy_rules.iter().flatten();
        rules
            .filter_map(|rule| {
                let codes = rule.exit_codes.as_ref()?;
                Some(RestartRule {
                    among: codes.operator == "In",
                    codes: codes.values.clone().unwrap_or_default(),
                })
            })
            .collect()
    }
}

/// What a container is in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// An init container that has to end well before the next one starts.
    Init,
    /// An init container that has to be started before the next one, and stays (restartPolicy Always).
    Sidecar,
    /// A main container.
    Main,
    /// One that somebody has added to look into the running pod; it counts for nothing.
    Ephemeral,
}

/// One container of the pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// What it is.
    pub role: Role,
    /// How it is restarted.
    pub restart: RestartPolicy,
    /// When it is in spite of that.
    pub rules: Vec<RestartRule>,
    /// Its specification.
    pub spec: api::Container,
    /// An ephemeral container sees the processes of this one.
    pub target: Option<String>,
}

impl Definition {
    /// Whether it is started again after it has ended with `code`.
    pub fn restarts(&self, code: i32) -> bool {
        self.rules
            .iter()
            .any(|rule| rule.codes.contains(&code) == rule.among)
            || self.restart.restarts(code)
    }
}

/// A deletion that has been asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deletion {
    /// Seconds between SIGTERM and SIGKILL.
    pub grace: i64,
}

/// A pod.
#[derive(Debug, Clone)]
pub struct Pod {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// Init containers and sidecars in order, then the main ones in order.
    pub containers: Vec<Definition>,
    /// `spec.terminationGracePeriodSeconds`.
    pub grace: i64,
    /// `spec.activeDeadlineSeconds`.
    pub active_deadline: Option<i64>,
    /// Set when the pod is to be taken away.
    pub deletion: Option<Deletion>,
    /// `status.phase` is Succeeded or Failed already.
    pub finished: bool,
    /// The whole object.
    pub object: Arc<api::Pod>,
    /// How events refer to it.
    pub about: ObjectRef,
}

/// A port of the host that leads to a port of the pod (`ports[].hostPort`). Its JSON is an item of the CNI
/// capability `portMappings`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HostPort {
    /// `hostPort`.
    #[serde(rename = "hostPort")]
    pub host: u16,
    /// `hostIP`; all addresses of the host otherwise.
    #[serde(rename = "hostIP", default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// `containerPort`.
    #[serde(rename = "containerPort")]
    pub container: u16,
    /// `protocol` in small letters: tcp, udp or sctp.
    pub protocol: String,
}

impl HostPort {
    /// Whether the host cannot give both: the same port on the same address, or on all.
    pub fn collides(&self, other: &HostPort) -> bool {
        let all = |port: &HostPort| {
            port.address
                .as_deref()
                .is_none_or(|ip| matches!(ip, "0.0.0.0" | "::"))
        };
        let overlap = all(self) || all(other) || self.address == other.address;
        self.host == other.host && self.protocol == other.protocol && overlap
    }
}

/// Why a stored pod cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// The object is not a pod.
    #[error("read pod {key} from the store")]
    Decode {
        /// Key of the object.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// It has no specification.
    #[error("pod {key} has no spec")]
    NoSpec {
        /// Key of the object.
        key: String,
    },
}

impl Pod {
    /// Checks a stored pod.
    ///
    /// # Errors
    /// [`PodError`] when the object is not a pod with a specification; the API does not let such a one in.
    pub fn new(stored: &Object) -> Result<Pod, PodError> {
        let object = stored.parse().map_err(|source| PodError::Decode {
            key: stored.key().to_string(),
            source,
        })?;
        Pod::checked(object, ObjectRef::to(stored))
    }

    /// Checks a pod that `about` refers to.
    ///
    /// # Errors
    /// [`PodError::NoSpec`].
    pub fn checked(object: api::Pod, about: ObjectRef) -> Result<Pod, PodError> {
        let key = || format!("{}/{}", about.namespace, about.name);
        let spec = object
            .spec
            .as_ref()
            .ok_or_else(|| PodError::NoSpec { key: key() })?;
        let policy = policy(spec.restart_policy.as_deref());
        let mut containers = Vec::new();
        for container in spec.init_containers.iter().flatten() {
            let sidecar = container.restart_policy.as_deref() == Some("Always");
            // One that has ended well is through, whatever the policy.
            let (role, restart) = match (sidecar, own_policy(container, policy)) {
                (true, _) => (Role::Sidecar, RestartPolicy::Always),
                (false, RestartPolicy::Never) => (Role::Init, RestartPolicy::Never),
                (false, _) => (Role::Init, RestartPolicy::OnFailure),
            };
            containers.push(Definition {
                role,
                restart,
                rules: RestartRule::of(container),
                spec: container.clone(),
                target: None,
            });
        }
        for container in &spec.containers {
            containers.push(Definition {
                role: Role::Main,
                restart: own_policy(container, policy),
                rules: RestartRule::of(container),
                spec: container.clone(),
                target: None,
            });
        }
        for container in spec.ephemeral_containers.iter().flatten() {
            let target = container.target_container_name.clone().filter(|t| !t.is_empty());
            containers.push(Definition {
                role: Role::Ephemeral,
                restart: RestartPolicy::Never,
                rules: Vec::new(),
                spec: as_container(container),
                target,
            });
        }
        let grace = spec.termination_grace_period_seconds.unwrap_or(30);
        let deletion = object.metadata.deletion_timestamp.as_ref().map(|_| Deletion {
            grace: object.metadata.deletion_grace_period_seconds.unwrap_or(grace),
        });
        let phase = object.status.as_ref().and_then(|status| status.phase.as_deref());
        Ok(Pod {
            namespace: about.namespace.clone(),
            name: about.name.clone(),
            uid: about.uid.clone(),
            containers,
            grace,
            active_deadline: spec.active_deadline_seconds,
            deletion,
            finished: matches!(phase, Some("Succeeded" | "Failed")),
            about,
            object: Arc::new(object),
        })
    }

    /// `spec`. [`Pod::new`] has seen that it is there.
    pub fn spec(&self) -> &api::PodSpec {
        static EMPTY: std::sync::LazyLock<api::PodSpec> = std::sync::LazyLock::new(api::PodSpec::default);
        self.object.spec.as_ref().unwrap_or(&EMPTY)
    }

    /// `spec.hostUsers: false`: the pod has users of its own.
    pub fn own_users(&self) -> bool {
        self.spec().host_users == Some(false)
    }

    /// `spec.hostNetwork`.
    pub fn host_network(&self) -> bool {
        self.spec().host_network.unwrap_or(false)
    }

    /// `spec.shareProcessNamespace`.
    pub fn shares_processes(&self) -> bool {
        self.spec().share_process_namespace.unwrap_or(false)
    }

    /// Whether a container's processes may outlive its first one: they are not alone in their process namespace.
    pub fn has_common_processes(&self) -> bool {
        self.shares_processes() || self.spec().host_pid.unwrap_or(false)
    }

    /// Ports of the host that lead to the pod: those of its containers and sidecars, as kubelet takes them.
    /// A pod in the host's network needs none.
    pub fn host_ports(&self) -> Vec<HostPort> {
        if self.host_network() {
            return Vec::new();
        }
        let lasting = self.containers.iter().filter(|c| c.role != Role::Init);
        let ports = lasting.flat_map(|c| c.spec.ports.iter().flatten());
        ports
            .filter_map(|port| {
                Some(HostPort {
                    host: u16::try_from(port.host_port?).ok().filter(|p| *p != 0)?,
                    address: port.host_ip.clone().filter(|ip| !ip.is_empty()),
                    container: u16::try_from(port.container_port).ok()?,
                    protocol: port.protocol.as_deref().unwrap_or("TCP").to_lowercase(),
                })
            })
            .collect()
    }

    /// The container of that name.
    pub fn container(&self, name: &str) -> Option<&Definition> {
        self.containers.iter().find(|c| c.spec.name == name)
    }

    /// When the pod was accepted by the node, from the stored status.
    pub fn started_at(&self) -> Option<Timestamp> {
        self.object
            .status
            .as_ref()?
            .start_time
            .as_ref()
            .map(|time| time.0)
    }
}

/// An ephemeral container in the words of an ordinary one.
fn as_container(container: &api::EphemeralContainer) -> api::Container {
    api::Container {
        name: container.name.clone(),
        image: container.image.clone(),
        image_pull_policy: container.image_pull_policy.clone(),
        command: container.command.clone(),
        args: container.args.clone(),
        working_dir: container.working_dir.clone(),
        env: container.env.clone(),
        env_from: container.env_from.clone(),
        volume_mounts: container.volume_mounts.clone(),
        termination_message_path: container.termination_message_path.clone(),
        termination_message_policy: container.termination_message_policy.clone(),
        security_context: container.security_context.clone(),
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        tty: container.tty,
        ..api::Container::default()
    }
}

/// A container's own policy, else the pod's.
fn own_policy(container: &api::Container, pod: RestartPolicy) -> RestartPolicy {
    match container.restart_policy.as_deref().filter(|p| !p.is_empty()) {
        Some(own) => policy(Some(own)),
        None => pod,
    }
}

fn policy(text: Option<&str>) -> RestartPolicy {
    match text {
        Some("Never") => RestartPolicy::Never,
        Some("OnFailure") => RestartPolicy::OnFailure,
        _ => RestartPolicy::Always,
    }
}

/// A pod for tests, from its JSON; the uid is `u`.
#[cfg(test)]
pub fn test_pod(mut value: serde_json::Value) -> Pod {
    value["metadata"]["uid"] = serde_json::json!("u");
    value["metadata"]["namespace"] = serde_json::json!("default");
    let about = ObjectRef {
        api_version: "v1".into(),
        kind: "Pod".into(),
        namespace: "default".into(),
        name: value["metadata"]["name"].as_str().unwrap_or("p").to_owned(),
        uid: "u".into(),
        resource_version: "1".into(),
        field_path: String::new(),
    };
    Pod::checked(serde_json::from_value(value).unwrap(), about).unwrap()
}
