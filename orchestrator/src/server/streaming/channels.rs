//! The streams of exec and attach as numbered channels in WebSocket messages (`v5.channel.k8s.io` and before).
//!
//! ```text
//! message   channel: u8 │ bytes        0 stdin, 1 stdout, 2 stderr, 3 the final Status, 4 the terminal's size
//! v5        255 │ channel              no more will come on that channel
//! ```

use std::time::Duration;

use berth_sys::terminal::WindowSize;
use bytes::{Buf, Bytes};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::program::{Input, Output};
use super::websocket::{self, Decoder, Frame};

/// Time between two questions whether the client is there.
pub const PING: Duration = Duration::from_secs(30);
/// Time for the client to close after the last word.
pub const FAREWELL: Duration = Duration::from_secs(5);
/// Channel of the message that ends another one.
const CLOSE: u8 = 255;

/// What clients send when their terminal changes (`remotecommand.TerminalSize`).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// Reads a change of a terminal's size.
pub fn size(bytes: &[u8]) -> Option<WindowSize> {
    let size: Size = serde_json::from_slice(bytes).ok()?;
    Some(WindowSize {
        rows: size.height,
        columns: size.width,
    })
}

/// A message of the client; None for one that means nothing.
fn input(mut message: Bytes) -> Option<Input> {
    let channel = message.try_get_u8().ok()?;
    match channel {
        0 => Some(Input::Stdin(message)),
        4 => size(&message).map(Input::Resize),
        CLOSE if message.as_ref() == [0] => Some(Input::Close),
        _ => None,
    }
}

fn output(output: &Output) -> Bytes {
    match output {
        Output::Stdout(bytes) => websocket::message(&[&[1], bytes]),
        Output::Stderr(bytes) => websocket::message(&[&[2], bytes]),
        Output::Status(status) => websocket::message(&[&[3], status.to_string().as_bytes()]),
    }
}

/// Serves a connection until the client is gone or has had the last word.
pub async fn serve(
    io: impl AsyncRead + AsyncWrite,
    to_program: mpsc::Sender<Input>,
    mut from_program: mpsc::Receiver<Output>,
) {
    let (mut reader, mut writer) = tokio::io::split(io);
    let (control, mut controls) = mpsc::channel::<Bytes>(4);
    let reading = async {
        let mut decoder = Decoder::default();
        loop {
            match decoder.next_frame() {
                Ok(Some(Frame::Message(message))) => {
                    if let Some(input) = input(message) {
                        // Nobody takes input after the program's end, and the last word is still to be heard.
                        let _ = to_program.send(input).await;
                    }
                }
                Ok(Some(Frame::Ping(bytes))) => {
                    let _ = control.send(websocket::pong(&bytes)).await;
                }
                Ok(Some(Frame::Pong)) => {}
                Ok(Some(Frame::Close)) | Err(_) => return,
                Ok(None) => match reader.read_buf(decoder.buffer()).await {
                    Ok(length) if length > 0 => {}
                    _ => return,
                },
            }
        }
    };
    let writing = async {
        loop {
            let (frame, last) = tokio::select! {
                Some(frame) = controls.recv() => (frame, false),
                said = from_program.recv() => match said {
                    Some(said) => (output(&said), matches!(said, Output::Status(_))),
                    None => break,
                },
                () = tokio::time::sleep(PING) => (websocket::ping(), false),
            };
            if writer.write_all(&frame).await.is_err() || writer.flush().await.is_err() {
                return;
            }
            if last {
                break;
            }
        }
        let _ = writer.write_all(&websocket::close(1000)).await;
        let _ = writer.flush().await;
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_clients() {
        let read = |bytes: &'static [u8]| input(Bytes::from_static(bytes));
        assert_eq!(read(b"\0ls\n"), Some(Input::Stdin(Bytes::from_static(b"ls\n"))));
        let size = WindowSize {
            rows: 50,
            columns: 132,
        };
        assert_eq!(
            read(b"\x04{\"Width\":132,\"Height\":50}"),
            Some(Input::Resize(size))
        );
        assert_eq!(read(&[255, 0]), Some(Input::Close));
        for meaningless in [
            &b""[..],
            b"\x04{}",
            b"\x04{\"Width\":-1,\"Height\":70000}",
            &[255, 1],
            b"\x09x",
        ] {
            assert_eq!(read(meaningless), None);
        }
    }

    #[tokio::test]
    async fn the_last_word_comes_last_and_a_client_that_goes_is_noticed() {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (to_program, mut inputs) = mpsc::channel(4);
        let (program, from_program) = mpsc::channel(4);
        let serving = tokio::spawn(serve(ours, to_program, from_program));
        program
            .send(Output::Stdout(Bytes::from_static(b"out")))
            .await
            .unwrap();
        program.send(Output::Status(serde_json::json!({}))).await.unwrap();
        let (mut reader, writer) = tokio::io::split(theirs);
        let mut seen = vec![0; 15];
        reader.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, b"\x82\x04\x01out\x82\x03\x03{}\x88\x02\x03\xe8");
        drop((reader, writer));
        serving.await.unwrap();
        assert_eq!(inputs.recv().await, None);
    }
}
