//! A shim that is called directly, as containerd 2.3 calls it: parameters of the start as a message, version 3 of the
//! service, and `containerd publish` in place of a socket for events.

use containerd_shim_protos::TaskClient;
use containerd_shim_protos::api::*;
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::ttrpc::{Client, Code, Error, context::with_timeout};
use harness::{Bundle, Lab};
use serde_json::json;

pub const SECONDS: i64 = 1_000_000_000;

/// The shim, its client, and the lab that they are in.
pub struct Direct {
    pub lab: Lab,
    pub client: TaskClient,
}

impl Direct {
    /// Starts a shim in a lab for the bundle `one`, whose process is `args`.
    pub fn new(args: &[&str]) -> Self {
        Self::in_lab(Lab::new(), args)
    }

    /// The same in this lab.
    pub fn in_lab(lab: Lab, args: &[&str]) -> Self {
        let bundle = lab.path().join("bundles/one");
        std::fs::create_dir_all(&bundle).expect("create the bundle");
        let mut prepared = Bundle::new(args);
        let group = format!("/{}/one", lab.name());
        prepared.edit(|config| {
            config["root"]["path"] = json!(lab.path().join("rootfs"));
            config["linux"]["cgroupsPath"] = json!(group);
        });
        std::fs::copy(prepared.path().join("config.json"), bundle.join("config.json")).expect("copy");
        let mut params = BootstrapParams::new();
        params.instance_id = "one".to_owned();
        params.namespace = "ns".to_owned();
        params.socket_dir = Some(lab.path().join("s").display().to_string());
        std::fs::write(
            lab.path().join("params"),
            params.write_to_bytes().expect("encode"),
        )
        .expect("write");
        // The publisher notes topic and size of what it is given.
        lab.sh(r#"
printf '#!/bin/bash\necho "$4 $5 $(wc -c)" >>%s/published\n' $LAB >publisher; chmod 755 publisher
cd bundles/one
containerd-shim-berth-v2 -namespace ns -id one -address /nowhere -publish-binary $LAB/publisher start <$LAB/params >$LAB/answer
"#)
        .ok();
        let answer = std::fs::read(lab.path().join("answer")).expect("read the answer");
        let answer = BootstrapResult::parse_from_bytes(&answer).expect("an answer");
        assert_eq!((answer.version, answer.protocol.as_str()), (3, "ttrpc"));
        let client = Client::connect(&answer.address).expect("connect");
        Self {
            lab,
            client: TaskClient::new(client),
        }
    }

    pub fn create(&self, change: impl FnOnce(&mut CreateTaskRequest)) -> Result<CreateTaskResponse, Error> {
        let mut request = CreateTaskRequest::new();
        request.id = "one".to_owned();
        request.bundle = self.lab.path().join("bundles/one").display().to_string();
        request.options = MessageField::some(self.options());
        change(&mut request);
        self.client.create(with_timeout(30 * SECONDS), &request)
    }

    fn options(&self) -> Any {
        let mut options = containerd_shim_protos::shim::oci::Options::new();
        options.binary_name = self.lab.path().join("bin/berth").display().to_string();
        options.root = self.lab.path().join("runtime").display().to_string();
        let mut any = Any::new();
        any.type_url = "containerd.runc.v1.Options".to_owned();
        any.value = options.write_to_bytes().expect("encode");
        any
    }

    pub fn start(&self, exec: &str) -> Result<StartResponse, Error> {
        let mut request = StartRequest::new();
        request.id = "one".to_owned();
        request.exec_id = exec.to_owned();
        self.client.start(with_timeout(30 * SECONDS), &request)
    }

    pub fn add(&self, exec: &str, terminal: bool, args: &[&str]) -> Result<(), Error> {
        let mut request = ExecProcessRequest::new();
        request.id = "one".to_owned();
        request.exec_id = exec.to_owned();
        request.terminal = terminal;
        let mut spec = Any::new();
        spec.type_url = "types.containerd.io/opencontainers/runtime-spec/1/Process".to_owned();
        spec.value = json!({"args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}})
            .to_string()
            .into_bytes();
        request.spec = MessageField::some(spec);
        self.client.exec(with_timeout(30 * SECONDS), &request).map(|_| ())
    }

    pub fn kill(&self, exec: &str, signal: u32) -> Result<(), Error> {
        let mut request = KillRequest::new();
        request.id = "one".to_owned();
        request.exec_id = exec.to_owned();
        request.signal = signal;
        self.client.kill(with_timeout(30 * SECONDS), &request).map(|_| ())
    }

    pub fn wait(&self, exec: &str) -> Result<WaitResponse, Error> {
        let mut request = WaitRequest::new();
        request.id = "one".to_owned();
        request.exec_id = exec.to_owned();
        self.client.wait(with_timeout(60 * SECONDS), &request)
    }

    pub fn delete(&self, exec: &str) -> Result<DeleteResponse, Error> {
        let mut request = DeleteRequest::new();
        request.id = "one".to_owned();
        request.exec_id = exec.to_owned();
        self.client.delete(with_timeout(30 * SECONDS), &request)
    }

    pub fn state(&self) -> StateResponse {
        let mut request = StateRequest::new();
        request.id = "one".to_owned();
        self.client
            .state(with_timeout(30 * SECONDS), &request)
            .expect("state")
    }

    pub fn shut_down(&self) {
        let _ = self
            .client
            .shutdown(with_timeout(30 * SECONDS), &ShutdownRequest::new());
        self.lab
            .sh("wait_until eval '! pgrep -f [s]him-berth-v2 >/dev/null'")
            .ok();
        let left = self
            .lab
            .sh("find s runtime/ns tmp -mindepth 1; ls bundles/one | grep -v rootfs")
            .ok();
        let expected = ["address", "config.json", "init.pid", "options.json"];
        assert_eq!(
            left.split_whitespace().collect::<Vec<_>>(),
            expected,
            "files are left"
        );
    }
}

/// The status code of a refusal.
pub fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> (Code, String) {
    match result.expect_err("a refusal") {
        Error::RpcStatus(status) => (status.code(), status.message),
        other => panic!("not a status: {other:?}"),
    }
}
