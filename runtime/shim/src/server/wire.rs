//! The frames of ttrpc. No I/O here.
//!
//! ```text
//! frame   length: u32 │ stream: u32 │ type: u8 │ flags: u8 │ body        big endian, length of the body alone
//! type 1  ttrpc.Request  { service, method, payload, timeout_nano, metadata }      odd streams, by the client
//! type 2  ttrpc.Response { status, payload }                                       on the request's stream
//! ```
//!
//! Answers may overtake each other. Streaming calls (type 3) belong to no service of a shim and are refused.

use containerd_shim_protos::protobuf::{self, Message};
use containerd_shim_protos::ttrpc::proto::{
    Code, MESSAGE_HEADER_LENGTH, MESSAGE_LENGTH_MAX, MESSAGE_TYPE_REQUEST, MESSAGE_TYPE_RESPONSE,
    MessageHeader, Request, Response, Status,
};

/// A frame that breaks the protocol: the connection is of no use afterwards.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The announced length is beyond what ttrpc allows.
    #[error(
        "a frame of {length} bytes is longer than {MESSAGE_LENGTH_MAX}: the other side does not speak ttrpc"
    )]
    TooLong {
        /// The announced length.
        length: usize,
    },
    /// The frame is neither a request (for a server) nor a response (for a client).
    #[error("a frame of type {0} was not expected")]
    Type(u8),
    /// The body is not the protobuf message it should be.
    #[error("decode a frame")]
    Body(#[from] protobuf::Error),
}

/// Cuts a byte stream into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
}

impl Decoder {
    /// Takes what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole request with its stream, for a server.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn next_request(&mut self) -> Result<Option<(u32, Request)>, FrameError> {
        self.next_body(MESSAGE_TYPE_REQUEST)
    }

    /// The next whole response with its stream, for a client.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn next_response(&mut self) -> Result<Option<(u32, Response)>, FrameError> {
        self.next_body(MESSAGE_TYPE_RESPONSE)
    }

    fn next_body<M: Message>(&mut self, wanted: u8) -> Result<Option<(u32, M)>, FrameError> {
        let Some(head) = self.bytes.first_chunk::<MESSAGE_HEADER_LENGTH>() else {
            return Ok(None);
        };
        let header = MessageHeader::from(head);
        let length = header.length as usize;
        if length > MESSAGE_LENGTH_MAX {
            return Err(FrameError::TooLong { length });
        }
        if header.type_ != wanted {
            return Err(FrameError::Type(header.type_));
        }
        let Some(body) = self
            .bytes
            .get(MESSAGE_HEADER_LENGTH..MESSAGE_HEADER_LENGTH + length)
        else {
            return Ok(None);
        };
        let message = M::parse_from_bytes(body)?;
        self.bytes.drain(..MESSAGE_HEADER_LENGTH + length);
        if self.bytes.is_empty() {
            // Give the buffer back: a shim idles with as little as it can.
            self.bytes = Vec::new();
        }
        Ok(Some((header.stream_id, message)))
    }
}

/// What a call was answered.
pub type Answer = Result<Vec<u8>, Refusal>;

/// A call's failure as containerd understands it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The gRPC status code.
    pub code: Code,
    /// The message for the user.
    pub message: String,
}

/// Appends the frame that answers the request of `stream`.
///
/// # Errors
/// [`protobuf::Error`] if the answer cannot be encoded; nothing is appended then.
pub fn append_response(frames: &mut Vec<u8>, stream: u32, answer: Answer) -> Result<(), protobuf::Error> {
    let mut response = Response::new();
    match answer {
        Ok(payload) => {
            response.payload = payload;
            response.set_status(status(Code::OK, String::new()));
        }
        Err(refusal) => response.set_status(status(refusal.code, refusal.message)),
    }
    append(frames, &response, |length| {
        MessageHeader::new_response(stream, length)
    })
}

/// Appends a request frame.
///
/// # Errors
/// [`protobuf::Error`] if the request cannot be encoded; nothing is appended then.
pub fn append_request(frames: &mut Vec<u8>, stream: u32, request: &Request) -> Result<(), protobuf::Error> {
    append(frames, request, |length| {
        MessageHeader::new_request(stream, length)
    })
}

fn append(
    frames: &mut Vec<u8>,
    message: &impl Message,
    header: impl FnOnce(u32) -> MessageHeader,
) -> Result<(), protobuf::Error> {
    let body = message.write_to_bytes()?;
    frames.extend_from_slice(&Vec::from(header(body.len() as u32)));
    frames.extend_from_slice(&body);
    Ok(())
}

fn status(code: Code, message: String) -> Status {
    let mut status = Status::new();
    status.code = code.into();
    status.message = message;
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str) -> Request {
        let mut request = Request::new();
        request.method = method.to_owned();
        request.payload = vec![1, 2, 3];
        request
    }

    #[test]
    fn requests_survive_any_cut() {
        let mut frames = Vec::new();
        append_request(&mut frames, 1, &request("State")).unwrap();
        append_request(&mut frames, 3, &request("Wait")).unwrap();
        for step in 1..frames.len() {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for part in frames.chunks(step) {
                decoder.push(part);
                while let Some((stream, request)) = decoder.next_request().unwrap() {
                    seen.push((stream, request.method));
                }
            }
            assert_eq!(
                seen,
                [(1, "State".to_owned()), (3, "Wait".to_owned())],
                "cut at {step}"
            );
        }
    }

    #[test]
    fn answers_carry_payload_or_status() {
        let mut frames = Vec::new();
        append_response(&mut frames, 5, Ok(vec![7])).unwrap();
        let refusal = Refusal {
            code: Code::NOT_FOUND,
            message: "no container x".to_owned(),
        };
        append_response(&mut frames, 7, Err(refusal)).unwrap();
        let mut decoder = Decoder::default();
        decoder.push(&frames);
        let (stream, good) = decoder.next_response().unwrap().unwrap();
        assert_eq!((stream, good.payload.as_slice()), (5, &[7][..]));
        let (stream, bad) = decoder.next_response().unwrap().unwrap();
        assert_eq!((stream, bad.status.code.unwrap()), (7, Code::NOT_FOUND));
        assert_eq!(bad.status.message, "no container x");
        assert!(decoder.next_response().unwrap().is_none());
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let mut decoder = Decoder::default();
        decoder.push(b"GET / HTTP/1.1\r\n");
        assert!(matches!(decoder.next_request(), Err(FrameError::TooLong { .. })));
        let mut decoder = Decoder::default();
        decoder.push(&[0, 0, 0, 0, 0, 0, 0, 1, 3, 0]);
        assert!(matches!(decoder.next_request(), Err(FrameError::Type(3))));
        let mut decoder = Decoder::default();
        decoder.push(&[0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0xff]);
        assert!(matches!(decoder.next_request(), Err(FrameError::Body(_))));
    }
}
