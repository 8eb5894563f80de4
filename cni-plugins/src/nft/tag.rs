//! The mark that everything carries which a plugin makes outside the container: whose it is.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::protocol::{Attachment, Request};

/// Names longer than this are replaced by their hash, since nf_tables limits user data to 256 bytes.
const LONGEST: usize = 80;

/// Network, container and interface.
///
/// Written as `network container interface`; spaces cannot be in any of the three.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag {
    /// The network's name (or its hash, if very long).
    pub network: String,
    /// The container's ID (or its hash, if very long).
    pub container: String,
    /// The interface's name in the container.
    pub ifname: String,
}

impl Tag {
    /// The tag of an attachment to a network.
    pub fn new(network: &str, attachment: &Attachment) -> Self {
        Self {
            network: shortened(network),
            container: shortened(&attachment.container),
            ifname: attachment.ifname.clone(),
        }
    }

    /// The tag of a request's attachment.
    pub fn of(request: &Request) -> Self {
        Self::new(&request.network, &request.attachment)
    }

    /// Reads a tag back from a comment or an alias.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let tag = Self {
            network: parts.next()?.to_owned(),
            container: parts.next()?.to_owned(),
            ifname: parts.next()?.to_owned(),
        };
        parts.next().is_none().then_some(tag)
    }

    /// Whether it is of this network and of none of the attachments to keep.
    pub fn is_stale(&self, network: &str, keep: &[Attachment]) -> bool {
        self.network == shortened(network) && !keep.iter().any(|a| *self == Self::new(network, a))
    }

    /// Hexadecimal digits that are the same for the same attachment, to make interface names of.
    ///
    /// So DEL finds the host's end of a veth with neither the namespace nor prevResult at hand.
    pub fn digits(&self, count: usize) -> String {
        let mut digits = hex(&Sha256::digest(self.to_string().as_bytes()));
        digits.truncate(count);
        digits
    }

    /// The name of the host's end of the attachment's veth: `veth` and 44 bits of the tag's hash.
    pub fn host_interface(&self) -> String {
        format!("veth{}", self.digits(11))
    }
}

impl std::fmt::Display for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.network, self.container, self.ifname)
    }
}

fn shortened(name: &str) -> String {
    if name.len() <= LONGEST {
        return name.to_owned();
    }
    // `~` starts no valid name, so a hash cannot be mistaken for one.
    format!("~{}", &hex(&Sha256::digest(name.as_bytes()))[..32])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_survive_the_round_trip_and_fit_into_user_data() {
        let long = "x".repeat(300);
        for (network, container) in [
            ("net", "c1"),
            (long.as_str(), "c1"),
            ("net", long.as_str()),
            (&long, &long),
        ] {
            let attachment = Attachment {
                container: container.to_owned(),
                ifname: "eth0".into(),
            };
            let tag = Tag::new(network, &attachment);
            assert!(tag.to_string().len() < 240);
            assert_eq!(Tag::parse(&tag.to_string()), Some(tag.clone()));
            assert!(tag.is_stale(network, &[]));
            assert!(!tag.is_stale(network, std::slice::from_ref(&attachment)));
            assert!(!tag.is_stale("other", &[]));
            assert_eq!(tag.host_interface().len(), 15);
        }
    }
}
