//! Port-forward: pairs of SPDY streams, each pair one TCP connection inside the pod's network namespace.
//!
//! A pair has the same `requestid`: the data stream carries the connection's bytes, the error stream what went wrong,
//! as text, and nothing if all went well.

use std::collections::HashMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use nix::sched::{CloneFlags, setns};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::channels::PING;
use super::program::IDLE;
use super::spdy::{self, Decoder, Encoder, Frame};

/// Connections of one client at a time.
const CONNECTIONS: usize = 256;
/// Pieces that wait for one connection; a client that sends more has to wait.
const WAITING: usize = 8;
/// Time for a connection inside the pod to be accepted.
const CONNECTING: Duration = Duration::from_secs(10);

/// One connection that is being served, or half of a pair that is being opened.
#[derive(Debug, Default)]
struct Pair {
    error: Option<u32>,
    data: Option<u32>,
    port: u16,
}

/// Where bytes for a data stream go; None is the end of them.
type ToPod = mpsc::Sender<Option<Bytes>>;

/// Serves a client until it is gone, or nothing is said for too long. `netns` is the pod's network namespace; None
/// for the node's own.
pub async fn serve(io: impl AsyncRead + AsyncWrite, netns: Option<PathBuf>) {
    let (mut reader, mut writer) = tokio::io::split(io);
    let (out, mut outs) = mpsc::channel::<Bytes>(16);
    let mut state = Forward {
        netns,
        out,
        pairs: HashMap::new(),
        streams: HashMap::new(),
        tasks: JoinSet::new(),
        encoder: Encoder::default(),
    };
    let reading = async {
        let mut decoder = Decoder::default();
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    if state.frame(frame).await.is_none() {
                        return;
                    }
                }
                Err(_) => return,
                Ok(None) => match reader.read_buf(decoder.buffer()).await {
                    Ok(length) if length > 0 => {}
                    _ => return,
                },
            }
        }
    };
    let writing = async {
        let (mut pings, mut heard) = (0, Instant::now());
        loop {
            let frame = tokio::select! {
                frame = outs.recv() => match frame {
                    Some(frame) => {
                        heard = Instant::now();
                        frame
                    }
                    None => return,
                },
                () = tokio::time::sleep(PING) => {
                    if heard.elapsed() > IDLE {
                        return;
                    }
                    pings += 2;
                    spdy::ping(pings)
                }
            };
            if writer.write_all(&frame).await.is_err() || writer.flush().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
}

struct Forward {
    netns: Option<PathBuf>,
    out: mpsc::Sender<Bytes>,
    /// By `requestid`.
    pairs: HashMap<String, Pair>,
    /// By number of the data stream.
    streams: HashMap<u32, ToPod>,
    /// The connections; dropping them ends them.
    tasks: JoinSet<u32>,
    encoder: Encoder,
}

impl Forward {
    /// Takes one frame; None ends the connection.
    async fn frame(&mut self, frame: Frame) -> Option<()> {
        while let Some(ended) = self.tasks.try_join_next() {
            if let Ok(data) = ended {
                self.streams.remove(&data);
                self.pairs.retain(|_, pair| pair.data != Some(data));
            }
        }
        match frame {
            Frame::Open { id, headers, .. } => self.open(id, &headers).await?,
            Frame::Data { id, bytes, fin } => {
                if let Some(to_pod) = self.streams.get(&id) {
                    if !bytes.is_empty() {
                        // Its connection may be over: the client learns it by the end of the stream.
                        let _ = to_pod.send(Some(bytes)).await;
                    }
                    if fin {
                        let _ = to_pod.send(None).await;
                    }
                }
            }
            Frame::Reset { id } => {
                self.streams.remove(&id);
            }
            Frame::Ping { id } if id % 2 == 1 => self.out.send(spdy::ping(id)).await.ok()?,
            Frame::Ping { .. } | Frame::GoAway => {}
        }
        Some(())
    }

    async fn open(&mut self, id: u32, headers: &[(String, String)]) -> Option<()> {
        let header = |name: &str| {
            let found = headers.iter().find(|(n, _)| n == name);
            found.map(|(_, value)| value.as_str()).unwrap_or_default()
        };
        let (kind, port) = (header("streamtype"), header("port").parse::<u16>().unwrap_or(0));
        let fits = matches!(kind, "error" | "data") && port > 0;
        if !fits || (self.pairs.len() >= CONNECTIONS && kind == "error") {
            return self.out.send(spdy::reset(id)).await.ok();
        }
        // Clients before requestid: the data stream follows its error stream by number.
        let request = match header("requestid") {
            "" if kind == "error" => format!("stream {id}"),
            "" => format!("stream {}", id.wrapping_sub(2)),
            given => given.to_owned(),
        };
        self.out.send(self.encoder.reply(id)).await.ok()?;
        let pair = self.pairs.entry(request).or_default();
        pair.port = port;
        if kind == "error" {
            pair.error = Some(id);
        } else {
            pair.data = Some(id);
        }
        if let (Some(error), Some(data)) = (pair.error, pair.data) {
            let (to_pod, from_client) = mpsc::channel(WAITING);
            self.streams.insert(data, to_pod);
            let connection = Connection {
                netns: self.netns.clone(),
                port,
                error,
                data,
                out: self.out.clone(),
                from_client,
            };
            self.tasks.spawn(connection.run());
        }
        Some(())
    }
}

struct Connection {
    netns: Option<PathBuf>,
    port: u16,
    error: u32,
    data: u32,
    out: mpsc::Sender<Bytes>,
    from_client: mpsc::Receiver<Option<Bytes>>,
}

impl Connection {
    /// Serves one connection; returns the number of its data stream.
    async fn run(mut self) -> u32 {
        let failure = match connect(self.netns.as_deref(), self.port).await {
            Ok(stream) => self.copy(stream).await.err(),
            Err(error) => Some(format!(
                "failed to connect to localhost:{} inside the pod: {error}",
                self.port
            )),
        };
        let text = failure.unwrap_or_default();
        // A client that is gone needs no end.
        let _ = self.out.send(spdy::data(self.data, b"", true)).await;
        let _ = self.out.send(spdy::data(self.error, text.as_bytes(), true)).await;
        self.data
    }

    /// Copies both ways until the pod's side has ended.
    async fn copy(&mut self, stream: TcpStream) -> Result<(), String> {
        let (mut from_pod, mut to_pod) = stream.into_split();
        let (out, data, from_client) = (&self.out, self.data, &mut self.from_client);
        let down = async {
            let mut buffer = vec![0; 16 << 10];
            loop {
                match from_pod.read(&mut buffer).await {
                    Ok(0) => return Ok(()),
                    Ok(length) => {
                        if out
                            .send(spdy::data(data, &buffer[..length], false))
                            .await
                            .is_err()
                        {
                            return Ok(());
                        }
                    }
                    Err(error) => return Err(format!("read from the pod: {error}")),
                }
            }
        };
        let up = async {
            loop {
                match from_client.recv().await {
                    Some(Some(bytes)) => {
                        if to_pod.write_all(&bytes).await.is_err() {
                            break;
                        }
                    }
                    // The end of the input is no end of the answer.
                    Some(None) => {
                        let _ = to_pod.shutdown().await;
                        std::future::pending::<()>().await;
                    }
                    // The stream was broken off.
                    None => return,
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            result = down => result,
            () = up => Ok(()),
        }
    }
}

/// Connects to a port of the pod's loopback, IPv4 first.
async fn connect(netns: Option<&Path>, port: u16) -> std::io::Result<TcpStream> {
    let netns = netns.map(Path::to_owned);
    let stream = tokio::task::spawn_blocking(move || match netns {
        None => dial(port),
        // The thread's namespace is changed for good: it ends with its work.
        Some(path) => std::thread::Builder::new()
            .stack_size(128 << 10)
            .spawn(move || {
                let handle = File::open(path)?;
                setns(handle, CloneFlags::CLONE_NEWNET)?;
                dial(port)
            })?
            .join()
            .unwrap_or_else(|_| Err(std::io::Error::other("the connecting thread ended"))),
    })
    .await??;
    stream.set_nonblocking(true)?;
    let stream = TcpStream::from_std(stream)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn dial(port: u16) -> std::io::Result<std::net::TcpStream> {
    let v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let v6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port);
    std::net::TcpStream::connect_timeout(&v4, CONNECTING)
        .or_else(|error| std::net::TcpStream::connect_timeout(&v6, CONNECTING).map_err(|_| error))
}
