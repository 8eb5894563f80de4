//! CRIU's requests and responses, by the numbers of images/rpc.proto.

use super::protobuf::{Malformed, Message};

/// What is asked for (`criu_req_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Checkpoint.
    Dump = 1,
    /// Restore.
    Restore = 2,
    /// Memory only, ahead of a checkpoint.
    PreDump = 4,
    /// CRIU asks for something to be done, or is told that it was.
    Notify = 6,
    /// What CRIU and this kernel can do.
    FeatureCheck = 9,
    /// CRIU's version.
    Version = 10,
}

impl Kind {
    fn of(number: i64) -> Option<Self> {
        [
            Self::Dump,
            Self::Restore,
            Self::PreDump,
            Self::Notify,
            Self::FeatureCheck,
            Self::Version,
        ]
        .into_iter()
        .find(|kind| *kind as i64 == number)
    }

    /// CRIU's word, as it is in runc's messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dump => "DUMP",
            Self::Restore => "RESTORE",
            Self::PreDump => "PRE_DUMP",
            Self::Notify => "NOTIFY",
            Self::FeatureCheck => "FEATURE_CHECK",
            Self::Version => "VERSION",
        }
    }
}

/// Fields of `criu_opts`.
pub mod field {
    #![allow(missing_docs)] // Their names are CRIU's own.
    pub const IMAGES_DIR_FD: u32 = 1;
    pub const PID: u32 = 2;
    pub const LEAVE_RUNNING: u32 = 3;
    pub const EXT_UNIX_SK: u32 = 4;
    pub const TCP_ESTABLISHED: u32 = 5;
    pub const EVASIVE_DEVICES: u32 = 6;
    pub const SHELL_JOB: u32 = 7;
    pub const FILE_LOCKS: u32 = 8;
    pub const LOG_LEVEL: u32 = 9;
    pub const LOG_FILE: u32 = 10;
    pub const PAGE_SERVER: u32 = 11;
    pub const NOTIFY_SCRIPTS: u32 = 12;
    pub const ROOT: u32 = 13;
    pub const PARENT_IMG: u32 = 14;
    pub const TRACK_MEM: u32 = 15;
    pub const AUTO_DEDUP: u32 = 16;
    pub const WORK_DIR_FD: u32 = 17;
    pub const LINK_REMAP: u32 = 18;
    pub const EXT_MNT: u32 = 23;
    pub const MANAGE_CGROUPS: u32 = 24;
    pub const CG_ROOT: u32 = 25;
    pub const RST_SIBLING: u32 = 26;
    pub const INHERIT_FD: u32 = 27;
    pub const MANAGE_CGROUPS_MODE: u32 = 34;
    pub const EXTERNAL: u32 = 37;
    pub const EMPTY_NS: u32 = 38;
    pub const JOIN_NS: u32 = 39;
    pub const FREEZE_CGROUP: u32 = 44;
    pub const TCP_SKIP_IN_FLIGHT: u32 = 46;
    pub const LAZY_PAGES: u32 = 48;
    pub const STATUS_FD: u32 = 49;
    pub const ORPHAN_PTS_MASTER: u32 = 50;
    pub const CONFIG_FILE: u32 = 51;
    pub const LSM_PROFILE: u32 = 53;
    pub const LSM_MOUNT_CONTEXT: u32 = 63;
    pub const NETWORK_LOCK: u32 = 64;
}

/// A request with its options (`criu_req`).
pub fn request(kind: Kind, options: Option<Message>) -> Message {
    let mut request = Message::new();
    request.number(1, kind as i64);
    if let Some(options) = options {
        request.message(2, options);
    }
    request
}

/// The answer to a notification.
pub fn done() -> Message {
    let mut request = Message::new();
    request.number(1, Kind::Notify as i64).flag(3, true);
    request
}

/// The question whether both features are there; `field` is that of `criu_features`.
pub fn features(field: u32) -> Message {
    let mut wanted = Message::new();
    wanted.flag(field, true);
    let mut request = Message::new();
    request.number(1, Kind::FeatureCheck as i64).message(5, wanted);
    request
}

/// What CRIU answers (`criu_resp`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// What it answers to.
    pub kind: Kind,
    /// Whether that was done.
    pub success: bool,
    /// Script and process id of a notification.
    pub notify: Option<(String, i32)>,
    /// The restored first process.
    pub restored: Option<i32>,
    /// The error number, or 0.
    pub errno: i32,
    /// CRIU's own words, of versions that send them.
    pub message: Option<String>,
    /// `criu_features`.
    pub features: Message,
    /// major, minor, sublevel.
    pub version: Option<(i64, i64, i64)>,
}

impl Response {
    /// Reads a response.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let all = Message::decode(bytes)?;
        let notify = all.get_message(5)?.map(|notify| {
            let pid = notify.get_number(2).unwrap_or_default() as i32;
            (notify.get_text(1).unwrap_or_default(), pid)
        });
        let version = all.get_message(10)?.map(|version| {
            let part = |field| version.get_number(field).unwrap_or_default();
            (part(1), part(2), part(4))
        });
        Ok(Self {
            kind: all.get_number(1).and_then(Kind::of).ok_or(Malformed)?,
            success: all.get_flag(2),
            notify,
            restored: all
                .get_message(4)?
                .and_then(|restore| restore.get_number(1))
                .map(|pid| pid as i32),
            errno: all.get_number(7).unwrap_or_default() as i32,
            message: all.get_text(9),
            features: all.get_message(8)?.unwrap_or_default(),
            version,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_is_read() {
        let mut notify = Message::new();
        notify.text(1, "setup-namespaces").number(2, 42);
        let mut response = Message::new();
        response.number(1, 6).flag(2, true).message(5, notify);
        let read = Response::decode(&response.encode()).unwrap();
        assert_eq!(read.kind, Kind::Notify);
        assert_eq!(read.notify, Some(("setup-namespaces".to_owned(), 42)));
        assert!(read.success && read.restored.is_none() && read.version.is_none());
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        let mut response = Message::new();
        response.number(1, 99).flag(2, true);
        assert_eq!(Response::decode(&response.encode()), Err(Malformed));
        assert_eq!(Response::decode(b""), Err(Malformed));
    }
}
