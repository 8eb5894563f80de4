//! A program's streams, between the monitor and whatever protocol the client speaks.

use std::time::Duration;

use berth_api::status::ApiError;
use berth_client::protocol::Call;
use berth_sys::terminal::WindowSize;
use bytes::Bytes;
use serde_json::{Value, json};
use std::path::PathBuf;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::node::streams::{Control, End, Session, Watcher};

/// Bytes read from a program at a time.
const PIECE: usize = 16 << 10;
/// How long nothing may be said either way, as kubelet has it.
pub const IDLE: Duration = Duration::from_hours(4);
/// Pieces that wait between a program and its client, each way.
pub const WAITING: usize = 4;

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// For the program's stdin.
    Stdin(Bytes),
    /// The end of the stdin.
    Close,
    /// The client's terminal has another size.
    Resize(WindowSize),
}

/// What the client is told.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// From the program's stdout.
    Stdout(Bytes),
    /// From its stderr.
    Stderr(Bytes),
    /// The last word: a `Status` that carries the exit code.
    Status(Value),
}

/// The client's messages and the way back to it. It is gone when the receiver is empty and closed.
pub struct Client {
    pub input: mpsc::Receiver<Input>,
    pub output: mpsc::Sender<Output>,
}

/// Opens a program's streams and moves bytes until the program has ended or the client is gone. `code_counts`: the
/// program's exit code is the client's; one who is attached only looks on.
pub async fn run(dir: PathBuf, call: Call, code_counts: bool, mut client: Client) {
    let session = match Session::open(&dir, call).await {
        Ok(session) => session,
        Err(error) => {
            let failure = ApiError::internal(format!("error executing command in container: {error}"));
            // A client that is gone needs no answer.
            let _ = client.output.send(Output::Status(failure.to_value())).await;
            return;
        }
    };
    if let Some(status) = pump(session, &mut client, code_counts).await {
        let _ = client.output.send(Output::Status(status)).await;
    }
}

/// Moves bytes; the last word, unless the client is gone.
async fn pump(session: Session, client: &mut Client, code_counts: bool) -> Option<Value> {
    let Session {
        stdin,
        stdout,
        stderr,
        monitor,
        control,
        terminal: _,
    } = session;
    let (mark, marks) = watch::channel(Instant::now());
    let (over, is_over) = watch::channel(false);
    let output = client.output.clone();
    let outputs = async {
        tokio::join!(
            copy(stdout.as_ref(), &output, Output::Stdout, is_over.clone(), &mark),
            copy(stderr.as_ref(), &output, Output::Stderr, is_over.clone(), &mark),
        )
    };
    let inputs = feed(&mut client.input, stdin, stdout.as_ref(), control, &mark);
    tokio::pin!(outputs, inputs);
    let ended = ended(monitor);
    tokio::pin!(ended);
    let mut outputs_done = false;
    let code = loop {
        tokio::select! {
            code = &mut ended => break code,
            _ = &mut outputs, if !outputs_done => outputs_done = true,
            () = &mut inputs => return None,
            () = output.closed() => return None,
            () = idle(marks.clone()) => {
                return Some(ApiError::internal("nothing was said for four hours: the stream is closed".to_owned()).to_value());
            }
        }
    };
    // Everything that the program wrote is in the pipes now.
    let _ = over.send(true);
    if !outputs_done {
        tokio::select! {
            _ = &mut outputs => {}
            () = output.closed() => return None,
        }
    }
    Some(match code {
        Some(code) if code_counts => exit_status(code),
        Some(_) => success(),
        None => ApiError::internal("the container's monitor has gone away".to_owned()).to_value(),
    })
}

async fn ended(mut monitor: Watcher) -> Option<i32> {
    monitor.ended().await
}

/// Returns when nothing has been said for too long.
async fn idle(marks: watch::Receiver<Instant>) {
    loop {
        let end = *marks.borrow() + IDLE;
        if end <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(end).await;
    }
}

/// Copies output to the client until its end; after the program's end, until there is no more.
async fn copy(
    from: Option<&End>,
    to: &mpsc::Sender<Output>,
    wrap: fn(Bytes) -> Output,
    mut over: watch::Receiver<bool>,
    mark: &watch::Sender<Instant>,
) {
    let Some(from) = from else { return };
    let mut buffer = vec![0; PIECE];
    let mut last = false;
    loop {
        let length = if last {
            from.try_read(&mut buffer).ok().flatten()
        } else {
            tokio::select! {
                biased;
                read = from.read(&mut buffer) => read.ok(),
                _ = over.wait_for(|over| *over) => {
                    last = true;
                    continue;
                }
            }
        };
        let Some(length) = length.filter(|n| *n > 0) else {
            return;
        };
        mark.send_replace(Instant::now());
        let piece = Bytes::copy_from_slice(&buffer[..length]);
        if to.send(wrap(piece)).await.is_err() {
            return;
        }
    }
}

/// Hands the client's input on, until the client is gone.
async fn feed(
    from: &mut mpsc::Receiver<Input>,
    mut stdin: Option<End>,
    terminal: Option<&End>,
    mut control: Control,
    mark: &watch::Sender<Instant>,
) {
    let mut open = true;
    while let Some(input) = from.recv().await {
        mark.send_replace(Instant::now());
        match input {
            Input::Stdin(bytes) => {
                if let Some(end) = stdin.as_ref().filter(|_| open)
                    && end.write_all(&bytes).await.is_err()
                {
                    // The program reads no more: what still comes is for nobody.
                    open = false;
                }
            }
            Input::Close => {
                open = false;
                // A terminal stays: its size may still change.
                if stdin.as_ref().is_some_and(|end| !end.is_terminal()) {
                    stdin = None;
                }
                control.close_input().await;
            }
            Input::Resize(size) => {
                if let Some(end) = stdin.as_ref().or(terminal) {
                    // A stream that is no terminal has no size.
                    let _ = end.resize(size);
                }
            }
        }
    }
}

fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
}

/// The `Status` for an exit code, as clients read it (`k8s.io/apimachinery`, `remotecommand.NonZeroExitCodeReason`).
fn exit_status(code: i32) -> Value {
    if code == 0 {
        return success();
    }
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}
