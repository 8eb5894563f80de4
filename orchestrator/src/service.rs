//! The process around the parts: one instance a data folder, readiness, signals.
//!
//! Sources: sd_notify(3), flock(2), signal(7).

use std::fs::File;
use std::net::SocketAddrV4;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_api::kinds;
use berth_image::ImageStore;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config::{Config, ConfigError, write_atomically};
use crate::controllers::{self, own};
use crate::dns;
use crate::images::Images;
use crate::node::{self, NodeConfig, NodeContext, NodeError};
use crate::pki::{self, Pki, PkiError, Tokens};
use crate::proxy;
use crate::scheduler;
use crate::server::{self, Api, BootstrapError, ListenError};
use crate::store::{self, OpenError, Store, StoreError};

/// How long the lock of the data folder is waited for: a program that a killed berthd was just starting holds its files
/// until it executes.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Why berthd could not start, or not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The command line.
    #[error("the configuration cannot work")]
    Config(#[from] ConfigError),
    /// A folder or file of berthd's own.
    #[error("cannot {action} {path}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// Another berthd is at work.
    #[error("another berthd uses {path}: stop it, or choose another folder with --data-dir")]
    Taken {
        /// The data folder.
        path: PathBuf,
    },
    /// The objects.
    #[error("cannot open the object store")]
    Open(#[from] OpenError),
    /// The first objects.
    #[error("cannot prepare the object store")]
    Bootstrap(#[from] BootstrapError),
    /// The keys.
    #[error("cannot prepare keys and certificates")]
    Pki(#[from] PkiError),
    /// The socket.
    #[error("cannot serve the API")]
    Listen(#[from] ListenError),
    /// The runtime or the signal handlers.
    #[error("cannot set up the process")]
    Process(#[source] std::io::Error),
    /// The images.
    #[error("cannot open the image store")]
    Images(#[from] berth_image::StoreError),
    /// The node agent.
    #[error("the node cannot work")]
    Node(#[from] NodeError),
    /// The node's own Services could not be stored, or the store did not close cleanly.
    #[error("cannot write to the object store")]
    Write(#[from] StoreError),
}

fn folder(path: &Path, mode: u32) -> Result<(), ServiceError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|source| ServiceError::File {
            action: "make the folder",
            path: path.to_owned(),
            source,
        })
}

/// The lock that makes this berthd the only one on its data folder; held as long as the value.
fn lock(config: &Config) -> Result<Flock<File>, ServiceError> {
    let path = config.lock_file();
    let fail = |source| ServiceError::File {
        action: "open",
        path: path.clone(),
        source,
    };
    let file = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(fail)?;
    let patience = Instant::now() + LOCK_PATIENCE;
    let mut file = file;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((same, Errno::EWOULDBLOCK)) if Instant::now() < patience => {
                file = same;
                std::thread::sleep(Duration::from_millis(20));
            }
            Err((_, Errno::EWOULDBLOCK)) => {
                return Err(ServiceError::Taken {
                    path: config.data_dir.clone(),
                });
            }
            Err((_, other)) => return Err(fail_to_lock(&path, other.into())),
        }
    }
}

fn fail_to_lock(path: &Path, source: std::io::Error) -> ServiceError {
    ServiceError::File {
        action: "lock",
        path: path.to_owned(),
        source,
    }
}

/// Tells the service manager how we are; without one this does nothing.
fn notify(state: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let send = || -> std::io::Result<()> {
        let bytes = std::os::unix::ffi::OsStrExt::as_bytes(name.as_os_str());
        let address = match bytes.strip_prefix(b"@") {
            Some(rest) => SocketAddr::from_abstract_name(rest)?,
            None => SocketAddr::from_pathname(&name)?,
        };
        UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
        Ok(())
    };
    if let Err(error) = send() {
        tracing::warn!(%error, socket = ?name, "cannot tell the service manager {state:?}");
    }
}

/// Runs berthd until SIGTERM or SIGINT. Containers go on without it.
pub fn run(config: Config) -> Result<(), ServiceError> {
    config.check()?;
    folder(&config.data_dir, 0o700)?;
    folder(&config.run_dir, 0o711)?;
    let _lock = lock(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_stack_size(512 << 10)
        .build()
        .map_err(ServiceError::Process)?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> Result<(), ServiceError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ServiceError::Process)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServiceError::Process)?;
    let node_name = config.node_name()?;
    let store = Store::open(&store::file_in(&config.data_dir))?;
    server::bootstrap(&store).await?;
    let listener = server::listen(config.listen)?;
    let address = listener.local_addr().map_err(ListenError::Inherited)?;
    let mut reached = pki::addresses(address);
    reached.push(own::api_address(config.service_cidr).into());
    let keys = Pki::open(&config.pki_dir(), &reached, &node_name)?;
    let acceptor = server::acceptor(&keys)?;
    let tokens = Arc::new(Tokens::open(&config.pki_dir())?);
    let kubeconfig = config.kubeconfig();
    write_atomically(&kubeconfig, pki::kubeconfig(&keys, address).as_bytes(), 0o600).map_err(|source| {
        ServiceError::File {
            action: "write",
            path: kubeconfig.clone(),
            source,
        }
    })?;

    let (stop, stopped) = watch::channel(false);
    let guests = node::guests(&config.data_dir);
    let names = listen_for_dns(&store).await;
    let sockets = Sockets {
        api: own::reached(address, &node::host_ip()),
        dns: names.as_ref().map(|sockets| sockets.address),
    };
    if sockets.api.is_none() {
        tracing::warn!(%address, "the API has no IPv4 address: pods do not reach it by the Service kubernetes");
    }
    let own = own::Own::new(config.service_cidr, sockets.api, sockets.dns);
    own.ensure(&store).await?;
    let api = Arc::new(Api {
        store: store.clone(),
        node_name: node_name.clone(),
        run_dir: config.run_dir.clone(),
        data_dir: config.data_dir.clone(),
        services: server::Allocator::new(config.service_cidr),
        address: address.to_string(),
        evictions: tokio::sync::Mutex::new(()),
        cgroup_parent: config.cgroup_parent.clone(),
        tokens: Arc::clone(&tokens),
        shutdown: stopped.clone(),
        told: Arc::default(),
    });
    let images = Images::new(
        store.clone(),
        ImageStore::open(&config.image_dir())?,
        config.images(),
        stopped.clone(),
    );
    let router = server::router(api, server::image_router(images.clone()));
    let serving = tokio::spawn(server::serve(
        listener,
        acceptor,
        router,
        guests.clone(),
        stopped.clone(),
    ));
    let dns = names.as_ref().map(|_| own::dns_address(config.service_cidr));
    let naming = tokio::spawn(answer_names(names, &store, &config, &guests, &stopped));
    let (balancing, routes) = proxy::start(
        store.clone(),
        proxy::Settings {
            addresses: config.service_cidr,
            own: [sockets.api, sockets.dns].into_iter().flatten().collect(),
            check: Duration::from_secs(config.network_check.into()),
        },
        has_pods(&store, &node_name),
        stopped.clone(),
    );
    let settings = controllers::Settings {
        authority: keys.authority.clone(),
        own,
        place: controllers::volumes::Place {
            folders: config.volume_dir(),
            node: node_name.clone(),
        },
        cgroup_parent: config.cgroup_parent.clone(),
    };
    let controlling = tokio::spawn(controllers::run(store.clone(), settings, stopped.clone()));
    let placing = tokio::spawn(scheduler::run(store.clone(), node_name.clone(), stopped.clone()));
    let context = NodeContext {
        store: store.clone(),
        images,
        tokens,
        config: node_config(&config, node_name),
        routes,
        guests,
        dns,
        shutdown: stopped,
    };
    let mut working = tokio::spawn(node::run(context));
    tracing::info!(%address, kubeconfig = %kubeconfig.display(), "berthd is ready");
    notify("READY=1");

    let failed = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        ended = &mut working => Some(ended),
    };
    tracing::info!("stopping; containers go on");
    notify("STOPPING=1");
    // Nobody is left to hear it if all parts have ended already.
    let _ = stop.send(true);
    let ended = match failed {
        Some(ended) => ended,
        None => working.await,
    };
    for (part, result) in [
        ("API server", serving.await),
        ("controllers", controlling.await),
        ("load balancing", balancing.await),
        ("DNS", naming.await),
        ("scheduler", placing.await),
    ] {
        if let Err(error) = result {
            tracing::error!(%error, part, "a part ended badly");
        }
    }
    store.close().await?;
    match ended {
        Ok(result) => Ok(result?),
        Err(error) => Err(ServiceError::Process(std::io::Error::other(error))),
    }
}

/// Where berthd itself is reached.
struct Sockets {
    api: Option<SocketAddrV4>,
    dns: Option<SocketAddrV4>,
}

/// Whether pods of an earlier berthd may be running.
fn has_pods(store: &Store, node_name: &str) -> bool {
    let mark = format!("\"nodeName\":\"{node_name}\"");
    let pods = store.list(kinds::POD, None).items;
    pods.iter().any(|pod| pod.json().contains(&mark))
}

/// The DNS server's sockets. Without them pods have the node's own name servers.
async fn listen_for_dns(store: &Store) -> Option<dns::Sockets> {
    dns::listen(own::dns_port(store))
        .await
        .inspect_err(|error| tracing::error!(%error, "no port of 127.0.0.1 is free for DNS: there are no names of Services"))
        .ok()
}

fn answer_names(
    sockets: Option<dns::Sockets>,
    store: &Store,
    config: &Config,
    guests: &proxy::Guests,
    stopped: &watch::Receiver<bool>,
) -> impl Future<Output = ()> + Send + use<> {
    let context = dns::Context {
        store: store.clone(),
        addresses: config.service_cidr,
        service: own::dns_address(config.service_cidr),
        guests: guests.clone(),
    };
    let stopped = stopped.clone();
    async move {
        if let Some(sockets) = sockets {
            dns::serve(sockets, context, stopped).await;
        }
    }
}

fn node_config(config: &Config, name: String) -> NodeConfig {
    NodeConfig {
        name,
        data_dir: config.data_dir.clone(),
        run_dir: config.run_dir.clone(),
        runtime: config.runtime.clone(),
        handlers: config.runtime_handler.iter().cloned().collect(),
        monitor: config.monitor.clone(),
        cni_bin_dir: config.cni_bin_dir.clone(),
        cni_conf_dir: config.cni_conf_dir.clone(),
        network_check: Duration::from_secs(config.network_check.into()),
        heartbeat: Duration::from_secs(config.node_status_report_frequency.into()),
        cgroup_parent: config.cgroup_parent.clone(),
        pod_ids: config.pod_ids,
        log_max_bytes: config.log_max_bytes,
        log_max_files: config.log_max_files,
        max_pods: config.max_pods,
        reserved: config.reserve.clone(),
        eviction: config.eviction(),
    }
}
