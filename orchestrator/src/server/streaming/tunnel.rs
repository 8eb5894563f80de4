//! A byte stream inside WebSocket messages: SPDY as kubectl from 1.31 sends it for port-forward.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

use super::channels::PING;
use super::websocket::{self, Decoder, Frame};

/// Bytes that wait inside the tunnel, each way.
pub const WAITING: usize = 64 << 10;

/// Moves the bytes of `inner` in binary messages over `io`, until one side ends.
pub async fn serve(io: impl AsyncRead + AsyncWrite, inner: DuplexStream) {
    let (mut reader, mut writer) = tokio::io::split(io);
    let (mut from_inner, mut to_inner) = tokio::io::split(inner);
    let (control, mut controls) = mpsc::channel::<Bytes>(4);
    let reading = async {
        let mut decoder = Decoder::default();
        loop {
            match decoder.next_frame() {
                Ok(Some(Frame::Message(bytes))) => {
                    if to_inner.write_all(&bytes).await.is_err() {
                        return;
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
        let mut buffer = vec![0; 16 << 10];
        loop {
            let (frame, last) = tokio::select! {
                Some(frame) = controls.recv() => (frame, false),
                length = from_inner.read(&mut buffer) => match length {
                    Ok(length) if length > 0 => (websocket::message(&[&buffer[..length]]), false),
                    _ => (websocket::close(1000), true),
                },
                () = tokio::time::sleep(PING) => (websocket::ping(), false),
            };
            if writer.write_all(&frame).await.is_err() || writer.flush().await.is_err() || last {
                return;
            }
        }
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
}
