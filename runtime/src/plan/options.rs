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
    /// Attributes, also of the access time, that are not to be there by name (`rw`, `atime`).
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

/// (name, access time mode, whether it sets it). The modes exclude each other. A word that takes one back leaves what there
/// is, as with mount(2).
const ACCESS_TIMES: &[(&str, u64, bool)] = &[
    ("noatime", MOUNT_ATTR_NOATIME, true),
    ("atime", MOUNT_ATTR_NOATIME, false),
    ("relatime", 0, true),
    ("norelatime", 0, false),
    ("strictatime", MOUNT_ATTR_STRICTATIME, true),
    ("nostrictatime", MOUNT_ATTR_STRICTATIME, false),
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
        if let Some((_, mode, sets)) = ACCESS_TIMES.iter().find(|(n, ..)| *n == name) {
            self.access_time(*mode, *sets, all);
            return true;
        }
        let Some((_, flag, sets)) = ATTRIBUTES.iter().find(|(n, ..)| *n == name) else {
            return false;
        };
        let (set, clear) = if all {
            (&mut self.set_all, &mut self.clear_all)
        } else {
            (&mut self.set, &mut self.clear)
        };
        if *sets {
            *set |= flag;
            *clear &= !flag;
        } else {
            *set &= !flag;
            *clear |= flag;
        }
        if !all && *sets {
            self.cleared_by_name &= !flag;
        } else if !all {
            self.cleared_by_name |= flag;
        }
        true
    }

    /// The mode is a field of several bits: the kernel wants all of them cleared to set one.
    fn access_time(&mut self, mode: u64, sets: bool, all: bool) {
        if all {
            let mode = if sets { mode } else { 0 };
            self.set_all = self.set_all & !MOUNT_ATTR_ATIME | mode;
            self.clear_all |= MOUNT_ATTR_ATIME;
        } else if sets {
            self.set = self.set & !MOUNT_ATTR_ATIME | mode;
            self.clear |= MOUNT_ATTR_ATIME;
        } else {
            self.cleared_by_name |= MOUNT_ATTR_ATIME;
            if self.clear & MOUNT_ATTR_ATIME != 0 && self.set & MOUNT_ATTR_ATIME == mode {
                self.set &= !MOUNT_ATTR_ATIME;
                self.clear &= !MOUNT_ATTR_ATIME;
            }
        }
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
    fn a_word_that_takes_an_access_time_back_names_no_other() {
        for words in [
            &["atime"][..],
            &["noatime", "atime"],
            &["relatime", "norelatime"],
            &["strictatime", "nostrictatime"],
        ] {
            let parsed = MountOptions::parse(words);
            assert_eq!((parsed.set, parsed.clear), (0, 0), "{words:?}");
            assert_eq!(parsed.cleared_by_name, MOUNT_ATTR_ATIME, "{words:?}");
        }
        let parsed = MountOptions::parse(&["noatime", "norelatime"]);
        assert_eq!((parsed.set, parsed.clear), (MOUNT_ATTR_NOATIME, MOUNT_ATTR_ATIME));
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
