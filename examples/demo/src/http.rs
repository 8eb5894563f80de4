//! One HTTP GET over a fresh connection: what a client on the network sees of a pod.

use std::io::{Error, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Asks `address` for `path`; gives the body of a 200 answer.
///
/// # Errors
/// `ConnectionRefused` (and the like) where no connection came about, so that asking another
/// endpoint is safe; `InvalidData` for an answer that is not a 200.
pub fn get(address: SocketAddr, path: &str, timeout: Duration) -> Result<String, Error> {
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| Error::new(ErrorKind::UnexpectedEof, "the answer ended within its head"))?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) == Some("200") {
        Ok(body.to_owned())
    } else {
        Err(Error::new(ErrorKind::InvalidData, status.to_owned()))
    }
}
