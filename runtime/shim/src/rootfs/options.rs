//! Options of a mount, in the form of fstab(5).

use std::path::{Path, PathBuf};

use berth_sys::loopdev::Loop;
use nix::mount::MsFlags;

/// Options of fstab(5) that are flags of mount(2): name, flag, whether it is set or taken away.
const FLAGS: [(&str, MsFlags, bool); 25] = [
    ("async", MsFlags::MS_SYNCHRONOUS, false),
    ("atime", MsFlags::MS_NOATIME, false),
    ("bind", MsFlags::MS_BIND, true),
    ("defaults", MsFlags::empty(), true),
    ("dev", MsFlags::MS_NODEV, false),
    ("diratime", MsFlags::MS_NODIRATIME, false),
    ("dirsync", MsFlags::MS_DIRSYNC, true),
    ("exec", MsFlags::MS_NOEXEC, false),
    ("mand", MsFlags::MS_MANDLOCK, true),
    ("noatime", MsFlags::MS_NOATIME, true),
    ("nodev", MsFlags::MS_NODEV, true),
    ("nodiratime", MsFlags::MS_NODIRATIME, true),
    ("noexec", MsFlags::MS_NOEXEC, true),
    ("nomand", MsFlags::MS_MANDLOCK, false),
    ("norelatime", MsFlags::MS_RELATIME, false),
    ("nostrictatime", MsFlags::MS_STRICTATIME, false),
    ("nosuid", MsFlags::MS_NOSUID, true),
    ("rbind", MsFlags::MS_BIND.union(MsFlags::MS_REC), true),
    ("relatime", MsFlags::MS_RELATIME, true),
    ("remount", MsFlags::MS_REMOUNT, true),
    ("ro", MsFlags::MS_RDONLY, true),
    ("rw", MsFlags::MS_RDONLY, false),
    ("strictatime", MsFlags::MS_STRICTATIME, true),
    ("suid", MsFlags::MS_NOSUID, false),
    ("sync", MsFlags::MS_SYNCHRONOUS, true),
];

const PROPAGATION: [(&str, MsFlags); 8] = [
    ("private", MsFlags::MS_PRIVATE),
    ("rprivate", MsFlags::MS_PRIVATE.union(MsFlags::MS_REC)),
    ("shared", MsFlags::MS_SHARED),
    ("rshared", MsFlags::MS_SHARED.union(MsFlags::MS_REC)),
    ("slave", MsFlags::MS_SLAVE),
    ("rslave", MsFlags::MS_SLAVE.union(MsFlags::MS_REC)),
    ("unbindable", MsFlags::MS_UNBINDABLE),
    ("runbindable", MsFlags::MS_UNBINDABLE.union(MsFlags::MS_REC)),
];

/// A range of ids: the first one inside, the first one on the host, how many.
pub(super) type Range = [u32; 3];

/// The ids of a user namespace: of users, of groups.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ids {
    pub users: Vec<Range>,
    pub groups: Vec<Range>,
}

/// Options by what they are for.
#[derive(Debug)]
pub(super) struct Options {
    pub flags: MsFlags,
    pub propagation: Vec<MsFlags>,
    /// For the file system.
    pub data: String,
    pub ids: Option<Ids>,
    looped: bool,
    direct: bool,
}

impl Options {
    /// Sorts options; an error says what is wrong with one.
    pub fn parse(options: &[String]) -> Result<Options, String> {
        let mut parsed = Options {
            flags: MsFlags::empty(),
            propagation: Vec::new(),
            data: String::new(),
            ids: None,
            looped: options.iter().any(|option| option == "loop"),
            direct: false,
        };
        let (mut users, mut groups) = (None, None);
        for option in options {
            if let Some((_, flag, set)) = FLAGS.iter().find(|(name, ..)| name == option) {
                parsed.flags.set(*flag, *set);
            } else if let Some((_, flag)) = PROPAGATION.iter().find(|(name, _)| name == option) {
                parsed.propagation.push(*flag);
            } else if option == "loop" {
            } else if option == "direct-io" && parsed.looped {
                parsed.direct = true;
            } else if let Some(ranges) = option.strip_prefix("uidmap=") {
                users = Some(self::ranges("uidmap", ranges)?);
            } else if let Some(ranges) = option.strip_prefix("gidmap=") {
                groups = Some(self::ranges("gidmap", ranges)?);
            } else {
                if !parsed.data.is_empty() {
                    parsed.data.push(',');
                }
                parsed.data.push_str(option);
            }
        }
        parsed.ids = match (users, groups) {
            (Some(users), Some(groups)) => Some(Ids { users, groups }),
            (None, None) => None,
            _ => return Err("uidmap and gidmap are only used together".to_owned()),
        };
        Ok(parsed)
    }

    /// The loop device for `file`, if the options ask for one.
    pub fn attach(&self, file: &str) -> std::io::Result<Option<Loop>> {
        if !self.looped {
            return Ok(None);
        }
        let read_only = self.flags.contains(MsFlags::MS_RDONLY);
        Loop::attach(Path::new(file), read_only, self.direct).map(Some)
    }
}

/// `INSIDE:HOST:COUNT`, separated by commas.
fn ranges(name: &str, text: &str) -> Result<Vec<Range>, String> {
    let range = |text: &str| -> Option<Range> {
        let numbers: Vec<u32> = text.split(':').map(str::parse).collect::<Result<_, _>>().ok()?;
        numbers.try_into().ok()
    };
    text.split(',').map(range).collect::<Option<_>>().ok_or_else(|| {
        format!("{name}={text}: must be INSIDE:HOST:COUNT, several of them separated by commas")
    })
}

/// The folder that all of overlay's `lowerdir` are below, and the layers relative to it.
pub(super) fn common_lower(data: &str) -> Option<(PathBuf, Vec<String>)> {
    let lower = data
        .split(',')
        .find_map(|option| option.strip_prefix("lowerdir="))?;
    let layers: Vec<&Path> = lower.split(':').map(Path::new).collect();
    let mut common = layers.first()?.parent().filter(|dir| dir.is_absolute())?;
    while !layers
        .iter()
        .all(|layer| layer.starts_with(common) && *layer != common)
    {
        common = common.parent()?;
    }
    let relative = layers
        .iter()
        .filter_map(|layer| layer.strip_prefix(common).ok())
        .map(|layer| layer.display().to_string())
        .collect();
    Some((common.to_owned(), relative))
}

/// Overlay's options with other layers.
pub(super) fn with_lower(data: &str, layers: &str) -> String {
    let options: Vec<String> = data
        .split(',')
        .map(|option| {
            if option.starts_with("lowerdir=") {
                format!("lowerdir={layers}")
            } else {
                option.to_owned()
            }
        })
        .collect();
    options.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Result<Options, String> {
        Options::parse(
            &options
                .iter()
                .map(|&option| option.to_owned())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn options_are_sorted() {
        let parsed = parse(&[
            "rbind",
            "ro",
            "nosuid",
            "suid",
            "rprivate",
            "lowerdir=/a:/b",
            "volatile",
            "direct-io",
        ]);
        let parsed = parsed.unwrap();
        assert_eq!(
            parsed.flags,
            MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_RDONLY
        );
        assert_eq!(parsed.propagation, [MsFlags::MS_PRIVATE | MsFlags::MS_REC]);
        assert_eq!(parsed.data, "lowerdir=/a:/b,volatile,direct-io");
        assert!(!parsed.looped && !parsed.direct && parsed.ids.is_none());
        let parsed = parse(&["loop", "direct-io", "noload"]).unwrap();
        assert!(parsed.looped && parsed.direct);
        assert_eq!(parsed.data, "noload");
    }

    #[test]
    fn ranges_of_ids_are_numbers() {
        let ids = parse(&["uidmap=0:65536:65536", "gidmap=0:1:2,5:6:7"])
            .unwrap()
            .ids
            .unwrap();
        assert_eq!(ids.users, [[0, 65536, 65536]]);
        assert_eq!(ids.groups, [[0, 1, 2], [5, 6, 7]]);
        for wrong in ["", "1", "1:2", "1:2:3:4", "a:b:c", "0:-1:5", "1:2:3,"] {
            let error = parse(&[&format!("uidmap={wrong}"), "gidmap=0:1:2"]).unwrap_err();
            assert!(error.contains("uidmap"), "{error}");
        }
        assert!(parse(&["uidmap=0:1:2"]).unwrap_err().contains("together"));
    }
}
