//! Users of an image: `user[:group]`, by name or number, as its own /etc/passwd and /etc/group
//! have them.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// More is no user database (and would be read into memory).
const SIZE_LIMIT: u64 = 4 << 20;

/// Whom a container's process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// The groups that /etc/group puts the user into, without `gid`.
    pub additional_gids: Vec<u32>,
    /// Home directory, `/` where /etc/passwd does not know the user.
    pub home: String,
}

/// Why a user cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// No such user in the image.
    #[error("the image's /etc/passwd has no user {name:?}")]
    User {
        /// The name.
        name: String,
    },
    /// No such group in the image.
    #[error("the image's /etc/group has no group {name:?}")]
    Group {
        /// The name.
        name: String,
    },
    /// A file of the image cannot be read.
    #[error("cannot read {file} in the image's root {root:?}")]
    File {
        /// The file.
        file: &'static str,
        /// The root.
        root: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
}

/// Finds `user[:group]` in the file system below `rootfs`, without leaving it through a link.
/// An empty text is root. A number need not be in /etc/passwd.
pub fn lookup(rootfs: &Path, text: &str) -> Result<User, UserError> {
    let (user, group) = text
        .split_once(':')
        .map_or((text, None), |(user, group)| (user, Some(group)));
    let passwd = read(rootfs, "/etc/passwd", "etc/passwd")?;
    let groups = read(rootfs, "/etc/group", "etc/group")?;
    find(&passwd, &groups, user, group.filter(|group| !group.is_empty()))
}

fn find(passwd: &str, groups: &str, user: &str, group: Option<&str>) -> Result<User, UserError> {
    let user = if user.is_empty() { "0" } else { user };
    let number = user.parse::<u32>().ok();
    // A line's name wins over its number, as in runc: a user may be called "1000".
    let line = records(passwd).find(|line| line[0] == user).or_else(|| {
        records(passwd)
            .find(|line| number.is_some() && line.get(2).and_then(|uid| uid.parse().ok()) == number)
    });
    let field = |index: usize| line.as_ref().and_then(|line| line.get(index).copied());
    let uid = field(2)
        .and_then(|uid| uid.parse().ok())
        .or(number)
        .ok_or_else(|| UserError::User {
            name: user.to_owned(),
        })?;
    let own_gid = field(3).and_then(|gid| gid.parse().ok()).unwrap_or(0);
    let name = field(0);
    let mut found = User {
        uid,
        gid: own_gid,
        additional_gids: Vec::new(),
        home: field(5).filter(|home| !home.is_empty()).unwrap_or("/").to_owned(),
    };
    if let Some(group) = group {
        // With a group given, only that group counts.
        found.gid = records(groups)
            .find(|line| line[0] == group)
            .and_then(|line| line.get(2)?.parse().ok())
            .or_else(|| group.parse().ok())
            .ok_or_else(|| UserError::Group {
                name: group.to_owned(),
            })?;
    } else if let Some(name) = name {
        for line in records(groups) {
            let member = line
                .get(3)
                .is_some_and(|members| members.split(',').any(|member| member == name));
            let gid = line.get(2).and_then(|gid| gid.parse().ok());
            if let Some(gid) = gid.filter(|gid| member && *gid != found.gid)
                && !found.additional_gids.contains(&gid)
            {
                found.additional_gids.push(gid);
            }
        }
    }
    Ok(found)
}

fn records(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split(':').collect())
}

/// A file that is not there is empty: images without one are usual.
fn read(rootfs: &Path, file: &'static str, path: &str) -> Result<String, UserError> {
    let failed = |source: io::Error| UserError::File {
        file,
        root: rootfs.to_owned(),
        source,
    };
    let root = File::open(rootfs).map_err(failed)?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let opened = match openat2(&root, path, how) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(String::new()),
        opened => File::from(opened.map_err(|error| failed(error.into()))?),
    };
    // A pipe or device in its place is not read: that could block, or never end.
    if !opened.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::new(
            io::ErrorKind::InvalidData,
            "not a regular file",
        )));
    }
    let mut bytes = Vec::new();
    opened.take(SIZE_LIMIT).read_to_end(&mut bytes).map_err(failed)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "# users\nroot:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n1000:x:5:6::/five:\n";
    const GROUPS: &str = "root:x:0:\napp:x:1001:\nvideo:x:44:app,other\naudio:x:45:app\nmine:x:1001:app\n";

    fn user(uid: u32, gid: u32, additional: &[u32], home: &str) -> User {
        User {
            uid,
            gid,
            additional_gids: additional.to_vec(),
            home: home.to_owned(),
        }
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        let cases = [
            ("", None, user(0, 0, &[], "/root")),
            ("app", None, user(1000, 1001, &[44, 45], "/home/app")),
            ("app", Some("video"), user(1000, 44, &[], "/home/app")),
            ("app", Some("7"), user(1000, 7, &[], "/home/app")),
            ("1000", None, user(5, 6, &[], "/five")),
            ("7000", None, user(7000, 0, &[], "/")),
            ("7000", Some("8"), user(7000, 8, &[], "/")),
        ];
        for (name, group, expected) in cases {
            assert_eq!(
                find(PASSWD, GROUPS, name, group).unwrap(),
                expected,
                "{name} {group:?}"
            );
        }
        assert_eq!(find("", "", "65532", None).unwrap(), user(65532, 0, &[], "/"));
        assert!(matches!(
            find(PASSWD, GROUPS, "nobody", None),
            Err(UserError::User { .. })
        ));
        assert!(matches!(
            find(PASSWD, GROUPS, "app", Some("nogroup")),
            Err(UserError::Group { .. })
        ));
    }

    #[test]
    fn links_do_not_lead_out_of_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let rootfs = folder.path().join("rootfs");
        std::fs::create_dir_all(rootfs.join("etc")).unwrap();
        std::fs::write(folder.path().join("secret"), "evil:x:9:9::/:\n").unwrap();
        std::os::unix::fs::symlink("../../secret", rootfs.join("etc/passwd")).unwrap();
        assert!(matches!(lookup(&rootfs, "evil"), Err(UserError::User { .. })));
        assert_eq!(lookup(&rootfs, "12").unwrap().uid, 12);
    }
}
