//! Versions of the CNI specification that the plugins speak.

use std::fmt;

/// A CNI specification version that the plugins and the runtime side speak.
///
/// 0.1.0 and 0.2.0 have another result type and are not supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.3.0, kept apart from 0.3.1 only for its name.
    V0_3_0,
    /// 0.3.1: lists and prevResult.
    V0_3_1,
    /// 0.4.0: CHECK; DEL gets prevResult.
    V0_4_0,
    /// 1.0.0: no `version` in `ips`, no single configurations.
    V1_0_0,
    /// 1.1.0: GC, STATUS, more interface and route fields.
    V1_1_0,
}

impl Version {
    /// Every supported version, oldest first.
    pub const ALL: [Self; 5] = [
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];

    /// The newest supported version.
    pub const NEWEST: Self = Self::V1_1_0;

    /// The version named by `text`, if it is supported.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|v| v.as_str() == text)
    }

    /// The version as written in `cniVersion`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// All supported versions, comma separated, for messages.
    pub fn list() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
