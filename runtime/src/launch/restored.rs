//! CRIU in the place of the first process: the host steps of `restore`.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use berth_sys::files::{self, O_DIRECTORY, O_PATH, O_RDONLY, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS};
use berth_sys::{process, socket};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::LaunchError;
use crate::criu::{self, CriuError, Event, Kind, Message, Response, Session, field};
use crate::plan::{External, Restore};

/// Name of CRIU's notification that the namespaces are there and nothing runs in them.
const NAMESPACES: &str = "setup-namespaces";
/// Its notification that comes with the master of a terminal.
const TERMINAL: &str = "orphan-pts-master";

/// A CRIU that restores.
#[derive(Debug)]
pub(super) struct Restoring {
    session: Session,
    /// The first process, once there is one.
    pub(super) pid: i32,
    /// CRIU waits for leave to go on.
    waits: bool,
    /// It has ended its work.
    done: Option<Response>,
    log: PathBuf,
    /// CRIU opens these once more, through this process's /proc/PID/fd.
    _keep: Vec<OwnedFd>,
    _root: Root,
}

/// The root file system as CRIU wants it: a mount point whose parent nothing covers.
#[derive(Debug)]
struct Root(PathBuf);

impl Root {
    fn new(rootfs: &Path, state_dir: &Path) -> io::Result<Self> {
        let path = state_dir.join("criu-root");
        fs::create_dir(&path)?;
        let root = Self(path.canonicalize()?);
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(rootfs), &root.0, None::<&str>, flags, None::<&str>)?;
        Ok(root)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.0);
    }
}

fn system(what: &'static str) -> impl Fn(io::Error) -> LaunchError {
    move |source| LaunchError::System { what, source }
}

fn open(path: &Path, flags: u64) -> Result<OwnedFd, LaunchError> {
    files::open(path, flags).map_err(|source| LaunchError::Source {
        path: path.to_path_buf(),
        source,
    })
}

/// A place below a root as the kernel walks there, links resolved; as it is if it does not exist.
pub fn resolve(root: &Path, place: &Path) -> PathBuf {
    let resolved = || -> io::Result<PathBuf> {
        let dir = files::open(root, O_PATH | O_DIRECTORY)?;
        let top = fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd()))?;
        let resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
        let found = files::openat2(dir.as_fd(), place, O_PATH, 0, resolve)?;
        let found = fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
        let below = found.strip_prefix(&top).map_err(io::Error::other)?;
        Ok(Path::new("/").join(below))
    };
    resolved().unwrap_or_else(|_| place.to_path_buf())
}

/// Standard streams that are pipes: their other ends are the engine's, so the restored process gets this process's
/// in their place.
fn inherited_pipes(images: &Path, options: &mut Message) -> Result<(), LaunchError> {
    let file = images.join(criu::DESCRIPTORS);
    let fail = |source| LaunchError::Source {
        path: file.clone(),
        source,
    };
    let text = fs::read(&file).map_err(fail)?;
    let names: Vec<String> = serde_json::from_slice(&text)
        .map_err(io::Error::from)
        .map_err(fail)?;
    for (number, name) in names
        .iter()
        .enumerate()
        .filter(|(_, name)| name.contains("pipe:"))
    {
        let mut inherit = Message::new();
        inherit.text(1, name).number(2, number as i64);
        options.message(field::INHERIT_FD, inherit);
    }
    Ok(())
}

impl Restoring {
    /// Starts CRIU in the container's cgroups and asks it for the container.
    pub(super) fn start(
        restore: &Restore,
        state_dir: &Path,
        cgroup: &berth_cgroups::Cgroup,
    ) -> Result<Self, LaunchError> {
        let root =
            Root::new(&restore.rootfs, state_dir).map_err(system("bind the root file system for criu"))?;
        let mut options = restore.options.clone();
        options.text(field::ROOT, root.0.as_os_str().as_bytes());
        let images = open(&restore.images.images, O_RDONLY | O_DIRECTORY)?;
        options.number(field::IMAGES_DIR_FD, i64::from(images.as_raw_fd()));
        let mut keep = vec![images];
        let mut log = &restore.images.images;
        if let Some(work) = &restore.images.work {
            let dir = open(work, O_RDONLY | O_DIRECTORY)?;
            options.number(field::WORK_DIR_FD, i64::from(dir.as_raw_fd()));
            keep.push(dir);
            log = work;
        }
        for (key, path) in &restore.namespaces {
            let namespace = open(path, O_RDONLY)?;
            let mut inherit = Message::new();
            inherit.text(1, key).number(2, i64::from(namespace.as_raw_fd()));
            options.message(field::INHERIT_FD, inherit);
            keep.push(namespace);
        }
        for external in &restore.externals {
            let (target, source) = match external {
                External::Bind { target, source } => (target, source),
                External::Mask { path } | External::Device { path } => (path, path),
            };
            let place = resolve(&restore.rootfs, target);
            let pair = Message::pair(place.as_os_str().as_bytes(), source.as_os_str().as_bytes());
            options.message(field::EXT_MNT, pair);
        }
        inherited_pipes(&restore.images.images, &mut options)?;
        let borrowed: Vec<_> = keep.iter().map(AsFd::as_fd).collect();
        let session = Session::start(true, &borrowed)?;
        // What CRIU makes is born where it is itself.
        cgroup.add(session.pid() as u32).map_err(LaunchError::Cgroup)?;
        for (controllers, path) in places(session.pid()).map_err(system("read the cgroups of criu"))? {
            options.message(field::CG_ROOT, Message::pair(controllers, path));
        }
        session.ask(Kind::Restore, options)?;
        Ok(Self {
            session,
            pid: 0,
            waits: false,
            done: None,
            log: log.join("restore.log"),
            _keep: keep,
            _root: root,
        })
    }

    /// Goes on until the namespaces are there, or to the end if CRIU does not say so.
    pub(super) fn await_namespaces(&mut self, console: &mut Option<OwnedFd>) -> Result<(), LaunchError> {
        let result = self.until(Some(NAMESPACES), console);
        result.inspect_err(|_| criu::quote(&self.log))
    }

    /// Lets CRIU go on.
    pub(super) fn go_on(&mut self) -> Result<(), LaunchError> {
        if std::mem::take(&mut self.waits) {
            self.session.go_on()?;
        }
        Ok(())
    }

    /// Goes on to the end; returns the first process.
    pub(super) fn finish(mut self, console: &mut Option<OwnedFd>) -> Result<i32, LaunchError> {
        let ended = self.until(None, console).and_then(|()| {
            let pid = self.done.as_ref().and_then(|response| response.restored);
            Ok(pid.ok_or(CriuError::Protocol)?)
        });
        let pid = ended.inspect_err(|_| criu::quote(&self.log))?;
        self.session.finish(Kind::Restore)?;
        Ok(pid)
    }

    fn until(&mut self, point: Option<&str>, console: &mut Option<OwnedFd>) -> Result<(), LaunchError> {
        while self.done.is_none() {
            match self.session.wait()? {
                Event::Done(response) => self.done = Some(response),
                Event::Notify {
                    script,
                    pid,
                    descriptor,
                } => {
                    if pid > 0 {
                        self.pid = pid;
                    }
                    if let (TERMINAL, Some(master)) = (script.as_str(), descriptor) {
                        let socket = console.take().ok_or(LaunchError::NoConsole)?;
                        socket::send_fd(socket.as_fd(), b"orphan-pts-master", master.as_fd())
                            .map_err(system("send the terminal to the console socket"))?;
                    }
                    if point == Some(script.as_str()) {
                        self.waits = true;
                        return Ok(());
                    }
                    self.session.go_on()?;
                }
            }
        }
        Ok(())
    }

    /// Brings the loopback device of the new network namespace up, as the first process does at a creation.
    pub(super) fn loopback(&self) -> Result<(), LaunchError> {
        const NETWORK: u64 = libc::CLONE_NEWNET as u64;
        let fail = system("bring the loopback device up");
        let own = files::open(Path::new("/proc/self/ns/net"), O_RDONLY).map_err(&fail)?;
        let path = format!("/proc/{}/ns/net", self.pid);
        let theirs = files::open(Path::new(&path), O_RDONLY).map_err(&fail)?;
        process::join(theirs.as_fd(), NETWORK).map_err(&fail)?;
        let up = berth_sys::raw::loopback_up().map_err(|errno| io::Error::from_raw_os_error(errno.0));
        process::join(own.as_fd(), NETWORK).map_err(&fail)?;
        up.map_err(&fail)
    }
}

/// Controllers and path of each line of /proc/PID/cgroup (cgroups(7)).
fn places(pid: i32) -> io::Result<Vec<(String, String)>> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let mut found = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        if let (Some(controllers), Some(path)) = (fields.next(), fields.next()) {
            found.extend(
                controllers
                    .split(',')
                    .map(|name| (name.to_owned(), path.to_owned())),
            );
        }
    }
    Ok(found)
}

/// Makes a place for a mount below `base`, if it is missing: a file if `like` is one, else a folder.
pub(super) fn mount_point(base: &Path, place: &Path, like: Option<&Path>) -> Result<(), LaunchError> {
    let fail = |source| LaunchError::Source {
        path: base.join(place.strip_prefix("/").unwrap_or(place)),
        source,
    };
    let file = match like {
        Some(source) => !fs::metadata(source)
            .map_err(|error| LaunchError::Source {
                path: source.to_path_buf(),
                source: error,
            })?
            .is_dir(),
        None => false,
    };
    let root = files::open(base, O_PATH | O_DIRECTORY).map_err(fail)?;
    let resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
    let exists = |path: &Path| files::openat2(root.as_fd(), path, O_PATH, 0, resolve);
    if exists(place).is_ok() {
        return Ok(());
    }
    let mut above = root.try_clone().map_err(fail)?;
    let names: Vec<_> = place.iter().filter(|name| *name != "/").collect();
    let mut way = PathBuf::from("/");
    for (index, name) in names.iter().enumerate() {
        way.push(name);
        match exists(&way) {
            Ok(here) => above = here,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if file && index + 1 == names.len() {
                    files::make_file(above.as_fd(), name, 0o644).map_err(fail)?;
                    return Ok(());
                }
                files::make_folder(above.as_fd(), name, 0o755).map_err(fail)?;
                above = exists(&way).map_err(fail)?;
            }
            Err(error) => return Err(fail(error)),
        }
    }
    Ok(())
}
