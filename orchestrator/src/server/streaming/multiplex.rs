//! The streams of exec and attach as SPDY streams: what kubectl up to 1.29 speaks.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::channels::{FAREWELL, PING, size};
use super::program::{Input, Output};
use super::spdy::{self, Decoder, Encoder, Frame};

/// Time for the client to open the streams that its query announces.
const OPENING: Duration = Duration::from_secs(30);
/// Pieces that a client may send before it has opened all streams.
const EARLY: usize = 16;

/// The streams by what they are for.
#[derive(Debug, Default)]
struct Streams {
    kinds: HashMap<u32, String>,
    early: Vec<Frame>,
}

impl Streams {
    fn id(&self, kind: &str) -> Option<u32> {
        self.kinds.iter().find(|(_, k)| *k == kind).map(|(id, _)| *id)
    }

    /// What a frame says to the program.
    fn input(&self, frame: &Frame) -> Vec<Input> {
        let Frame::Data { id, bytes, fin } = frame else {
            return Vec::new();
        };
        let mut said = Vec::new();
        match self.kinds.get(id).map(String::as_str) {
            Some("stdin") => {
                if !bytes.is_empty() {
                    said.push(Input::Stdin(bytes.clone()));
                }
                if *fin {
                    said.push(Input::Close);
                }
            }
            Some("resize") => {
                let lines = bytes.split(|byte| *byte == b'\n');
                said.extend(lines.filter_map(size).map(Input::Resize));
            }
            _ => {}
        }
        said
    }
}

/// Accepts the streams that the query announces; None if the client does not open them.
async fn accept(
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
    decoder: &mut Decoder,
    encoder: &mut Encoder,
    expected: &[&str],
) -> Option<Streams> {
    let mut streams = Streams::default();
    while !expected.iter().all(|kind| streams.id(kind).is_some()) {
        match decoder.next_frame().ok()? {
            Some(Frame::Open { id, headers, .. }) => {
                let kind = headers.iter().find(|(name, _)| name == "streamtype");
                let kind = kind.map(|(_, value)| value.as_str()).unwrap_or_default();
                let fresh = expected.contains(&kind) && streams.id(kind).is_none();
                let answer = if fresh { encoder.reply(id) } else { spdy::reset(id) };
                if fresh {
                    streams.kinds.insert(id, kind.to_owned());
                }
                writer.write_all(&answer).await.ok()?;
                writer.flush().await.ok()?;
            }
            Some(Frame::Ping { id }) => writer.write_all(&spdy::ping(id)).await.ok()?,
            Some(frame @ Frame::Data { .. }) if streams.early.len() < EARLY => streams.early.push(frame),
            Some(Frame::Data { .. }) => return None,
            Some(Frame::Reset { .. } | Frame::GoAway) => {}
            None => {
                if reader.read_buf(decoder.buffer()).await.ok()? == 0 {
                    return None;
                }
            }
        }
    }
    Some(streams)
}

/// Serves a connection until the client is gone or has had the last word.
pub async fn serve(
    io: impl AsyncRead + AsyncWrite,
    expected: &[&str],
    to_program: mpsc::Sender<Input>,
    mut from_program: mpsc::Receiver<Output>,
) {
    let (mut reader, mut writer) = tokio::io::split(io);
    let (mut decoder, mut encoder) = (Decoder::default(), Encoder::default());
    let accepting = accept(&mut reader, &mut writer, &mut decoder, &mut encoder, expected);
    let Ok(Some(streams)) = tokio::time::timeout(OPENING, accepting).await else {
        return;
    };
    let (control, mut controls) = mpsc::channel::<Bytes>(4);
    let reading = async {
        for frame in &streams.early {
            for input in streams.input(frame) {
                let _ = to_program.send(input).await;
            }
        }
        loop {
            match decoder.next_frame() {
                Ok(Some(Frame::Open { id, .. })) => {
                    let _ = control.send(spdy::reset(id)).await;
                }
                // The server's own questions have even numbers: their answers need none.
                Ok(Some(Frame::Ping { id })) if id % 2 == 1 => {
                    let _ = control.send(spdy::ping(id)).await;
                }
                Ok(Some(frame)) => {
                    for input in streams.input(&frame) {
                        // Nobody takes input after the program's end, and the last word is still to be heard.
                        let _ = to_program.send(input).await;
                    }
                }
                Err(_) => return,
                Ok(None) => match reader.read_buf(decoder.buffer()).await {
                    Ok(length) if length > 0 => {}
                    _ => return,
                },
            }
        }
    };
    let writing = async {
        let mut pings = 0;
        loop {
            let (frame, last) = tokio::select! {
                Some(frame) = controls.recv() => (frame, false),
                said = from_program.recv() => match said {
                    Some(said) => (frame(&streams, &said), matches!(said, Output::Status(_))),
                    None => return,
                },
                () = tokio::time::sleep(PING) => {
                    pings += 2;
                    (spdy::ping(pings), false)
                }
            };
            if writer.write_all(&frame).await.is_err() || writer.flush().await.is_err() {
                return;
            }
            if last {
                break;
            }
        }
        for kind in ["stdout", "stderr", "stdin", "resize"] {
            if let Some(id) = streams.id(kind) {
                let _ = writer.write_all(&spdy::data(id, b"", true)).await;
            }
        }
        let _ = writer.flush().await;
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
}

fn frame(streams: &Streams, said: &Output) -> Bytes {
    let (kind, bytes) = match said {
        Output::Stdout(bytes) => ("stdout", bytes.clone()),
        Output::Stderr(bytes) => ("stderr", bytes.clone()),
        Output::Status(status) => ("error", Bytes::from(status.to_string())),
    };
    match streams.id(kind) {
        Some(id) => spdy::data(id, &bytes, kind == "error"),
        None => Bytes::new(),
    }
}
