//! Leases on disk, in the reference host-local's format, so that a node can change over with
//! containers running: `<dataDir>/<network>/<address>` holds `container\r\ninterface`,
//! `last_reserved_ip.<set>` the last address given, and flock(2) on `lock` guards all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

use crate::protocol::{Attachment, Failure};

const SEPARATOR: &str = "\r\n";
const LAST: &str = "last_reserved_ip.";

/// A network's leases, locked for as long as this lives.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    _lock: Flock<File>,
}

/// One lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub ip: IpAddr,
    /// Who has it.
    pub holder: Attachment,
}

impl Store {
    /// Opens and locks the leases of a network; makes the directory.
    pub fn open(data_dir: &Path, network: &str) -> Result<Self, Failure> {
        let dir = data_dir.join(network);
        fs::create_dir_all(&dir).map_err(|e| Failure::io("create the lease directory", &dir, &e))?;
        Self::lock(dir)
    }

    /// As [`Store::open`], but absent when the network has never had a lease.
    pub fn find(data_dir: &Path, network: &str) -> Result<Option<Self>, Failure> {
        let dir = data_dir.join(network);
        if dir.is_dir() {
            Self::lock(dir).map(Some)
        } else {
            Ok(None)
        }
    }

    fn lock(dir: PathBuf) -> Result<Self, Failure> {
        let path = dir.join("lock");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| Failure::io("open the lease lock", &path, &e))?;
        let mut file = file;
        loop {
            match Flock::lock(file, FlockArg::LockExclusive) {
                Ok(lock) => return Ok(Self { dir, _lock: lock }),
                Err((back, nix::errno::Errno::EINTR)) => file = back,
                Err((_, e)) => return Err(Failure::io("lock", &path, &io::Error::from(e))),
            }
        }
    }

    /// All leases.
    pub fn leases(&self) -> Result<Vec<Lease>, Failure> {
        let entries = fs::read_dir(&self.dir).map_err(|e| Failure::io("list leases in", &self.dir, &e))?;
        let mut leases = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(ip) = name.to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            match fs::read_to_string(entry.path()) {
                Ok(text) => leases.push(Lease {
                    ip,
                    holder: parse_holder(&text),
                }),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(Failure::io("read lease", &entry.path(), &e)),
            }
        }
        Ok(leases)
    }

    /// The lease of one address.
    pub fn lease(&self, ip: IpAddr) -> Result<Option<Lease>, Failure> {
        let path = self.dir.join(ip.to_string());
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(Lease {
                ip,
                holder: parse_holder(&text),
            })),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Failure::io("read lease", &path, &e)),
        }
    }

    /// Reserves an address; `false` when somebody has it.
    pub fn reserve(&self, ip: IpAddr, holder: &Attachment, set: usize) -> Result<bool, Failure> {
        let path = self.dir.join(ip.to_string());
        let mut file = match OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
        {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(e) => return Err(Failure::io("create lease", &path, &e)),
        };
        let text = format!("{}{SEPARATOR}{}", holder.container, holder.ifname);
        let last = self.dir.join(format!("{LAST}{set}"));
        let written = file
            .write_all(text.as_bytes())
            .map_err(|e| Failure::io("write lease", &path, &e))
            .and_then(|()| write_private(&last, &ip.to_string()));
        if let Err(failure) = written {
            let _ = fs::remove_file(&path);
            return Err(failure);
        }
        Ok(true)
    }

    /// The last address given from a set.
    pub fn last(&self, set: usize) -> Option<IpAddr> {
        fs::read_to_string(self.dir.join(format!("{LAST}{set}")))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// Gives an address back; one that nobody has is fine.
    pub fn release(&self, ip: IpAddr) -> Result<(), Failure> {
        let path = self.dir.join(ip.to_string());
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Failure::io("remove lease", &path, &e)),
            _ => Ok(()),
        }
    }

    /// Gives back everything that an attachment has, also by leases from before 0.7 that have no
    /// interface.
    pub fn release_all(&self, holder: &Attachment) -> Result<(), Failure> {
        let leases = self.leases()?;
        let mine: Vec<&Lease> = leases.iter().filter(|l| l.holder == *holder).collect();
        let old = || {
            leases
                .iter()
                .filter(|l| l.holder.ifname.is_empty() && l.holder.container == holder.container)
        };
        let release = if mine.is_empty() { old().collect() } else { mine };
        for lease in release {
            self.release(lease.ip)?;
        }
        Ok(())
    }
}

fn parse_holder(text: &str) -> Attachment {
    let mut lines = text.trim().lines();
    let mut next = || lines.next().unwrap_or_default().trim().to_owned();
    Attachment {
        container: next(),
        ifname: next(),
    }
}

fn write_private(path: &Path, text: &str) -> Result<(), Failure> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| Failure::io("write", path, &e))?;
    file.write_all(text.as_bytes())
        .map_err(|e| Failure::io("write", path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_the_references() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), "net").unwrap();
        let holder = Attachment {
            container: "c1".into(),
            ifname: "eth0".into(),
        };
        let ip: IpAddr = "10.0.0.5".parse().unwrap();
        assert!(store.reserve(ip, &holder, 0).unwrap());
        assert!(!store.reserve(ip, &holder, 0).unwrap());
        let read = |name: &str| fs::read_to_string(dir.path().join("net").join(name)).unwrap();
        assert_eq!(read("10.0.0.5"), "c1\r\neth0");
        assert_eq!(read("last_reserved_ip.0"), "10.0.0.5");
        assert_eq!(
            store.leases().unwrap(),
            [Lease {
                ip,
                holder: holder.clone()
            }]
        );
        store
            .release_all(&Attachment {
                ifname: "eth1".into(),
                ..holder.clone()
            })
            .unwrap();
        assert!(
            store.lease(ip).unwrap().is_some(),
            "another interface's lease stays"
        );
        store.release_all(&holder).unwrap();
        assert!(store.lease(ip).unwrap().is_none());
        fs::write(dir.path().join("net/10.0.0.6"), "c1").unwrap();
        store.release_all(&holder).unwrap();
        assert!(
            store.leases().unwrap().is_empty(),
            "a lease of the old format goes by its container"
        );
    }
}
