//! Mount options as fstab(5), mount(8) and runtime-spec (config.md, "Linux mount options") name them.

use berth_sys::mount::{
    MOUNT_ATTR_ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, MOUNT_ATTR_STRICTATIME, MS_PRIVATE,
    MS_SHARED, MS_SLAVE, MS_UNBINDABLE,
};

/// Whose id mapping a mount gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdMap {
    /// The top mount.
    Top,
    /// The whole subtree.
    Recursive,
}

/// Options sorted by what they are applied with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// MOUNT_ATTR_* to set on the mount.
    pub set: u64,
    /// MOUNT_ATTR_* to clear.
    pub clear: u64,
    /// Of those to clear, the ones that were asked for by name.
    pub cleared_by_name: u64,
    /// MOUNT_ATTR_* to set on the whole subtree.
    pub set_all: u64,
    /// MOUNT_ATTR_* to clear on the whole subtree.
    pub clear_all: u64,
    /// MS_* propagation, 0 if none is named.
    pub propagation: u64,
    /// Whether the propagation is for the whole subtree.
    pub propagation_all: bool,
    /// `bind` or `rbind`.
    pub bind: bool,
    /// `rbind`.
    pub recursive: bool,
    /// `tmpcopyup`.
    pub copy_up: bool,
    /// `idmap`, `ridmap`.
    pub idmap: Option<IdMap>,
    /// `src-nofollow`.
    pub source_nofollow: bool,
    /// `dest-nofollow`.
    pub target_nofollow: bool,
    /// What is for the file system: flags of its superblock and its own options.
    pub data: Vec<String>,
}

/// (name, attribute, whether it sets it). The recursive form has an `r` in front (config.md).
const ATTRIBUTES: &[(&str, u64, bool)] = &[
    ("ro", MOUNT_ATTR_RDONLY, true),
    ("rw", MOUNT_ATTR_RDONLY, false),
    ("nosuid", MOUNT_ATTR_NOSUID, true),
    ("suid", MOUNT_ATTR_NOSUID, false),
    ("nodev", MOUNT_ATTR_NODEV, true),
    ("dev", MOUNT_ATTR_NODEV, false),
    ("noexec", MOUNT_ATTR_NOEXEC, true),
    ("exec", MOUNT_ATTR_NOEXEC, false),
    ("nodiratime", MOUNT_ATTR_NODIRATIME, true),
    ("diratime", MOUNT_ATTR_NODIRATIME, false),
    ("nosymfollow", MOUNT_ATTR_NOSYMFOLLOW, true),
    ("symfollow", MOUNT_ATTR_NOSYMFOLLOW, false),
];

/// (name, access time mode). They exclude each other, so each clears the whole mask first.
const ACCESS_TIMES: &[(&str, u64)] = &[
    ("noatime", MOUNT_ATTR_NOATIME),
    ("atime", 0),
    ("relatime", 0),
    // As with mount(2), whose default is relatime: `strictatime` is the word for the other.
    ("norelatime", 0),
    ("strictatime", MOUNT_ATTR_STRICTATIME),
    ("nostrictatime", 0),
];

const PROPAGATIONS: &[(&str, u64)] = &[
    ("shared", MS_SHARED),
    ("private", MS_PRIVATE),
    ("slave", MS_SLAVE),
    ("unbindable", MS_UNBINDABLE),
];

/// The propagation a word stands for, and whether it is for the whole subtree.
pub fn propagation(word: &str) -> Option<(u64, bool)> {
    let find = |name: &str| PROPAGATIONS.iter().find(|(known, _)| *known == name);
    match find(word) {
        Some((_, flag)) => Some((*flag, false)),
        None => find(word.strip_prefix('r')?).map(|(_, flag)| (*flag, true)),
    }
}

impl MountOptions {
    /// Sorts the options. What is not known is for the file system, which refuses what it does not know either.
    pub fn parse<S: AsRef<str>>(options: &[S]) -> Self {
        let mut parsed = Self::default();
        for option in options {
            let option = option.as_ref();
            if !(parsed.mode(option)
                || parsed.attribute(option, false)
                || option
                    .strip_prefix('r')
                    .is_some_and(|name| parsed.attribute(name, true)))
            {
                parsed.data.push(option.to_owned());
            }
        }
        parsed
    }

    fn mode(&mut self, option: &str) -> bool {
        match option {
            "bind" => self.bind = true,
            "rbind" => (self.bind, self.recursive) = (true, true),
            "tmpcopyup" => self.copy_up = true,
            "idmap" => self.idmap = Some(IdMap::Top),
            "ridmap" => self.idmap = Some(IdMap::Recursive),
            "src-nofollow" => self.source_nofollow = true,
            "dest-nofollow" => self.target_nofollow = true,
            // Nothing to do: these are how things are, or only change what the kernel logs.
            "defaults" | "remount" | "silent" | "loud" | "async" | "iversion" | "noiversion" => {}
            _ => match propagation(option) {
                Some((flag, all)) => (self.propagation, self.propagation_all) = (flag, all),
                None => return false,
            },
        }
        true
    }

    fn attribute(&mut self, name: &str, all: bool) -> bool {
        // `rw` is also `r` + `w`, which is no option: no conflict in the tables.
        let (mask, value, sets) =
            if let Some((_, flag, sets)) = ATTRIBUTES.iter().find(|(n, _, _)| *n == name) {
                (*flag, if *sets { *flag } else { 0 }, *sets)
            } else if let Some((_, mode)) = ACCESS_TIMES.iter().find(|(n, _)| *n == name) {
                (MOUNT_ATTR_ATIME, *mode, true)
            } else {
                return false;
            };
        let (set, clear) = if all {
            (&mut self.set_all, &mut self.clear_all)
        } else {
            (&mut self.set, &mut self.clear)
        };
        *set = *set & !mask | value;
        // The access time mode is a field of several bits: the kernel wants all of them cleared to set one.
        if mask == MOUNT_ATTR_ATIME || !sets {
            *clear |= mask;
        } else {
            *clear &= !mask;
        }
        if !all && !sets {
            self.cleared_by_name |= mask;
        } else if !all {
            self.cleared_by_name &= !mask;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_sorted_by_what_applies_them() {
        let options = [
            "nosuid", "ro", "rnoexec", "rslave", "size=64k", "rbind", "sync", "mode=755",
        ];
        let parsed = MountOptions::parse(&options);
        assert_eq!(parsed.set, MOUNT_ATTR_NOSUID | MOUNT_ATTR_RDONLY);
        assert_eq!(parsed.set_all, MOUNT_ATTR_NOEXEC);
        assert_eq!((parsed.propagation, parsed.propagation_all), (MS_SLAVE, true));
        assert!(parsed.bind && parsed.recursive);
        assert_eq!(parsed.data, ["size=64k", "sync", "mode=755"]);
    }

    #[test]
    fn the_last_of_contrary_options_wins() {
        let parsed = MountOptions::parse(&["ro", "rw"]);
        assert_eq!((parsed.set, parsed.clear), (0, MOUNT_ATTR_RDONLY));
        assert_eq!(parsed.cleared_by_name, MOUNT_ATTR_RDONLY);
        let parsed = MountOptions::parse(&["rw", "ro"]);
        assert_eq!((parsed.set, parsed.clear), (MOUNT_ATTR_RDONLY, 0));
        let parsed = MountOptions::parse(&["noatime", "strictatime"]);
        assert_eq!(
            (parsed.set, parsed.clear),
            (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR_ATIME)
        );
    }

    #[test]
    fn recursive_forms_exist_for_every_attribute() {
        for (name, _, _) in ATTRIBUTES {
            let parsed = MountOptions::parse(&[format!("r{name}")]);
            assert!(parsed.data.is_empty(), "r{name}");
            assert!(parsed.set_all | parsed.clear_all != 0, "r{name}");
        }
        assert_eq!(MountOptions::parse(&["ratime"]).clear_all, MOUNT_ATTR_ATIME);
        assert_eq!(MountOptions::parse(&["rro"]).set_all, MOUNT_ATTR_RDONLY);
    }

    #[test]
    fn propagation_words() {
        assert_eq!(propagation("rshared"), Some((MS_SHARED, true)));
        assert_eq!(propagation("unbindable"), Some((MS_UNBINDABLE, false)));
        assert_eq!(propagation("rw"), None);
        assert_eq!(propagation("r"), None);
    }
}
