//! Liveness, readiness and startup probes, and the HTTP, gRPC and TCP parts of lifecycle hooks.
//!
//! One task a probe; it reports verdicts only when they change. The thresholds are in [`Tally`], PURE.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use berth_client::protocol::Exec;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::monitor::Link;
use super::{grpc, tls};

/// Bytes of a program's output or an HTTP body that are kept for the event (kubelet's limit).
const OUTPUT_LIMIT: usize = 10 << 10;
/// Letters of the answer to an HTTP probe that an event shows.
const SHOWN: usize = 200;
/// How long more of a bad answer is waited for.
const REST: Duration = Duration::from_millis(50);
/// First pause between two tries of a container that is not ready yet; it doubles up to the period.
const EAGER_FIRST: Duration = Duration::from_millis(50);

/// Which probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Failing it gets the container replaced.
    Liveness,
    /// Failing it takes the container out of service.
    Readiness,
    /// Until it succeeds the others do not run; failing it gets the container replaced.
    Startup,
}

impl Kind {
    /// As kubelet writes it in events.
    pub fn title(self) -> &'static str {
        match self {
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
            Kind::Startup => "Startup",
        }
    }

    /// The probe of that kind in a container's specification.
    pub fn of(self, container: &api::Container) -> Option<&api::Probe> {
        match self {
            Kind::Liveness => container.liveness_probe.as_ref(),
            Kind::Readiness => container.readiness_probe.as_ref(),
            Kind::Startup => container.startup_probe.as_ref(),
        }
    }
}

/// Results in a row, against the thresholds.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    successes: i32,
    failures: i32,
}

impl Tally {
    /// Counts one result; gives the verdict when a threshold is reached.
    pub fn count(&mut self, ok: bool, success_threshold: i32, failure_threshold: i32) -> Option<bool> {
        if ok {
            self.successes = self.successes.saturating_add(1);
            self.failures = 0;
            (self.successes >= success_threshold).then_some(true)
        } else {
            self.failures = self.failures.saturating_add(1);
            self.successes = 0;
            (self.failures >= failure_threshold).then_some(false)
        }
    }
}

/// Where a container can be reached.
#[derive(Debug, Clone)]
pub struct Target {
    /// Connection to the pod's monitor.
    pub link: Link,
    /// Id of the container.
    pub container: String,
    /// Its bundle: programs run with the container's own settings.
    pub bundle: PathBuf,
    /// Address of the pod.
    pub ip: String,
    /// The container's specification, for names of ports.
    pub spec: Arc<api::Container>,
}

/// The outcome of one try.
pub type Outcome = Result<(), String>;

/// What a probe's task reports.
#[derive(Debug)]
pub enum Report {
    /// A try failed; the text is for the event.
    Failed(String),
    /// The verdict has changed; with the last text.
    Verdict(bool, String),
}

/// Runs one probe for ever. `running_since` is the container's start; `verdict` what was last known of
/// it (after a restart of `berthd`).
pub async fn run(
    kind: Kind,
    probe: api::Probe,
    target: Target,
    running_since: Timestamp,
    mut verdict: Option<bool>,
    report: impl Fn(Report) + Send,
) {
    let seconds = |value: Option<i32>, default: i32| value.filter(|v| *v > 0).unwrap_or(default);
    let period = Duration::from_secs(seconds(probe.period_seconds, 10) as u64);
    let timeout = Duration::from_secs(seconds(probe.timeout_seconds, 1) as u64);
    let (success, failure) = (
        seconds(probe.success_threshold, 1),
        seconds(probe.failure_threshold, 3),
    );
    let delay = Duration::from_secs(probe.initial_delay_seconds.unwrap_or(0).max(0) as u64);
    let age = Duration::try_from(Timestamp::now().duration_since(running_since)).unwrap_or_default();
    tokio::time::sleep(delay.saturating_sub(age)).await;
    let mut tally = Tally::default();
    let mut eager = EAGER_FIRST;
    let begun = tokio::time::Instant::now();
    loop {
        let next = tokio::time::Instant::now() + period;
        let outcome = attempt(&probe, &target, timeout).await;
        let ok = outcome.is_ok();
        // Within the first period a container that comes up is asked more often than once: it is in
        // service as soon as it can be. These tries say nothing about failure.
        let hopeful = !ok && kind != Kind::Liveness && verdict != Some(true) && begun.elapsed() < period;
        if hopeful {
            tokio::time::sleep(eager.min(period)).await;
            eager = (eager * 2).min(Duration::from_secs(1)).min(period);
            continue;
        }
        let text = outcome.err().unwrap_or_default();
        if !ok {
            report(Report::Failed(text.clone()));
        }
        if let Some(now) = tally.count(ok, success, failure)
            && verdict != Some(now)
        {
            verdict = Some(now);
            report(Report::Verdict(now, text));
        }
        tokio::time::sleep_until(next).await;
    }
}

/// One try with its time limit. Why it failed says how long that took.
async fn attempt(probe: &api::Probe, target: &Target, timeout: Duration) -> Outcome {
    let begun = tokio::time::Instant::now();
    let outcome = try_once(probe, target, timeout).await;
    outcome.map_err(|text| match within(begun.elapsed(), timeout) {
        Some(time) => format!("{text} (within {time})"),
        // The text says so itself.
        None => text,
    })
}

/// A round time that something took at most, so that equal failures have equal texts and are counted as one event; None
/// for what took all the time that it had.
fn within(taken: Duration, timeout: Duration) -> Option<String> {
    if taken >= timeout {
        return None;
    }
    let rounded = [1, 10, 100, 1000].map(Duration::from_millis);
    Some(match rounded.into_iter().find(|bound| taken <= *bound) {
        Some(bound) if bound.as_secs() == 0 => format!("{} ms", bound.as_millis()),
        _ => format!("{} s", taken.as_secs_f64().ceil()),
    })
}

async fn try_once(probe: &api::Probe, target: &Target, timeout: Duration) -> Outcome {
    if let Some(action) = &probe.exec {
        return exec(action.command.as_deref().unwrap_or_default(), target, timeout).await;
    }
    let network = async {
        if let Some(action) = &probe.http_get {
            http(action, target).await
        } else if let Some(action) = &probe.tcp_socket {
            let host = action
                .host
                .as_deref()
                .filter(|h| !h.is_empty())
                .unwrap_or(&target.ip);
            connect(host, port(&action.port, &target.spec)?).await.map(drop)
        } else if let Some(action) = &probe.grpc {
            grpc(action, target).await
        } else {
            Err("the probe has no action that this node serves".to_owned())
        }
    };
    match tokio::time::timeout(timeout, network).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("no answer within {}s", timeout.as_secs())),
    }
}

/// Runs a lifecycle hook.
pub async fn hook(handler: &api::LifecycleHandler, target: &Target, timeout: Duration) -> Outcome {
    if let Some(action) = &handler.exec {
        exec(action.command.as_deref().unwrap_or_default(), target, timeout).await
    } else if let Some(action) = &handler.http_get {
        tokio::time::timeout(timeout, http(action, target))
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {}s", timeout.as_secs())))
    } else if let Some(action) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(action.seconds.max(0) as u64).min(timeout)).await;
        Ok(())
    } else {
        Err("the hook has no action that this node serves".to_owned())
    }
}

/// Runs a program in the container, with the container's own user, environment and capabilities.
async fn exec(command: &[String], target: &Target, timeout: Duration) -> Outcome {
    let config = tokio::fs::read(target.bundle.join("config.json"))
        .await
        .map_err(|error| format!("read the container's configuration: {error}"))?;
    let mut config: Value = serde_json::from_slice(&config).map_err(|error| error.to_string())?;
    let mut process = config["process"].take();
    process["args"] = json!(command);
    process["terminal"] = json!(false);
    let call = Exec {
        container: target.container.clone(),
        process,
        timeout_ms: timeout.as_millis() as u64,
        output_limit: OUTPUT_LIMIT,
    };
    match target.link.exec(call).await {
        Ok(result) if result.timed_out => Err(format!(
            "command {command:?} timed out after {}s: {}",
            timeout.as_secs(),
            result.output
        )),
        Ok(result) if result.exit_code == 0 => Ok(()),
        Ok(result) => Err(format!(
            "command exited with {}: {}",
            result.exit_code,
            result.output.trim_end()
        )),
        Err(error) => Err(error.to_string()),
    }
}

/// The number of a port that is given by number or name.
fn port(port: &IntOrString, container: &api::Container) -> Result<u16, String> {
    let (number, text) = match port {
        IntOrString::Int(number) => (Some(*number), number.to_string()),
        IntOrString::String(name) => {
            let named = container
                .ports
                .iter()
                .flatten()
                .find(|p| p.name.as_deref() == Some(name));
            (
                named.map(|p| p.container_port).or_else(|| name.parse().ok()),
                name.clone(),
            )
        }
    };
    let number = number.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
    number.ok_or_else(|| format!("port {text:?} is neither a number nor the name of a port of the container"))
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((host, port))
        .await
        .map_err(|error| format!("dial tcp {host}:{port}: {error}"))
}

async fn grpc(action: &api::GRPCAction, target: &Target) -> Outcome {
    let port = port(&IntOrString::Int(action.port), &target.spec)?;
    let stream = connect(&target.ip, port).await?;
    let authority = format!("{}:{port}", bracketed(&target.ip));
    let service = action.service.as_deref().unwrap_or_default();
    if action.mode.as_deref() == Some("TLS") {
        let stream = tls::connect(stream, &target.ip, Some(b"h2")).await?;
        grpc::check(stream, &authority, service).await
    } else {
        grpc::check(stream, &authority, service).await
    }
}

/// A host as it stands in a URL.
fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

async fn http(action: &api::HTTPGetAction, target: &Target) -> Outcome {
    let host = action
        .host
        .as_deref()
        .filter(|h| !h.is_empty())
        .unwrap_or(&target.ip);
    let port = port(&action.port, &target.spec)?;
    let path = action.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    if path.contains(['\r', '\n', ' ']) {
        return Err(format!("path {path:?} has a space or a line break"));
    }
    let mut headers = String::new();
    let mut own_host = None;
    for header in action.http_headers.iter().flatten() {
        if header.name.contains(['\r', '\n', ':']) || header.value.contains(['\r', '\n']) {
            return Err(format!("header {:?} has a line break", header.name));
        }
        if header.name.eq_ignore_ascii_case("host") {
            own_host = Some(header.value.clone());
        } else {
            let _ = write!(headers, "{}: {}\r\n", header.name, header.value);
        }
    }
    let host_header = own_host.unwrap_or_else(|| format!("{}:{port}", bracketed(host)));
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: {host_header}\r\nConnection: close\r\n{headers}");
    for (name, value) in [("User-Agent", "kube-probe/1.37"), ("Accept", "*/*")] {
        if !headers
            .to_ascii_lowercase()
            .contains(&format!("{}:", name.to_ascii_lowercase()))
        {
            let _ = write!(request, "{name}: {value}\r\n");
        }
    }
    request.push_str("\r\n");
    let stream = connect(host, port).await?;
    let https = action
        .scheme
        .as_deref()
        .is_some_and(|s| s.eq_ignore_ascii_case("https"));
    let (code, answer) = if https {
        exchange(tls::connect(stream, host, None).await?, &request).await?
    } else {
        exchange(stream, &request).await?
    };
    if is_good(code) {
        Ok(())
    } else if answer.is_empty() {
        Err(format!("HTTP probe failed with statuscode: {code}"))
    } else {
        Err(format!("HTTP probe failed with statuscode: {code}: {answer}"))
    }
}

fn is_good(code: u16) -> bool {
    (200..400).contains(&code)
}

/// Sends the request and reads the status code, and of a bad answer what it says.
async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
) -> Result<(u16, String), String> {
    stream
        .write_all(request.as_bytes())
        .await
        .map_err(|error| format!("send the request: {error}"))?;
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while head.len() < OUTPUT_LIMIT && !head.windows(2).any(|pair| pair == b"\r\n") {
        match stream.read(&mut buffer).await {
            Ok(0) => break,
            Ok(length) => head.extend_from_slice(&buffer[..length]),
            Err(error) => return Err(format!("read the answer: {error}")),
        }
    }
    let text = String::from_utf8_lossy(&head);
    let line = text.lines().next().unwrap_or_default();
    let mut words = line.split(' ');
    match (words.next(), words.next().and_then(|code| code.parse().ok())) {
        (Some(version), Some(code)) if version.starts_with("HTTP/1.") => {
            let said = if is_good(code) {
                String::new()
            } else {
                said(stream, head).await
            };
            Ok((code, said))
        }
        _ => Err(format!(
            "the answer is not HTTP: {:?}",
            line.chars().take(60).collect::<String>()
        )),
    }
}

/// The first line of an answer's body, of which `text` has come already. Who does not close the connection is not waited
/// for long.
async fn said(mut stream: impl AsyncRead + Unpin, mut text: Vec<u8>) -> String {
    let mut buffer = [0; 1024];
    while text.len() < OUTPUT_LIMIT {
        match tokio::time::timeout(REST, stream.read(&mut buffer)).await {
            Ok(Ok(length)) if length > 0 => text.extend_from_slice(&buffer[..length]),
            _ => break,
        }
    }
    let text = String::from_utf8_lossy(&text);
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let line = body.lines().map(str::trim).find(|line| !line.is_empty());
    line.unwrap_or_default().chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds() {
        let mut tally = Tally::default();
        let results = [false, false, true, false, false, false, true, true];
        let verdicts: Vec<Option<bool>> = results.iter().map(|ok| tally.count(*ok, 2, 3)).collect();
        assert_eq!(
            verdicts,
            [None, None, None, None, None, Some(false), None, Some(true)]
        );
    }

    #[test]
    fn ports_by_name() {
        let container: api::Container = serde_json::from_value(json!({
            "name": "c", "ports": [{"name": "web", "containerPort": 8080}],
        }))
        .unwrap();
        assert_eq!(port(&IntOrString::String("web".into()), &container), Ok(8080));
        assert_eq!(port(&IntOrString::Int(90), &container), Ok(90));
        assert!(port(&IntOrString::String("nope".into()), &container).is_err());
        assert!(port(&IntOrString::Int(70000), &container).is_err());
    }

    #[test]
    fn times_are_round() {
        let second = Duration::from_secs(5);
        for (taken, want) in [
            (1, Some("1 ms")),
            (9, Some("10 ms")),
            (70, Some("100 ms")),
            (500, Some("1 s")),
            (2100, Some("3 s")),
            (5000, None),
        ] {
            assert_eq!(
                within(Duration::from_millis(taken), second).as_deref(),
                want,
                "{taken}"
            );
        }
    }

    #[tokio::test]
    async fn http_answers_are_judged() {
        for (answer, want) in [
            ("HTTP/1.1 200 OK\r\n\r\nfine", Ok((200, String::new()))),
            ("HTTP/1.0 503 Busy\r\nX: y\r\n\r\n", Ok((503, String::new()))),
            (
                "HTTP/1.0 500 Bad\r\nX: y\r\n\r\n\n no database \nmore",
                Ok((500, "no database".to_owned())),
            ),
            ("SSH-2.0-x\r\n", Err(())),
            ("", Err(())),
        ] {
            let (ours, mut theirs) = tokio::io::duplex(1024);
            theirs.write_all(answer.as_bytes()).await.unwrap();
            theirs.shutdown().await.unwrap();
            assert_eq!(
                exchange(ours, "GET / HTTP/1.1\r\n\r\n").await.map_err(drop),
                want,
                "{answer}"
            );
        }
    }
}
