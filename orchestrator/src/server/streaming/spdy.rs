//! SPDY/3.1 frames, as far as exec, attach and port-forward need them (SPDY protocol, draft 3.1, 2.2 to 2.6).
//!
//! Pure: bytes in, frames out, and back. Flow control is left to TCP, as all clients of these calls do: they neither
//! send WINDOW_UPDATE nor wait for one.

use std::sync::OnceLock;

use bytes::{Buf, Bytes, BytesMut};
use flate2::{Decompress, FlushDecompress, Status};

/// Bytes of a header block once it is unpacked.
const HEADERS: usize = 16 << 10;
/// Bytes of a control frame.
const CONTROL: usize = 16 << 10;
/// First bytes of a control frame: its flag, and the version.
const VERSION: u16 = 0x8003;
const FIN: u8 = 1;

/// The words that header blocks are packed against, before [`DICTIONARY_END`]; each with its length before it.
const DICTIONARY_WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding \
    accept-language accept-ranges age allow authorization cache-control connection content-base content-encoding \
    content-language content-length content-location content-md5 content-range content-type date etag expect \
    expires from host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location \
    max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after server te trailer \
    transfer-encoding upgrade user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 \
    url public set-cookie keep-alive origin";
const DICTIONARY_END: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
    Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 \
    Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept \
    Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,\
    sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// SPDY/3's zlib dictionary (draft 3.1, 2.6.10.1).
fn dictionary() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let mut bytes = Vec::new();
        for word in DICTIONARY_WORDS.split(' ') {
            bytes.extend((word.len() as u32).to_be_bytes());
            bytes.extend(word.replace('_', " ").bytes());
        }
        bytes.extend(DICTIONARY_END.bytes());
        bytes
    })
}

/// What the other side says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A new stream.
    Open {
        /// Its number.
        id: u32,
        /// Names in lower case, and values.
        headers: Vec<(String, String)>,
        /// Nothing will come on it.
        fin: bool,
    },
    /// Bytes of a stream; a frame may arrive in several pieces.
    Data {
        /// The stream.
        id: u32,
        /// What it carries.
        bytes: Bytes,
        /// The last of it.
        fin: bool,
    },
    /// The stream is broken off.
    Reset {
        /// The stream.
        id: u32,
    },
    /// To be answered with the same.
    Ping {
        /// Whose it is: even numbers are the server's.
        id: u32,
    },
    /// No more streams will be opened.
    GoAway,
}

/// A frame that breaks the protocol; the connection is of no use afterwards.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Another protocol.
    #[error("a control frame of version {0:#06x}: only SPDY/3.1 is spoken here")]
    Version(u16),
    /// Longer than any that is needed.
    #[error("a control frame of {0} bytes is longer than {CONTROL}")]
    Long(usize),
    /// Shorter than its type needs.
    #[error("a control frame of type {0} is too short")]
    Short(u16),
    /// The header block cannot be unpacked.
    #[error("a header block cannot be unpacked")]
    Packed,
    /// The header block does not hold what it announces, or too much.
    #[error("a header block does not hold what it announces, or more than {HEADERS} bytes")]
    Headers,
}

/// Cuts what arrives into frames.
#[derive(Debug)]
pub struct Decoder {
    bytes: BytesMut,
    inflate: Decompress,
    /// The rest of a data frame: stream, bytes to come, FIN.
    data: Option<(u32, usize, bool)>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            bytes: BytesMut::new(),
            inflate: Decompress::new(true),
            data: None,
        }
    }
}

impl Decoder {
    /// Where to put what was read.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// The next frame; None until more has been read.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some((id, left, fin)) = self.data {
                if left > 0 && self.bytes.is_empty() {
                    return Ok(None);
                }
                let bytes = self.bytes.split_to(left.min(self.bytes.len())).freeze();
                let left = left - bytes.len();
                self.data = (left > 0).then_some((id, left, fin));
                return Ok(Some(Frame::Data {
                    id,
                    bytes,
                    fin: fin && left == 0,
                }));
            }
            let Some(head) = self.bytes.first_chunk::<8>().copied() else {
                return Ok(None);
            };
            let flags = head[4];
            let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
            if head[0] & 0x80 == 0 {
                self.bytes.advance(8);
                let id = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
                self.data = Some((id, length, flags & FIN != 0));
                continue;
            }
            let version = u16::from_be_bytes([head[0], head[1]]);
            if version != VERSION {
                return Err(FrameError::Version(version));
            }
            if length > CONTROL {
                return Err(FrameError::Long(length));
            }
            if self.bytes.len() < 8 + length {
                return Ok(None);
            }
            self.bytes.advance(8);
            let body = self.bytes.split_to(length).freeze();
            let kind = u16::from_be_bytes([head[2], head[3]]);
            if let Some(frame) = self.control(kind, flags, body)? {
                return Ok(Some(frame));
            }
        }
    }

    fn control(&mut self, kind: u16, flags: u8, mut body: Bytes) -> Result<Option<Frame>, FrameError> {
        let mut number = || body.try_get_u32().map(|n| n & 0x7fff_ffff);
        let short = |_| FrameError::Short(kind);
        Ok(Some(match kind {
            1 => {
                let id = number().map_err(short)?;
                number().map_err(short)?;
                body.try_get_u16().map_err(short)?;
                Frame::Open {
                    id,
                    headers: headers(&self.unpack(&body)?)?,
                    fin: flags & FIN != 0,
                }
            }
            // Replies and later headers matter to nobody here, but the packing is one stream over all of them.
            2 | 8 => {
                number().map_err(short)?;
                self.unpack(&body)?;
                return Ok(None);
            }
            3 => Frame::Reset {
                id: number().map_err(short)?,
            },
            6 => Frame::Ping {
                id: body.try_get_u32().map_err(short)?,
            },
            7 => Frame::GoAway,
            // SETTINGS, WINDOW_UPDATE, and what a later version may bring (2.2.1: ignored).
            _ => return Ok(None),
        }))
    }

    fn unpack(&mut self, packed: &[u8]) -> Result<Vec<u8>, FrameError> {
        let mut out = Vec::with_capacity(1024);
        let begin = self.inflate.total_in();
        loop {
            let (taken, made) = ((self.inflate.total_in() - begin) as usize, out.len());
            let rest = packed.get(taken..).unwrap_or_default();
            match self.inflate.decompress_vec(rest, &mut out, FlushDecompress::Sync) {
                Err(error) if error.needs_dictionary().is_some() => {
                    let set = self.inflate.set_dictionary(dictionary());
                    set.map_err(|_| FrameError::Packed)?;
                    continue;
                }
                Err(_) | Ok(Status::StreamEnd) => return Err(FrameError::Packed),
                Ok(_) => {}
            }
            let used = (self.inflate.total_in() - begin) as usize;
            if out.len() > HEADERS {
                return Err(FrameError::Headers);
            } else if out.len() == out.capacity() {
                out.reserve(4096);
            } else if used == packed.len() {
                return Ok(out);
            } else if (used, out.len()) == (taken, made) {
                return Err(FrameError::Packed);
            }
        }
    }
}

/// Reads an unpacked header block.
fn headers(mut block: &[u8]) -> Result<Vec<(String, String)>, FrameError> {
    let text = |block: &mut &[u8]| -> Option<String> {
        let length = block.try_get_u32().ok()? as usize;
        let bytes = block.get(..length)?;
        block.advance(length);
        String::from_utf8(bytes.to_vec()).ok()
    };
    let mut read = || -> Option<Vec<(String, String)>> {
        let count = block.try_get_u32().ok()?;
        let mut list = Vec::new();
        for _ in 0..count {
            list.push((text(&mut block)?.to_ascii_lowercase(), text(&mut block)?));
        }
        Some(list)
    };
    read().ok_or(FrameError::Headers)
}

/// Makes frames.
#[derive(Debug, Default)]
pub struct Encoder {
    /// A header block has been sent: the packed stream has begun.
    begun: bool,
}

impl Encoder {
    /// Accepts a stream.
    pub fn reply(&mut self, id: u32) -> Bytes {
        // No headers: a count of 0, in a stored block (RFC 1951, 3.2.4) of one packed stream over all replies. The
        // empty block behind it is what readers take for the end of a flush.
        const BLOCK: [u8; 14] = [0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
        let mut body = id.to_be_bytes().to_vec();
        if !self.begun {
            // Deflate with a window of 32 KiB, no dictionary (RFC 1950, 2.2).
            body.extend([0x78, 0x01]);
            self.begun = true;
        }
        body.extend(BLOCK);
        control(2, &body)
    }
}

fn control(kind: u16, body: &[u8]) -> Bytes {
    let mut frame = VERSION.to_be_bytes().to_vec();
    frame.extend(kind.to_be_bytes());
    frame.extend((body.len() as u32).to_be_bytes());
    frame.extend(body);
    frame.into()
}

/// A data frame; `bytes` are at most 16 MiB less one.
pub fn data(id: u32, bytes: &[u8], fin: bool) -> Bytes {
    let mut frame = Vec::with_capacity(8 + bytes.len());
    frame.extend(id.to_be_bytes());
    frame.extend((bytes.len() as u32).to_be_bytes());
    frame[4] = u8::from(fin);
    frame.extend(bytes);
    frame.into()
}

/// Asks whether the other side is there, or answers that.
pub fn ping(id: u32) -> Bytes {
    control(6, &id.to_be_bytes())
}

/// Refuses or breaks off a stream.
pub fn reset(id: u32) -> Bytes {
    const CANCEL: u32 = 5;
    let mut body = id.to_be_bytes().to_vec();
    body.extend(CANCEL.to_be_bytes());
    control(3, &body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};

    #[test]
    fn the_dictionary_is_the_one_of_the_draft() {
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in dictionary() {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!((dictionary().len(), b << 16 | a), (1423, 0xe3c6_a7c2));
    }

    /// A client's side: packs header blocks as Go's does, with the dictionary, in one stream.
    struct Client(Compress);

    impl Client {
        fn new() -> Self {
            let mut compress = Compress::new(Compression::best(), true);
            compress.set_dictionary(dictionary()).unwrap();
            Self(compress)
        }

        fn open(&mut self, id: u32, list: &[(&str, &str)]) -> Vec<u8> {
            let mut block = (list.len() as u32).to_be_bytes().to_vec();
            for text in list.iter().flat_map(|(n, v)| [n, v]) {
                block.extend((text.len() as u32).to_be_bytes());
                block.extend(text.bytes());
            }
            let mut packed = Vec::with_capacity(4096);
            self.0
                .compress_vec(&block, &mut packed, FlushCompress::Sync)
                .unwrap();
            let mut body = id.to_be_bytes().to_vec();
            body.extend([0; 6]);
            body.extend(packed);
            control(1, &body).to_vec()
        }
    }

    #[test]
    fn streams_and_data_survive_any_cut() {
        let mut client = Client::new();
        let mut all = client.open(1, &[("Streamtype", "error"), ("port", "80")]);
        all.extend(client.open(3, &[("streamtype", "data"), ("port", "80")]));
        all.extend(data(3, b"hello", false));
        all.extend(ping(1));
        all.extend(data(3, b"", true));
        all.extend(reset(3));
        for step in 1..all.len() {
            let mut decoder = Decoder::default();
            let (mut seen, mut text, mut ended) = (Vec::new(), Vec::new(), false);
            for part in all.chunks(step) {
                decoder.buffer().extend_from_slice(part);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    match frame {
                        Frame::Data { id: 3, bytes, fin } => {
                            text.extend_from_slice(&bytes);
                            ended |= fin;
                        }
                        other => seen.push(other),
                    }
                }
            }
            assert_eq!(text, b"hello", "cut at {step}");
            assert!(ended);
            assert_eq!(seen.len(), 4);
            let Frame::Open { id: 1, headers, .. } = &seen[0] else {
                panic!("{seen:?}")
            };
            assert_eq!(headers[0], ("streamtype".into(), "error".into()));
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let refused = |bytes: &[u8]| {
            let mut decoder = Decoder::default();
            decoder.buffer().extend_from_slice(bytes);
            decoder.next_frame().unwrap_err()
        };
        assert_eq!(refused(&[0x80, 2, 0, 1, 0, 0, 0, 0]), FrameError::Version(0x8002));
        assert!(matches!(
            refused(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]),
            FrameError::Long(_)
        ));
        assert_eq!(refused(&[0x80, 3, 0, 1, 0, 0, 0, 1, 0]), FrameError::Short(1));
        let mut open = vec![0; 10];
        open.extend(b"not packed at all");
        assert_eq!(refused(&control(1, &open)), FrameError::Packed);
        let mut client = Client::new();
        assert_eq!(
            refused(&client.open(1, &[("a", &"x".repeat(HEADERS))])),
            FrameError::Headers
        );
    }

    #[test]
    fn replies_are_one_packed_stream() {
        let mut encoder = Encoder::default();
        let mut inflate = Decompress::new(true);
        for id in [1, 3] {
            let frame = encoder.reply(id);
            let mut out = Vec::with_capacity(64);
            inflate
                .decompress_vec(&frame[12..], &mut out, FlushDecompress::Sync)
                .unwrap();
            assert_eq!(out, [0; 4]);
        }
    }
}
