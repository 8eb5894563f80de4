//! Names of others: asked where the node itself would ask.
//!
//! A request goes on as it came, byte for byte but for its id, and so does the answer: nothing of it has to be
//! understood here.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hickory_proto::op::ResponseCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::message::{Request, Transport, answers};
use super::resolv_conf::ResolvConf;

/// How long one server is waited for.
const TRY: Duration = Duration::from_millis(1500);
/// How long all of them are: clients ask again after five seconds.
const ALL: Duration = Duration::from_secs(4);
/// How long a server that did not answer is asked last.
const REST: Duration = Duration::from_secs(10);
/// The same question from the host itself at the same time. A server on the host that asks us, because the node's
/// resolv.conf or its own forwarding leads in a circle, comes to this at once.
const ROUNDS: usize = 16;

/// The servers that the node asks.
pub(super) struct Upstream {
    file: PathBuf,
    /// What would be ourselves.
    own: Vec<SocketAddr>,
    known: Mutex<Known>,
    /// Questions from the host itself that are on their way.
    asked: Mutex<BTreeMap<Vec<u8>, usize>>,
}

#[derive(Default)]
struct Known {
    /// When the file was written that these are from.
    written: Option<SystemTime>,
    servers: Vec<SocketAddr>,
    /// Those that did not answer, and when.
    silent: BTreeMap<SocketAddr, Instant>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A question of the host on its way; ends with the value.
struct Round<'a> {
    upstream: &'a Upstream,
    key: Vec<u8>,
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        let mut asked = held(&self.upstream.asked);
        if let Some(count) = asked.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                asked.remove(&self.key);
            }
        }
    }
}

impl Upstream {
    /// Servers of a resolv.conf, but for those that are `own`.
    pub fn new(file: PathBuf, own: Vec<SocketAddr>) -> Upstream {
        Upstream {
            file,
            own,
            known: Mutex::default(),
            asked: Mutex::default(),
        }
    }

    /// The reply to a request; `from_host` says that the host itself asks.
    pub async fn ask(&self, request: &Request, from_host: bool) -> Vec<u8> {
        let Ok(_round) = self.enter(request, from_host) else {
            tracing::debug!(question = %request.question, "the question goes round in a circle");
            return request.failure(ResponseCode::ServFail);
        };
        let found = timeout(ALL, self.ask_all(request)).await.ok().flatten();
        found.unwrap_or_else(|| request.failure(ResponseCode::ServFail))
    }

    fn enter(&self, request: &Request, from_host: bool) -> Result<Option<Round<'_>>, ()> {
        if !from_host {
            return Ok(None);
        }
        let mut key = request.bytes[12..12 + request.question_length()].to_vec();
        key.make_ascii_lowercase();
        let mut asked = held(&self.asked);
        let count = asked.entry(key.clone()).or_default();
        if *count >= ROUNDS {
            return Err(());
        }
        *count += 1;
        Ok(Some(Round { upstream: self, key }))
    }

    /// Asks one server after the other until one knows; a refusal is only passed on if all refuse.
    async fn ask_all(&self, request: &Request) -> Option<Vec<u8>> {
        let mut refusal = None;
        for server in self.servers() {
            let asked = match request.transport {
                Transport::Udp => timeout(TRY, by_udp(server, request)).await,
                Transport::Tcp => timeout(TRY, by_tcp(server, request)).await,
            };
            match asked {
                Ok(Ok(reply)) => {
                    held(&self.known).silent.remove(&server);
                    let code = reply.get(3).map_or(0, |byte| byte & 0x0f);
                    // No error, or no such name.
                    if matches!(code, 0 | 3) {
                        return Some(reply);
                    }
                    refusal.get_or_insert(reply);
                }
                failed => {
                    let error =
                        failed.map_or_else(|late| late.to_string(), |done| format!("{:?}", done.err()));
                    tracing::debug!(%server, error, "a name server did not answer");
                    held(&self.known).silent.insert(server, Instant::now());
                }
            }
        }
        refusal
    }

    /// The servers of the file as it is now; those that were silent come last.
    fn servers(&self) -> Vec<SocketAddr> {
        let mut known = held(&self.known);
        let written = std::fs::metadata(&self.file).and_then(|m| m.modified()).ok();
        if known.servers.is_empty() || known.written != written {
            let text = std::fs::read_to_string(&self.file).unwrap_or_default();
            known.servers = ResolvConf::parse(&text).sockets();
            known.servers.retain(|server| !self.own.contains(server));
            known.servers.dedup();
            known.written = written;
            known.silent.clear();
        }
        known.silent.retain(|_, since| since.elapsed() < REST);
        let (mut first, last): (Vec<_>, Vec<_>) = known
            .servers
            .iter()
            .copied()
            .partition(|server| !known.silent.contains_key(server));
        first.extend(last);
        first
    }
}

/// The request with another id.
fn renumbered(bytes: &[u8], id: [u8; 2]) -> Vec<u8> {
    let mut copy = bytes.to_vec();
    copy[..2].copy_from_slice(&id);
    copy
}

async fn by_udp(server: SocketAddr, request: &Request) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A port of its own and an id by chance: whoever wants to answer in the server's place must guess both.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let id: u16 = rand::random();
    socket.send(&renumbered(&request.bytes, id.to_be_bytes())).await?;
    let largest = request
        .message
        .edns
        .as_ref()
        .map_or(512, |edns| edns.max_payload().max(512));
    let mut buffer = vec![0; usize::from(largest)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if answers(&buffer[..length], id, request) {
            return Ok(renumbered(&buffer[..length], request.message.id.to_be_bytes()));
        }
    }
}

async fn by_tcp(server: SocketAddr, request: &Request) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let id: u16 = rand::random();
    let length = u16::try_from(request.bytes.len()).map_err(io::Error::other)?;
    let mut sent = length.to_be_bytes().to_vec();
    sent.extend(renumbered(&request.bytes, id.to_be_bytes()));
    stream.write_all(&sent).await?;
    let length = stream.read_u16().await?;
    let mut reply = vec![0; usize::from(length)];
    stream.read_exact(&mut reply).await?;
    if !answers(&reply, id, request) {
        return Err(io::Error::other("the answer is to another question"));
    }
    Ok(renumbered(&reply, request.message.id.to_be_bytes()))
}
