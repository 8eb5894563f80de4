//! `checkpoint`: a running container goes into image files, by CRIU.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use berth_sys::files::{self, O_DIRECTORY, O_RDONLY};
use clap::Args;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::{Context, ExitCode};
use crate::bundle::Bundle;
use crate::container::Container;
use crate::criu::{self, CriuError, Event, Kind, Message, Session, Version, field};
use crate::error::{Error, ImageError};
use crate::host::HostFacts;
use crate::launch;
use crate::log;
use crate::plan::{self, CgroupsMode, CreateOptions, External, Gate, ImageOptions};
use crate::state::Status;

/// Fields of `criu_features`.
const MEM_TRACK: u32 = 1;
const LAZY_PAGES: u32 = 2;
/// Value of `criu_network_lock_method`.
const NFTABLES: i64 = 2;
/// Where images are without `--image-path`, below the working directory.
const DEFAULT_IMAGES: &str = "checkpoint";

/// Options of `checkpoint` and `restore`.
#[derive(Debug, Args)]
pub(super) struct ImageArgs {
    /// Path of the criu image files [default: ./checkpoint]
    #[arg(long, value_name = "DIR")]
    image_path: Option<PathBuf>,
    /// Path for work files and logs
    #[arg(long, value_name = "DIR")]
    work_path: Option<PathBuf>,
    /// Allow open tcp connections
    #[arg(long)]
    tcp_established: bool,
    /// Allow external unix sockets
    #[arg(long)]
    ext_unix_sk: bool,
    /// Allow shell jobs
    #[arg(long)]
    shell_job: bool,
    /// Handle file locks, for safety
    #[arg(long)]
    file_locks: bool,
    /// Cgroups mode: soft, full, strict or ignore
    #[arg(long, value_name = "MODE", default_value = "")]
    manage_cgroups_mode: String,
    /// Create a namespace, but do not restore its properties
    #[arg(long, value_name = "KIND")]
    empty_ns: Vec<String>,
    /// Enable auto deduplication of memory images
    #[arg(long)]
    auto_dedup: bool,
    /// Use userfaultfd to lazily restore memory pages
    #[arg(long)]
    lazy_pages: bool,
}

impl ImageArgs {
    /// The options, checked. The images' folder, and the one for CRIU's work, are made if they are missing.
    pub(super) fn parse(&self) -> Result<ImageOptions, Error> {
        let word = &self.manage_cgroups_mode;
        let cgroups =
            CgroupsMode::parse(word).ok_or_else(|| ImageError::CgroupsMode { word: word.clone() })?;
        if let Some(kind) = self.empty_ns.iter().find(|kind| *kind != "network") {
            return Err(ImageError::EmptyNamespace { kind: kind.clone() }.into());
        }
        let images = self
            .image_path
            .as_deref()
            .filter(|path| !path.as_os_str().is_empty());
        let images = super::absolute(images.unwrap_or(Path::new(DEFAULT_IMAGES)))?;
        let work = self
            .work_path
            .as_deref()
            .filter(|path| !path.as_os_str().is_empty());
        let work = work.map(super::absolute).transpose()?;
        Ok(ImageOptions {
            images,
            work,
            tcp_established: self.tcp_established,
            external_unix_sockets: self.ext_unix_sk,
            shell_job: self.shell_job,
            file_locks: self.file_locks,
            cgroups,
            // Devices of networks and their addresses are the engine's business, as with runc.
            empty_namespaces: libc::CLONE_NEWNET as u64,
            auto_dedup: self.auto_dedup,
            lazy_pages: self.lazy_pages,
        })
    }
}

/// Checkpoint a running container
///
/// Saves the state of the container and ends it, unless asked otherwise.
#[derive(Debug, Args)]
pub(super) struct CheckpointArgs {
    #[command(flatten)]
    images: ImageArgs,
    /// Path of previous criu image files in pre-dump, relative to --image-path
    #[arg(long, value_name = "DIR")]
    parent_path: Option<PathBuf>,
    /// Leave the process running after checkpointing
    #[arg(long)]
    leave_running: bool,
    /// Skip in-flight tcp connections
    #[arg(long)]
    tcp_skip_in_flight: bool,
    /// Allow one to link unlinked files back when possible
    #[arg(long)]
    link_remap: bool,
    /// A zero byte is written to this descriptor once lazy-pages is ready
    #[arg(long, value_name = "FD", default_value_t = -1, allow_negative_numbers = true)]
    status_fd: i32,
    /// ADDRESS:PORT of the page server
    #[arg(long, value_name = "ADDRESS:PORT")]
    page_server: Option<String>,
    /// Dump the container's memory information only, leave the container running after this
    #[arg(long)]
    pre_dump: bool,
    /// The container's id
    #[arg(value_name = "CONTAINER-ID")]
    ids: Vec<String>,
}

pub(super) fn run(context: &Context, args: &CheckpointArgs) -> Result<ExitCode, Error> {
    let id = super::one_id("checkpoint", &args.ids)?;
    warn_rootless("checkpoint")?;
    let lock = context.root.lock(&id)?;
    let container = Container::load(&context.root, &id)?;
    match container.status()? {
        Status::Running | Status::Paused => {}
        status => return Err(ImageError::NotRunning { status }.into()),
    }
    let images = args.images.parse()?;
    folders(&images)?;
    let kind = if args.pre_dump { Kind::PreDump } else { Kind::Dump };
    let mut options = Message::new();
    parent(&mut options, &images.images, args.parent_path.as_deref())?;
    page_server(&mut options, args.page_server.as_deref())?;
    options
        .flag(field::LEAVE_RUNNING, args.leave_running)
        .flag(field::TCP_SKIP_IN_FLIGHT, args.tcp_skip_in_flight)
        .flag(field::LINK_REMAP, args.link_remap);
    if images.tcp_established && !has_iptables() {
        options.number(field::NETWORK_LOCK, NFTABLES);
    }
    let status = status_fd(&images, args.status_fd, &mut options)?;
    if kind == Kind::PreDump {
        criu::check_feature(MEM_TRACK, "MemTrack")?;
    }
    if images.lazy_pages {
        criu::check_feature(LAZY_PAGES, "LazyPages")?;
    }
    dump(&container, kind, &images, options, status)?;
    if kind == Kind::Dump && !args.leave_running {
        container.kill_and_wait()?;
        container.destroy(lock)?;
    }
    Ok(0)
}

pub(super) fn warn_rootless(verb: &str) -> Result<(), Error> {
    if !nix::unistd::geteuid().is_root() || crate::host::in_user_namespace()? {
        log::warn(&format!("berth {verb} is untested with rootless containers"));
    }
    Ok(())
}

/// Makes the folders that are to be written to.
pub(super) fn folders(images: &ImageOptions) -> Result<(), ImageError> {
    let make = |option, path: &Path| {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|source| ImageError::Folder {
            option,
            path: path.to_path_buf(),
            source,
        })
    };
    make("--image-path", &images.images)?;
    images
        .work
        .as_deref()
        .map_or(Ok(()), |work| make("--work-path", work))
}

/// CRIU locks connections while it saves them by running iptables-restore, unless it is told otherwise.
fn has_iptables() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join("iptables-restore").exists())
}

fn parent(options: &mut Message, images: &Path, parent: Option<&Path>) -> Result<(), ImageError> {
    let Some(parent) = parent.filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(());
    };
    if parent.is_absolute() {
        return Err(ImageError::AbsoluteParent);
    }
    let path = images.join(parent);
    let found = fs::metadata(&path).and_then(|found| {
        if found.is_dir() {
            Ok(())
        } else {
            Err(io::ErrorKind::NotADirectory.into())
        }
    });
    found.map_err(|source| ImageError::Parent { path, source })?;
    options
        .text(field::PARENT_IMG, parent.as_os_str().as_bytes())
        .flag(field::TRACK_MEM, true);
    Ok(())
}

fn page_server(options: &mut Message, server: Option<&str>) -> Result<(), ImageError> {
    let Some(server) = server.filter(|server| !server.is_empty()) else {
        return Ok(());
    };
    let (address, port) = server.rsplit_once(':').ok_or(ImageError::PageServer)?;
    let address = address
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .unwrap_or(address);
    let port: u16 = port.parse().map_err(|_| ImageError::PageServer)?;
    if address.is_empty() || port == 0 {
        return Err(ImageError::PageServer);
    }
    let mut message = Message::new();
    message.text(1, address).number(2, i64::from(port));
    options.message(field::PAGE_SERVER, message);
    Ok(())
}

/// The descriptor to tell that the lazy pages' server is ready. CRIU before 3.15 writes to it itself.
fn status_fd(images: &ImageOptions, fd: i32, options: &mut Message) -> Result<Option<OwnedFd>, Error> {
    if fd == -1 || !images.lazy_pages {
        return Ok(None);
    }
    let invalid = |_| Error::from(ImageError::StatusFd { fd });
    let file = files::inherited(fd).map_err(invalid)?;
    let flags = fcntl(&file, FcntlArg::F_GETFL).map_err(|errno| invalid(errno.into()))?;
    if OFlag::from_bits_truncate(flags) & OFlag::O_ACCMODE == OFlag::O_RDONLY {
        return Err(ImageError::StatusFd { fd }.into());
    }
    if criu::version()? < Version(3, 15, 0) {
        options.number(field::STATUS_FD, i64::from(file.as_raw_fd()));
    }
    Ok(Some(file))
}

/// Asks CRIU for it.
fn dump(
    container: &Container,
    kind: Kind,
    images: &ImageOptions,
    mut options: Message,
    status: Option<OwnedFd>,
) -> Result<(), Error> {
    let record = &container.record;
    let spec = container.spec()?;
    let mut host = HostFacts::collect()?;
    host.look_at(&spec);
    let bundle = Bundle {
        path: record.bundle.clone(),
        rootfs: record.rootfs.clone(),
        spec,
        config: Vec::new(),
        warnings: Vec::new(),
    };
    let create = CreateOptions {
        id: &record.id,
        cgroup_paths: &record.cgroup_paths,
        no_pivot: false,
        no_new_keyring: false,
        preserve_fds: 0,
        listen_fds: 0,
        console: true,
        gate: Gate::Direct,
        seccomp: None,
        network: false,
    };
    let planned = plan::checkpoint(&bundle, &host, &create, images)?;
    let mut request = planned.options;
    request.number(field::PID, i64::from(record.pid));
    if let Some(freezer) = record
        .cgroup_paths
        .get("freezer")
        .or_else(|| record.cgroup_paths.get(""))
    {
        request.text(field::FREEZE_CGROUP, freezer.as_os_str().as_bytes());
    }
    for (word, key, path) in &planned.namespaces {
        let found = fs::metadata(path).map_err(|source| ImageError::Namespace {
            path: path.clone(),
            source,
        })?;
        request.text(field::EXTERNAL, format!("{word}[{}]:{key}", found.ino()));
    }
    if kind == Kind::Dump {
        name_externals(&mut request, &planned.externals, record.pid);
        write_descriptors(&images.images, &record.descriptors)?;
    }
    request.append(&mut options);
    let opened = |option, path: &Path| {
        files::open(path, O_RDONLY | O_DIRECTORY).map_err(|source| ImageError::Folder {
            option,
            path: path.to_path_buf(),
            source,
        })
    };
    let mut keep = vec![opened("--image-path", &images.images)?];
    request.number(field::IMAGES_DIR_FD, i64::from(keep[0].as_raw_fd()));
    if let Some(work) = &images.work {
        let work = opened("--work-path", work)?;
        request.number(field::WORK_DIR_FD, i64::from(work.as_raw_fd()));
        keep.push(work);
    }
    let borrowed: Vec<_> = keep.iter().map(AsFd::as_fd).collect();
    let log_dir = images.work.as_ref().unwrap_or(&images.images);
    session(kind, request, &borrowed, status).map_err(|error| {
        criu::quote(&log_dir.join("dump.log"));
        error.into()
    })
}

/// What is bound, covered or made from outside, under the names that it has inside.
fn name_externals(request: &mut Message, externals: &[External], pid: i32) {
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    for external in externals {
        let pair = match external {
            External::Bind { target, .. } => {
                let place = launch::resolve(&root, target);
                Message::pair(place.as_os_str().as_bytes(), place.as_os_str().as_bytes())
            }
            External::Device { path } => {
                Message::pair(path.as_os_str().as_bytes(), path.as_os_str().as_bytes())
            }
            External::Mask { path } => {
                let below = root.join(path.strip_prefix("/").unwrap_or(path));
                // A folder is covered by a file system of its own, and what is not there by nothing.
                if fs::metadata(&below).map_or(true, |found| found.is_dir()) {
                    continue;
                }
                let place = launch::resolve(&root, path);
                Message::pair(place.as_os_str().as_bytes(), "/dev/null")
            }
        };
        request.message(field::EXT_MNT, pair);
    }
}

fn write_descriptors(images: &Path, descriptors: &[String]) -> Result<(), Error> {
    let path = images.join(criu::DESCRIPTORS);
    let text = serde_json::to_vec(descriptors).map_err(|source| Error::Json { source })?;
    fs::write(&path, text).map_err(|source| {
        ImageError::Folder {
            option: "--image-path",
            path,
            source,
        }
        .into()
    })
}

fn session(
    kind: Kind,
    request: Message,
    keep: &[std::os::fd::BorrowedFd<'_>],
    mut status: Option<OwnedFd>,
) -> Result<(), CriuError> {
    let mut session = Session::start(false, keep)?;
    session.ask(kind, request)?;
    loop {
        match session.wait()? {
            Event::Done(_) => break,
            Event::Notify { script, .. } => {
                if script == "status-ready"
                    && let Some(fd) = status.take()
                    && let Err(errno) = nix::unistd::write(&fd, &[0])
                {
                    log::warn(&format!("can't write \\0 to status fd: {}", errno.desc()));
                }
                session.go_on()?;
            }
        }
    }
    session.finish(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_servers_have_an_address_and_a_port() {
        for good in ["127.0.0.1:1234", "[::1]:1", "host:65535"] {
            assert!(page_server(&mut Message::new(), Some(good)).is_ok(), "{good}");
        }
        for bad in ["127.0.0.1", ":1234", "host:", "host:x", "host:0", "host:70000"] {
            assert!(page_server(&mut Message::new(), Some(bad)).is_err(), "{bad}");
        }
        let mut options = Message::new();
        page_server(&mut options, Some("[::1]:7")).unwrap();
        let server = options.get_message(field::PAGE_SERVER).unwrap().unwrap();
        assert_eq!(
            (server.get_text(1).unwrap(), server.get_number(2).unwrap()),
            ("::1".to_owned(), 7)
        );
    }

    #[test]
    fn parents_are_relative_folders() {
        let dir = tempfile::tempdir().unwrap();
        let images = dir.path().join("images");
        fs::create_dir_all(&images).unwrap();
        fs::create_dir(dir.path().join("parent")).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let ask = |path: &str| parent(&mut Message::new(), &images, Some(Path::new(path)));
        assert!(ask("../parent").is_ok());
        assert!(ask("").is_ok());
        assert!(matches!(ask("/tmp"), Err(ImageError::AbsoluteParent)));
        assert!(matches!(ask("../nosuch"), Err(ImageError::Parent { .. })));
        assert!(matches!(ask("../file"), Err(ImageError::Parent { .. })));
    }
}
