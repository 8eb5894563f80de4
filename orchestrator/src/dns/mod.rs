//! The cluster's DNS server: names of Services and pods from the store, all others from where the node asks.
//!
//! ```text
//! pod ─ 10.96.0.10:53 ─ rules of services ─► 127.0.0.1 ─ message.rs ─ answer.rs PURE ◄─ zone.rs ◄─ store
//!                                                             └─ no name of the cluster ─► upstream.rs
//! ```
//!
//! It listens on a port of 127.0.0.1 only; the rules of services lead the address of the Service `kube-dns` there, from
//! pods and from the host itself. Whoever else sends something there is not answered.

mod answer;
mod message;
pub(crate) mod resolv_conf;
#[cfg(test)]
mod tests;
mod upstream;
mod zone;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use ipnet::Ipv4Net;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::proxy::Guests;
use crate::store::Store;
use answer::Answer;
use message::{Read, Request, Transport};
use upstream::Upstream;
use zone::Zone;

pub(crate) use answer::DOMAIN;

/// Questions to other servers at a time; more are refused.
const FORWARDED: usize = 512;
/// Connections at a time; more are closed at once.
const CONNECTIONS: usize = 128;
/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(10);

/// The server's sockets: the same port by UDP and TCP.
#[derive(Debug)]
pub struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
    /// Where they are.
    pub address: SocketAddrV4,
}

/// Takes a port of 127.0.0.1: `before`, if it is free, so that questions under way find the next `berthd`.
///
/// # Errors
/// No port is free.
pub async fn listen(before: Option<u16>) -> io::Result<Sockets> {
    let mut last = None;
    for port in before.into_iter().chain([0; 8]) {
        match bind(port).await {
            Ok(sockets) => return Ok(sockets),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

async fn bind(port: u16) -> io::Result<Sockets> {
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let SocketAddr::V4(address) = tcp.local_addr()? else {
        return Err(io::ErrorKind::AddrNotAvailable.into());
    };
    let udp = UdpSocket::bind(address).await?;
    Ok(Sockets { udp, tcp, address })
}

/// What the server needs.
pub struct Context {
    /// The store.
    pub store: Store,
    /// The network of the Services' addresses.
    pub addresses: Ipv4Net,
    /// The address that pods ask.
    pub service: Ipv4Addr,
    /// Who may ask.
    pub guests: Guests,
}

/// Serves until `shutdown` turns true.
pub async fn serve(sockets: Sockets, context: Context, mut shutdown: watch::Receiver<bool>) {
    let own = vec![
        SocketAddr::V4(sockets.address),
        SocketAddr::from((context.service, 53)),
    ];
    let file = PathBuf::from(resolv_conf::FILE);
    let server = Arc::new(Server::new(context, Upstream::new(file, own)));
    let udp = tokio::spawn(by_udp(Arc::clone(&server), sockets.udp));
    let tcp = tokio::spawn(by_tcp(server, sockets.tcp));
    // An error means that the other side is gone, which is the end, too.
    let _ = shutdown.wait_for(|stop| *stop).await;
    udp.abort();
    tcp.abort();
}

/// The server without its sockets.
struct Server {
    zone: Mutex<Zone>,
    upstream: Upstream,
    guests: Guests,
    turn: AtomicUsize,
    forwarded: Arc<Semaphore>,
}

/// An answer that ends in a name of somebody else's zone.
struct Begun {
    answer: Answer,
    target: Name,
}

/// What becomes of a packet.
enum Step {
    Drop,
    Reply(Vec<u8>),
    /// Somebody else has to be asked: for the whole, or for the end of an answer.
    Ask(Box<Request>, Option<Box<Begun>>),
}

impl Server {
    fn new(context: Context, upstream: Upstream) -> Server {
        Server {
            zone: Mutex::new(Zone::new(context.store, context.addresses)),
            upstream,
            guests: context.guests,
            turn: AtomicUsize::new(0),
            forwarded: Arc::new(Semaphore::new(FORWARDED)),
        }
    }

    fn decide(&self, packet: &[u8], transport: Transport) -> Step {
        let request = match message::read(packet, transport) {
            Read::Nothing => return Step::Drop,
            Read::Refused(reply) => return Step::Reply(reply),
            Read::Question(request) => request,
        };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let (name, kind) = (request.question.name(), request.question.query_type());
        let found = {
            let mut zone = self.zone.lock().unwrap_or_else(PoisonError::into_inner);
            zone.refresh();
            answer::answer(&zone, name, kind, turn)
        };
        match found {
            None => Step::Ask(request, None),
            Some(mut found) => match found.elsewhere.take() {
                Some(target) => {
                    let begun = Begun {
                        answer: found,
                        target,
                    };
                    Step::Ask(request, Some(Box::new(begun)))
                }
                None => Step::Reply(request.reply(found)),
            },
        }
    }

    /// The reply that somebody else has to be asked for.
    async fn ask(&self, request: &Request, begun: Option<Box<Begun>>, client: IpAddr) -> Vec<u8> {
        let from_host = !self.guests.is_pod(client);
        let Some(begun) = begun else {
            return self.upstream.ask(request, from_host).await;
        };
        match self
            .complete(*begun, request.question.query_type(), from_host)
            .await
        {
            Some(answer) => request.reply(answer),
            None => request.failure(ResponseCode::ServFail),
        }
    }

    /// Adds to an alias what its target is. A client that is told the alias alone takes it for the end.
    async fn complete(&self, begun: Begun, kind: RecordType, from_host: bool) -> Option<Answer> {
        let Begun { mut answer, target } = begun;
        let mut found = None;
        for transport in [Transport::Udp, Transport::Tcp] {
            let request = Request::about(target.clone(), kind, transport)?;
            let reply = Message::from_vec(&self.upstream.ask(&request, from_host).await).ok()?;
            let whole = !reply.truncation;
            found = Some(reply);
            if whole {
                break;
            }
        }
        let found = found?;
        if !matches!(
            found.response_code,
            ResponseCode::NoError | ResponseCode::NXDomain
        ) {
            return None;
        }
        answer.code = found.response_code;
        answer.authority = found
            .authorities
            .into_iter()
            .find(|r| r.record_type() == RecordType::SOA);
        answer.records.extend(found.answers);
        Some(answer)
    }
}

async fn by_udp(server: Arc<Server>, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let mut buffer = vec![0; 4096];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // Out of memory, say: the condition passes, and must not spin.
                tracing::warn!(%error, "cannot receive a question");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if !server.guests.admits(client.ip()) {
            continue;
        }
        match server.decide(&buffer[..length], Transport::Udp) {
            Step::Drop => {}
            Step::Reply(reply) => send(&socket, &reply, client).await,
            Step::Ask(request, begun) => {
                let Ok(slot) = Arc::clone(&server.forwarded).try_acquire_owned() else {
                    send(&socket, &request.failure(ResponseCode::ServFail), client).await;
                    continue;
                };
                let (server, socket) = (Arc::clone(&server), Arc::clone(&socket));
                tokio::spawn(async move {
                    let reply = server.ask(&request, begun, client.ip()).await;
                    send(&socket, &reply, client).await;
                    drop(slot);
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, reply: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(reply, client).await {
        tracing::debug!(%error, %client, "send an answer");
    }
}

async fn by_tcp(server: Arc<Server>, listener: TcpListener) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection for DNS");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            continue;
        };
        if !server.guests.admits(client.ip()) {
            continue;
        }
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            if let Err(error) = converse(&server, stream, client.ip()).await {
                tracing::debug!(%error, %client, "a connection for DNS ended");
            }
            drop(slot);
        });
    }
}

/// One question after the other, each with its length before it (RFC 7766).
async fn converse(server: &Server, mut stream: TcpStream, client: IpAddr) -> io::Result<()> {
    loop {
        let received = timeout(IDLE, async {
            let length = stream.read_u16().await?;
            let mut packet = vec![0; usize::from(length)];
            stream.read_exact(&mut packet).await.map(|_| packet)
        });
        let Ok(packet) = received.await else {
            return Ok(());
        };
        let packet = match packet {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        };
        let reply = match server.decide(&packet, Transport::Tcp) {
            Step::Drop => return Ok(()),
            Step::Reply(reply) => reply,
            Step::Ask(request, begun) => match Arc::clone(&server.forwarded).try_acquire_owned() {
                Ok(_slot) => server.ask(&request, begun, client).await,
                Err(_) => request.failure(ResponseCode::ServFail),
            },
        };
        let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend(reply);
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
}
