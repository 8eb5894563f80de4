//! A small DNS client and a small DNS server, so that the node's is not judged by its own library.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub const A: u16 = 1;
pub const AAAA: u16 = 28;
pub const SRV: u16 = 33;
pub const PTR: u16 = 12;

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// 0, 2 for a failure, 3 for no such name.
    pub code: u8,
    pub truncated: bool,
    /// IPv4 addresses of the answer, in its order.
    pub addresses: Vec<Ipv4Addr>,
    /// Records of the answer.
    pub count: u16,
    /// Records of the authority.
    pub authority: u16,
}

/// A question for the records of a type; `payload` is what an EDNS record says is taken.
pub fn question(name: &str, kind: u16, payload: Option<u16>) -> Vec<u8> {
    let mut packet = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(payload.is_some())];
    for label in name.trim_end_matches('.').split('.') {
        packet.push(u8::try_from(label.len()).expect("a short label"));
        packet.extend(label.bytes());
    }
    packet.push(0);
    packet.extend(kind.to_be_bytes());
    packet.extend([0, 1]);
    if let Some(payload) = payload {
        packet.extend([0, 0, 41]);
        packet.extend(payload.to_be_bytes());
        packet.extend([0; 6]);
    }
    packet
}

fn skip_name(packet: &[u8], mut at: usize) -> usize {
    loop {
        match packet[at] {
            0 => return at + 1,
            length if length >= 0xc0 => return at + 2,
            length => at += 1 + usize::from(length),
        }
    }
}

fn number(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

pub fn read(packet: &[u8]) -> Reply {
    let mut at = skip_name(packet, 12) + 4;
    let mut addresses = Vec::new();
    for _ in 0..number(packet, 6) {
        at = skip_name(packet, at);
        let (kind, length) = (number(packet, at), usize::from(number(packet, at + 8)));
        at += 10;
        if kind == A {
            addresses.push(Ipv4Addr::new(
                packet[at],
                packet[at + 1],
                packet[at + 2],
                packet[at + 3],
            ));
        }
        at += length;
    }
    Reply {
        code: packet[3] & 0x0f,
        truncated: packet[2] & 2 != 0,
        addresses,
        count: number(packet, 6),
        authority: number(packet, 8),
    }
}

/// Asks by UDP, for ten seconds at most.
pub fn by_udp(server: SocketAddr, packet: &[u8]) -> Result<Reply, String> {
    let inner = || -> std::io::Result<Reply> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        socket.send(packet)?;
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer)?;
        assert_eq!(buffer[..2], packet[..2], "the question's id");
        Ok(read(&buffer[..length]))
    };
    inner().map_err(|error| error.to_string())
}

/// Asks by TCP, for ten seconds at most.
pub fn by_tcp(server: SocketAddr, packet: &[u8]) -> Result<Reply, String> {
    let inner = || -> std::io::Result<Reply> {
        let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(10))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        send(&mut stream, packet)?;
        Ok(read(&receive(&mut stream)?))
    };
    inner().map_err(|error| error.to_string())
}

fn send(stream: &mut TcpStream, packet: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(packet.len()).map_err(std::io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend(packet);
    stream.write_all(&framed)
}

fn receive(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut packet)?;
    Ok(packet)
}

/// A name server on 127.0.0.1:53 of the caller's network namespace, until it is dropped.
pub struct Upstream {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

/// What it makes of a question; by TCP where `true`.
type Answering = fn(&[u8], bool) -> Vec<u8>;

impl Upstream {
    pub fn start(answering: Answering) -> Upstream {
        let stop = Arc::new(AtomicBool::new(false));
        let pause = Some(Duration::from_millis(50));
        let udp = UdpSocket::bind("127.0.0.1:53").expect("port 53 of the test's own loopback");
        udp.set_read_timeout(pause).expect("a time-out");
        let tcp = TcpListener::bind("127.0.0.1:53").expect("port 53 of the test's own loopback");
        tcp.set_nonblocking(true).expect("not blocking");
        let (first, second) = (Arc::clone(&stop), Arc::clone(&stop));
        let packets = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !first.load(Ordering::Relaxed) {
                if let Ok((length, client)) = udp.recv_from(&mut buffer) {
                    let (packet, udp) = (buffer[..length].to_vec(), udp.try_clone().expect("a clone"));
                    // One that asks others may be asked again meanwhile.
                    std::thread::spawn(move || udp.send_to(&answering(&packet, false), client));
                }
            }
        });
        let connections = std::thread::spawn(move || {
            while !second.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = tcp.accept() else {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                };
                let mut converse = || -> std::io::Result<()> {
                    stream.set_nonblocking(false)?;
                    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
                    let packet = receive(&mut stream)?;
                    send(&mut stream, &answering(&packet, true))
                };
                converse().ok();
            }
        });
        Upstream {
            stop,
            threads: vec![packets, connections],
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

/// The answer to a question: so many addresses from 203.0.113.0 on, or only that there are too many.
pub fn answer(packet: &[u8], code: u8, count: u8, truncated: bool) -> Vec<u8> {
    let end = skip_name(packet, 12) + 4;
    let mut reply = packet[..end].to_vec();
    reply[2] = 0x81 | if truncated { 2 } else { 0 };
    reply[3] = 0x80 | code;
    let count = if truncated { 0 } else { count };
    reply[6..12].copy_from_slice(&[0, count, 0, 0, 0, 0]);
    for n in 0..count {
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, n]);
    }
    reply
}

/// The name and the type of a question.
pub fn asked(packet: &[u8]) -> (String, u16) {
    let (mut at, mut labels) = (12, Vec::new());
    while packet[at] != 0 {
        let end = at + 1 + usize::from(packet[at]);
        labels.push(String::from_utf8_lossy(&packet[at + 1..end]).to_lowercase());
        at = end;
    }
    (labels.join("."), number(packet, at + 1))
}
