//! WebSocket frames, the server's side (RFC 6455).
//!
//! Pure: bytes in, messages out, and back.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};

/// Bytes of one message: clients send at most some tens of KiB at a time.
const MESSAGE: usize = 1 << 20;
/// Bytes of a control frame (5.5).
const CONTROL: usize = 125;

/// What the other side says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A whole message, binary or text.
    Message(Bytes),
    /// To be answered by a pong with the same bytes.
    Ping(Bytes),
    /// The answer to a ping.
    Pong,
    /// The end.
    Close,
}

/// A frame that breaks the protocol; the connection is of no use afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A client must mask what it sends (5.1).
    #[error("a frame of a client is not masked")]
    Bare,
    /// Reserved bits, an unknown type, a piece without a beginning.
    #[error("a frame that is none of this protocol")]
    Kind,
    /// Longer than any that is needed.
    #[error("a message is longer than {MESSAGE} bytes")]
    Long,
}

/// Cuts what arrives into messages.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: BytesMut,
    /// The pieces of a message that is not complete.
    begun: Option<BytesMut>,
}

struct Head {
    fin: bool,
    kind: u8,
    mask: [u8; 4],
    start: usize,
    length: usize,
}

impl Decoder {
    /// Where to put what was read.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// The next message; None until more has been read.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            let Some(head) = self.head()? else { return Ok(None) };
            if self.bytes.len() < head.start + head.length {
                return Ok(None);
            }
            self.bytes.advance(head.start);
            let mut body = self.bytes.split_to(head.length);
            for (byte, key) in body.iter_mut().zip(head.mask.iter().cycle()) {
                *byte ^= key;
            }
            match head.kind {
                8 => return Ok(Some(Frame::Close)),
                9 => return Ok(Some(Frame::Ping(body.freeze()))),
                10 => return Ok(Some(Frame::Pong)),
                _ => {}
            }
            let message = match (head.kind, self.begun.take()) {
                (0, Some(mut begun)) => {
                    if begun.len() + body.len() > MESSAGE {
                        return Err(FrameError::Long);
                    }
                    begun.extend_from_slice(&body);
                    begun
                }
                (1 | 2, None) => body,
                _ => return Err(FrameError::Kind),
            };
            if head.fin {
                return Ok(Some(Frame::Message(message.freeze())));
            }
            self.begun = Some(message);
        }
    }

    fn head(&self) -> Result<Option<Head>, FrameError> {
        let Some(&[first, second]) = self.bytes.first_chunk::<2>() else {
            return Ok(None);
        };
        let (fin, kind) = (first & 0x80 != 0, first & 0x0f);
        if first & 0x70 != 0 || !matches!(kind, 0..=2 | 8..=10) || (kind >= 8 && !fin) {
            return Err(FrameError::Kind);
        }
        if second & 0x80 == 0 {
            return Err(FrameError::Bare);
        }
        let rest = &self.bytes[2..];
        let (length, start) = match second & 0x7f {
            126 => match rest.first_chunk::<2>() {
                Some(bytes) => (u64::from(u16::from_be_bytes(*bytes)), 4),
                None => return Ok(None),
            },
            127 => match rest.first_chunk::<8>() {
                Some(bytes) => (u64::from_be_bytes(*bytes), 10),
                None => return Ok(None),
            },
            short => (u64::from(short), 2),
        };
        let most = if kind >= 8 { CONTROL } else { MESSAGE };
        if length > most as u64 {
            return Err(FrameError::Long);
        }
        let Some(mask) = self.bytes.get(start..).and_then(<[u8]>::first_chunk) else {
            return Ok(None);
        };
        Ok(Some(Head {
            fin,
            kind,
            mask: *mask,
            start: start + 4,
            length: length as usize,
        }))
    }
}

fn frame(kind: u8, parts: &[&[u8]]) -> Bytes {
    let length: usize = parts.iter().map(|p| p.len()).sum();
    let mut out = Vec::with_capacity(length + 10);
    out.push(0x80 | kind);
    match length {
        0..126 => out.push(length as u8),
        126..65536 => {
            out.push(126);
            out.extend((length as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend((length as u64).to_be_bytes());
        }
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out.into()
}

/// A binary message of several parts.
pub fn message(parts: &[&[u8]]) -> Bytes {
    frame(2, parts)
}

/// Asks whether the other side is there.
pub fn ping() -> Bytes {
    frame(9, &[])
}

/// The answer to a ping.
pub fn pong(bytes: &[u8]) -> Bytes {
    frame(10, &[bytes])
}

/// The end, with a status code (7.4.1).
pub fn close(code: u16) -> Bytes {
    frame(8, &[&code.to_be_bytes()])
}

/// `Sec-WebSocket-Accept` for a client's key (4.2.2).
pub fn accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    STANDARD.encode(digest.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(first: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![first];
        if body.len() < 126 {
            out.push(0x80 | body.len() as u8);
        } else {
            out.push(0xfe);
            out.extend((body.len() as u16).to_be_bytes());
        }
        let mask = [1, 2, 3, 4];
        out.extend(mask);
        out.extend(body.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
        out
    }

    #[test]
    fn messages_survive_any_cut() {
        let long = vec![7; 300];
        let mut all = masked(0x82, &long);
        all.extend(masked(0x02, b"in "));
        all.extend(masked(0x89, b"there?"));
        all.extend(masked(0x80, b"pieces"));
        all.extend(masked(0x88, &[3, 232]));
        for step in 1..all.len() {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for part in all.chunks(step) {
                decoder.buffer().extend_from_slice(part);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    seen.push(frame);
                }
            }
            let expected = [
                Frame::Message(long.clone().into()),
                Frame::Ping(Bytes::from_static(b"there?")),
                Frame::Message(Bytes::from_static(b"in pieces")),
                Frame::Close,
            ];
            assert_eq!(seen, expected, "cut at {step}");
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let refused = |bytes: &[u8]| {
            let mut decoder = Decoder::default();
            decoder.buffer().extend_from_slice(bytes);
            decoder.next_frame().unwrap_err()
        };
        assert_eq!(refused(&[0x82, 1, b'x']), FrameError::Bare);
        assert_eq!(refused(&[0xc2, 0x81]), FrameError::Kind);
        assert_eq!(refused(&masked(0x80, b"no beginning")), FrameError::Kind);
        assert_eq!(refused(&[0x09, 0x80, 0, 0, 0, 0]), FrameError::Kind);
        assert_eq!(
            refused(&[0x82, 0xff, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            FrameError::Long
        );
        assert_eq!(refused(&masked(0x89, &[0; 126])), FrameError::Long);
    }

    #[test]
    fn the_key_is_answered_as_in_the_rfc() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
