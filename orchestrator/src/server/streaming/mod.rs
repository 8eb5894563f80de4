//! exec, attach and port-forward: requests that turn into streams.
//!
//! ```text
//! mod.rs        which pod, which protocol, the upgrade
//! channels.rs   exec and attach over WebSocket ──┐
//! multiplex.rs  exec and attach over SPDY ───────┴─▶ program.rs ──▶ monitor: pipes or a terminal
//! tunnel.rs     SPDY inside WebSocket ──┐
//! forward.rs    port-forward over SPDY ◀┘──▶ TCP inside the pod's network namespace
//! spdy.rs websocket.rs   frames, pure
//! ```
//!
//! Bounds: so many streams at a time, some KiB waiting each way (who is slow slows down the program, not the node),
//! a question every half minute whether the client is there, and an end after four silent hours. When a client is
//! gone, all that served it ends: dropping the future closes pipes and connections, and the monitor hangs the
//! program up.

mod channels;
mod forward;
mod multiplex;
mod program;
pub mod spdy;
mod tunnel;
pub mod websocket;

use axum::body::Body;
use axum::response::Response;
use berth_api::status::ApiError;
use berth_client::protocol::{Attach, Call, Open, Streams};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};

use super::request::{Query, Target};
use super::{Api, store_error};
use crate::node::paths::PodPaths;
use crate::store::Object;

/// Streams that are served at a time.
const STREAMS: usize = 256;
static SLOTS: Semaphore = Semaphore::const_new(STREAMS);

/// The subresources that are streams.
pub(super) fn is_stream(subresource: Option<&str>) -> bool {
    matches!(subresource, Some("exec" | "attach" | "portforward"))
}

/// What the connection turns into.
enum Protocol {
    /// SPDY/3.1, and the stream protocol inside it.
    Spdy(&'static str),
    /// WebSocket, with its subprotocol and the answer to its key.
    WebSocket { protocol: &'static str, accept: String },
}

/// Protocols of exec and attach, the best first.
const CHANNELS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// The protocol of port-forward.
const PORT_FORWARD: [&str; 1] = ["portforward.k8s.io"];
/// The same inside WebSocket.
const TUNNEL: [&str; 1] = ["SPDY/3.1+portforward.k8s.io"];

impl Api {
    /// GET or POST of pods/exec, pods/attach or pods/portforward.
    pub(super) fn stream(
        &self,
        target: &Target,
        query: &Query,
        parts: &mut Parts,
    ) -> Result<Response, ApiError> {
        if !matches!(parts.method, Method::GET | Method::POST) {
            return Err(ApiError::method_not_allowed(
                "streams are opened by GET (WebSocket) or POST (SPDY)",
            ));
        }
        let pod = self.store.require(&target.key()?).map_err(store_error)?;
        let forward = target.subresource.as_deref() == Some("portforward");
        let work = if forward {
            self.forwarding(&pod)?
        } else {
            self.program(&pod, target, query)?
        };
        let protocol = negotiate(&parts.headers, forward)?;
        let upgrade = parts.extensions.remove::<OnUpgrade>().ok_or_else(|| {
            ApiError::bad_request("streams need HTTP/1.1: this connection cannot be upgraded")
        })?;
        let slot = SLOTS
            .try_acquire()
            .map_err(|_| ApiError::unavailable("too many exec, attach and port-forward streams are open"))?;
        let answer = accept(&protocol);
        let mut shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            let serving = async {
                match upgrade.await {
                    Ok(upgraded) => work.serve(TokioIo::new(upgraded), &protocol).await,
                    Err(error) => tracing::debug!(%error, "a stream was not opened"),
                }
            };
            tokio::select! {
                () = serving => {}
                _ = shutdown.wait_for(|stop| *stop) => {}
            }
            drop(slot);
        });
        Ok(answer)
    }

    /// What an exec or attach is to do.
    fn program(&self, pod: &Object, target: &Target, query: &Query) -> Result<Work, ApiError> {
        let tty = query.flag("tty")?;
        let wanted = Streams {
            stdin: query.flag("stdin")?,
            stdout: query.flag("stdout")?,
            // A terminal has one output.
            stderr: query.flag("stderr")? && !tty,
            terminal: tty,
        };
        if !(wanted.stdin || wanted.stdout || wanted.stderr) {
            return Err(ApiError::bad_request(
                "you must specify at least 1 of stdin, stdout, stderr",
            ));
        }
        let value = pod.value();
        let name = container_name(&value, pod.name(), query.text("container"))?;
        let (id, attempt) = running(&value, pod.name(), &name)?;
        let paths = self.pod_paths(pod);
        let exec = target.subresource.as_deref() == Some("exec");
        let call = if exec {
            let command: Vec<&str> = query.all("command").collect();
            if command.is_empty() {
                return Err(ApiError::bad_request(
                    "command: Required value: you must specify at least one command for the container",
                ));
            }
            let config = paths.bundle(&name, attempt).join("config.json");
            Call::Open(Open {
                container: id,
                process: process(&config, &command, tty)?,
                wanted,
            })
        } else {
            let has = |field: &str| container(&value, &name).is_some_and(|c| c[field] == true);
            if wanted.stdin && !has("stdin") {
                return Err(ApiError::bad_request(format!(
                    "container {name} has no stdin to attach to: set stdin: true in the pod"
                )));
            }
            // The container was started with a terminal or without one, whatever the client asks for, as kubelet has it.
            let terminal = has("tty");
            Call::Attach(Attach {
                container: id,
                wanted: Streams {
                    stderr: wanted.stderr && !terminal,
                    terminal,
                    ..wanted
                },
            })
        };
        let resize = tty.then_some("resize");
        let names = [
            Some("error"),
            wanted.stdin.then_some("stdin"),
            wanted.stdout.then_some("stdout"),
            wanted.stderr.then_some("stderr"),
            resize,
        ];
        Ok(Work::Program {
            dir: paths.run,
            call,
            exec,
            streams: names.into_iter().flatten().collect(),
        })
    }

    fn forwarding(&self, pod: &Object) -> Result<Work, ApiError> {
        let value = pod.value();
        if value.pointer("/status/phase") != Some(&json!("Running")) {
            let phase = value
                .pointer("/status/phase")
                .and_then(Value::as_str)
                .unwrap_or("Pending");
            return Err(ApiError::bad_request(format!(
                "unable to forward port because pod is not running. Current status={phase}"
            )));
        }
        let host = value.pointer("/spec/hostNetwork") == Some(&json!(true));
        let netns = self.pod_paths(pod).netns;
        Ok(Work::Forward {
            netns: (!host).then_some(netns),
        })
    }

    fn pod_paths(&self, pod: &Object) -> PodPaths {
        PodPaths::new(
            &self.run_dir,
            &self.data_dir,
            pod.namespace(),
            pod.name(),
            pod.uid(),
        )
    }
}

/// What a stream is for.
enum Work {
    Program {
        dir: std::path::PathBuf,
        call: Call,
        exec: bool,
        /// The SPDY streams that the client opens.
        streams: Vec<&'static str>,
    },
    Forward {
        netns: Option<std::path::PathBuf>,
    },
}

impl Work {
    async fn serve(self, io: TokioIo<hyper::upgrade::Upgraded>, protocol: &Protocol) {
        match (self, protocol) {
            (
                Work::Program {
                    dir,
                    call,
                    exec,
                    streams,
                },
                protocol,
            ) => {
                let (to_program, input) = mpsc::channel(program::WAITING);
                let (output, from_program) = mpsc::channel(program::WAITING);
                let running = program::run(dir, call, exec, program::Client { input, output });
                match protocol {
                    Protocol::Spdy(_) => {
                        let serving = multiplex::serve(io, &streams, to_program, from_program);
                        tokio::join!(running, serving);
                    }
                    Protocol::WebSocket { .. } => {
                        tokio::join!(running, channels::serve(io, to_program, from_program));
                    }
                }
            }
            (Work::Forward { netns }, Protocol::Spdy(_)) => forward::serve(io, netns).await,
            (Work::Forward { netns }, Protocol::WebSocket { .. }) => {
                let (inner, outer) = tokio::io::duplex(tunnel::WAITING);
                tokio::select! {
                    () = tunnel::serve(io, outer) => {}
                    () = forward::serve(inner, netns) => {}
                }
            }
        }
    }
}

/// Chooses the protocol by the request's headers.
fn negotiate(headers: &HeaderMap, forward: bool) -> Result<Protocol, ApiError> {
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
    };
    let upgrade = text("upgrade").to_ascii_lowercase();
    let offered = |name: &str| -> Vec<String> {
        headers
            .get_all(name)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .map(|v| v.trim().to_owned())
            .collect()
    };
    let choose = |known: &[&'static str], offered: &[String]| {
        let found = known.iter().find(|k| offered.iter().any(|o| o == *k)).copied();
        found.ok_or_else(|| {
            ApiError::bad_request(format!(
                "unable to upgrade: none of the protocols that the client offers ({}) is served ({})",
                offered.join(", "),
                known.join(", ")
            ))
        })
    };
    if upgrade == "spdy/3.1" {
        let offered = offered("x-stream-protocol-version");
        // Version 5 adds the closing of channels, which SPDY has by itself.
        let known: &[&str] = if forward { &PORT_FORWARD } else { &CHANNELS[1..] };
        return choose(known, &offered).map(Protocol::Spdy);
    }
    if upgrade == "websocket" {
        let key = text("sec-websocket-key");
        if text("sec-websocket-version") != "13" || key.is_empty() {
            return Err(ApiError::bad_request(
                "the WebSocket handshake needs Sec-WebSocket-Version: 13 and a Sec-WebSocket-Key",
            ));
        }
        let known: &[&str] = if forward { &TUNNEL } else { &CHANNELS };
        return Ok(Protocol::WebSocket {
            protocol: choose(known, &offered("sec-websocket-protocol"))?,
            accept: websocket::accept(key),
        });
    }
    Err(ApiError::bad_request(
        "Upgrade request required: send Upgrade: websocket or Upgrade: SPDY/3.1",
    ))
}

/// The answer that switches protocols.
fn accept(protocol: &Protocol) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    match protocol {
        Protocol::Spdy(version) => {
            headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
            headers.insert("x-stream-protocol-version", HeaderValue::from_static(version));
        }
        Protocol::WebSocket { protocol, accept } => {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
            if let Ok(accept) = HeaderValue::from_str(accept) {
                headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
            }
        }
    }
    response
}

/// A container's specification.
fn container<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    ["containers", "initContainers", "ephemeralContainers"]
        .iter()
        .filter_map(|list| pod.pointer(&format!("/spec/{list}"))?.as_array())
        .flatten()
        .find(|c| c["name"] == name)
}

/// The container that is meant: the one that is named, or the only one.
fn container_name(pod: &Value, pod_name: &str, named: Option<&str>) -> Result<String, ApiError> {
    let all: Vec<&str> = pod
        .pointer("/spec/containers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|c| c["name"].as_str())
        .collect();
    match (named, all.as_slice()) {
        (Some(name), _) if container(pod, name).is_some() => Ok(name.to_owned()),
        (Some(name), _) => Err(ApiError::bad_request(format!(
            "container {name} is not valid for pod {pod_name}"
        ))),
        (None, [one]) => Ok((*one).to_owned()),
        (None, _) => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {pod_name}, choose one of: [{}]",
            all.join(" ")
        ))),
    }
}

/// Id and number of the run of a container that runs.
fn running(pod: &Value, pod_name: &str, name: &str) -> Result<(String, u32), ApiError> {
    let phase = pod
        .pointer("/status/phase")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        return Err(ApiError::bad_request(format!(
            "cannot exec into or attach to a container in a completed pod; current phase is {phase}"
        )));
    }
    let status = [
        "containerStatuses",
        "initContainerStatuses",
        "ephemeralContainerStatuses",
    ]
    .iter()
    .filter_map(|list| pod.pointer(&format!("/status/{list}"))?.as_array())
    .flatten()
    .find(|s| s["name"] == name);
    let found = status.and_then(|status| {
        status.pointer("/state/running")?;
        let id = status["containerID"].as_str()?.rsplit("://").next()?;
        let attempt = u32::try_from(status["restartCount"].as_u64().unwrap_or(0)).ok()?;
        Some((id.to_owned(), attempt))
    });
    found.ok_or_else(|| {
        let reason = status
            .and_then(|s| s.pointer("/state/waiting/reason"))
            .and_then(Value::as_str)
            .map(|reason| format!(": {reason}"))
            .unwrap_or_default();
        ApiError::bad_request(format!("container {name} in pod {pod_name} does not run{reason}"))
    })
}

/// The OCI process of a command: the container's own, with other arguments.
fn process(config: &std::path::Path, command: &[&str], tty: bool) -> Result<Value, ApiError> {
    let unreadable = |why: String| ApiError::internal(format!("read the container's configuration: {why}"));
    let text = std::fs::read(config).map_err(|e| unreadable(e.to_string()))?;
    let mut config: Value = serde_json::from_slice(&text).map_err(|e| unreadable(e.to_string()))?;
    let mut process = config["process"].take();
    process["args"] = json!(command);
    process["terminal"] = json!(tty);
    if tty
        && let Some(env) = process["env"].as_array_mut()
        && !env
            .iter()
            .any(|v| v.as_str().is_some_and(|v| v.starts_with("TERM=")))
    {
        env.push(json!("TERM=xterm"));
    }
    Ok(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_chosen_by_headers() {
        let chosen = |forward: bool, list: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in list {
                headers.append(*name, value.parse().unwrap());
            }
            negotiate(&headers, forward).map(|protocol| match protocol {
                Protocol::Spdy(version) => version,
                Protocol::WebSocket { protocol, .. } => protocol,
            })
        };
        let socket = |protocols| {
            [
                ("upgrade", "websocket"),
                ("sec-websocket-version", "13"),
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
                ("sec-websocket-protocol", protocols),
            ]
        };
        assert_eq!(
            chosen(false, &socket("v4.channel.k8s.io, v5.channel.k8s.io")).unwrap(),
            "v5.channel.k8s.io"
        );
        assert_eq!(
            chosen(true, &socket("SPDY/3.1+portforward.k8s.io")).unwrap(),
            "SPDY/3.1+portforward.k8s.io"
        );
        let spdy = [
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
            ("x-stream-protocol-version", "channel.k8s.io"),
        ];
        assert_eq!(chosen(false, &spdy).unwrap(), "v4.channel.k8s.io");
        let refused = chosen(true, &socket("chat")).unwrap_err();
        assert!(refused.message.contains("chat"), "{}", refused.message);
        assert!(chosen(false, &[]).unwrap_err().message.contains("Upgrade"));
        assert!(chosen(false, &[("upgrade", "websocket")]).is_err());
    }

    #[test]
    fn containers_are_found_or_named() {
        let pod = json!({
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]},
            "status": {"phase": "Running", "containerStatuses": [
                {"name": "a", "containerID": "berth://u-a-2", "restartCount": 2, "state": {"running": {}}},
                {"name": "b", "restartCount": 0, "state": {"waiting": {"reason": "ErrImageNeverPull"}}},
            ]},
        });
        assert_eq!(running(&pod, "p", "a").unwrap(), ("u-a-2".to_owned(), 2));
        assert!(
            running(&pod, "p", "b")
                .unwrap_err()
                .message
                .contains("ErrImageNeverPull")
        );
        assert!(
            container_name(&pod, "p", None)
                .unwrap_err()
                .message
                .contains("[a b]")
        );
        assert!(container_name(&pod, "p", Some("c")).is_err());
        assert_eq!(container_name(&pod, "p", Some("i")).unwrap(), "i");
    }
}
