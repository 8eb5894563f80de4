//! The `Check` call of `grpc.health.v1.Health`, for gRPC probes: one request over HTTP/2, as kubelet makes it.
//!
//! The two messages have one field each; their protobuf is written and read here.
//!
//! Sources: gRPC over HTTP2 (`doc/PROTOCOL-HTTP2.md`), gRPC health checking protocol (`doc/health-checking.md`).

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Version};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes of an answer that are read; a good one has seven.
const ANSWER_LIMIT: usize = 64 << 10;
/// `HealthCheckResponse.ServingStatus` by number.
const STATUS: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
/// gRPC's status codes by number (`doc/statuscodes.md`).
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
/// Number of `Unimplemented`.
const UNIMPLEMENTED: usize = 12;

/// Ends the connection's task with the call.
struct Driver(tokio::task::JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Asks the server at the other end of `stream` for the health of `service` (empty: of the whole server). The
/// caller bounds the time.
///
/// # Errors
/// Why it does not count as healthy, for the probe's event.
pub async fn check(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    authority: &str,
    service: &str,
) -> Result<(), String> {
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|error| format!("begin HTTP/2 with {authority}: {error}"))?;
    let _driver = Driver(tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection of a gRPC probe broke");
        }
    }));
    let request = Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.37")
        .body(Full::new(question(service)))
        .map_err(|error| format!("make the request for {authority}: {error}"))?;
    let answer = sender
        .send_request(request)
        .await
        .map_err(|error| format!("ask {authority}: {error}"))?;
    let (head, body) = answer.into_parts();
    if head.status != http::StatusCode::OK {
        return Err(format!(
            "the server is no gRPC server: it answered with HTTP status {}",
            head.status
        ));
    }
    // An answer without a message has its status in the first headers.
    outcome(&head.headers).unwrap_or(Ok(()))?;
    let body = Limited::new(body, ANSWER_LIMIT)
        .collect()
        .await
        .map_err(|error| format!("read the answer of {authority}: {error}"))?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    let outcome = outcome(&trailers).or_else(|| outcome(&head.headers));
    outcome.ok_or_else(|| "the answer has no grpc-status: the server speaks no gRPC".to_owned())??;
    let number = serving_status(&body.to_bytes()).ok_or("the answer is no HealthCheckResponse")?;
    match STATUS.get(number as usize) {
        Some(&"SERVING") => Ok(()),
        Some(name) => Err(format!("service unhealthy (responded with {name:?})")),
        None => Err(format!("service unhealthy (responded with {number})")),
    }
}

/// `HealthCheckRequest` with gRPC's prefix: not compressed, length.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        // Field 1, length-delimited.
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8(length as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put(message);
    frame.freeze()
}

/// What the headers or trailers say of the call; None if nothing.
fn outcome(headers: &HeaderMap) -> Option<Result<(), String>> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse::<usize>().ok()?;
    if code == 0 {
        return Some(Ok(()));
    }
    let message = headers
        .get("grpc-message")
        .and_then(|m| m.to_str().ok())
        .unwrap_or_default();
    let message = unescape(message);
    let name = CODES.get(code).copied().unwrap_or("Unknown");
    Some(Err(if code == UNIMPLEMENTED {
        format!("this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}")
    } else {
        format!("health rpc probe failed: {name}: {message}")
    }))
}

/// `grpc-message` is percent-encoded.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut n = 0;
    while n < bytes.len() {
        let code = (bytes[n] == b'%').then(|| text.get(n + 1..n + 3)).flatten();
        if let Some(byte) = code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            out.push(byte);
            n += 3;
        } else {
            out.push(bytes[n]);
            n += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// `HealthCheckResponse.status` of a message with gRPC's prefix; fields that are not known are passed over.
fn serving_status(frame: &[u8]) -> Option<u64> {
    let (prefix, message) = frame.split_at_checked(5)?;
    let length = u32::from_be_bytes(prefix[1..].try_into().ok()?) as usize;
    // We have offered no compression.
    if prefix[0] != 0 {
        return None;
    }
    let mut rest = message.get(..length)?;
    let mut status = 0;
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        match (key >> 3, key & 7) {
            (1, 0) => status = varint(&mut rest)?,
            (_, 0) => drop(varint(&mut rest)?),
            (_, 1) => rest = rest.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            (_, 5) => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, others) = rest.split_first()?;
        *rest = others;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("db")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'd', b'b']);
        let long = question(&"x".repeat(300));
        assert_eq!(&long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
        assert_eq!(long.len(), 5 + 3 + 300);
    }

    #[test]
    fn answers() {
        for (message, want) in [
            (&[][..], Some(0)),
            (&[0x08, 1], Some(1)),
            (&[0x12, 2, 9, 9, 0x08, 2], Some(2)),
            (&[0x08], None),
            (&[0x12, 0x7f, 1], None),
            (&[0x0b], None),
        ] {
            let mut frame = vec![0, 0, 0, 0, message.len() as u8];
            frame.extend_from_slice(message);
            assert_eq!(serving_status(&frame), want, "{message:?}");
        }
        for frame in [
            &b""[..],
            b"\0\0\0",
            b"\0\0\0\0\x05\x08\x01",
            b"\x01\0\0\0\x02\x08\x01",
        ] {
            assert_eq!(serving_status(frame), None, "{frame:?}");
        }
    }

    #[test]
    fn statuses() {
        let headers = |code: &str| {
            let mut map = HeaderMap::new();
            map.insert("grpc-status", code.parse().unwrap());
            map.insert("grpc-message", "no%20such%3a it".parse().unwrap());
            outcome(&map)
        };
        assert_eq!(headers("0"), Some(Ok(())));
        assert_eq!(
            headers("5").unwrap().unwrap_err(),
            "health rpc probe failed: NotFound: no such: it"
        );
        assert!(
            headers("12")
                .unwrap()
                .unwrap_err()
                .starts_with("this server does not implement")
        );
        assert_eq!(outcome(&HeaderMap::new()), None);
    }
}
