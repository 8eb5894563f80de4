//! resolv.conf(5), as the node has it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::Path;

/// Where the node's is.
pub(crate) const FILE: &str = "/etc/resolv.conf";
/// Where systemd-resolved writes the servers that it asks itself.
const BEHIND_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";
/// Its own address, which only the host itself reaches.
const RESOLVED: &str = "127.0.0.53";

/// What a file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ResolvConf {
    /// Name servers, as written.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Reads a text; what it does not know is passed over, as libc does.
    pub fn parse(text: &str) -> ResolvConf {
        let mut found = ResolvConf::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            let key = words.next();
            let rest = words.map(str::to_owned);
            match key {
                Some("nameserver") => found.servers.extend(rest.take(1)),
                // The last of them counts.
                Some("search" | "domain") => found.searches = rest.collect(),
                Some("options") => found.options.extend(rest),
                _ => {}
            }
        }
        found
    }

    /// The node's, for use by others than the node: if it names only systemd-resolved, then what that one asks.
    pub fn of_node() -> ResolvConf {
        let read = |path: &str| Self::parse(&std::fs::read_to_string(path).unwrap_or_default());
        let own = read(FILE);
        if own.servers == [RESOLVED] && Path::new(BEHIND_RESOLVED).exists() {
            return read(BEHIND_RESOLVED);
        }
        own
    }

    /// The servers' sockets. Without any, the host's own is meant.
    pub fn sockets(&self) -> Vec<SocketAddr> {
        if self.servers.is_empty() {
            return vec![SocketAddr::from(([127, 0, 0, 1], 53))];
        }
        self.servers.iter().filter_map(|server| socket(server)).collect()
    }
}

/// The socket of a server; an address of one link names its interface after a percent sign.
fn socket(server: &str) -> Option<SocketAddr> {
    let Some((address, interface)) = server.split_once('%') else {
        return server
            .parse::<IpAddr>()
            .ok()
            .map(|address| SocketAddr::new(address, 53));
    };
    let address: Ipv6Addr = address.parse().ok()?;
    let index = interface
        .parse()
        .ok()
        .or_else(|| nix::net::if_::if_nametoindex(interface).ok())?;
    Some(SocketAddrV6::new(address, 53, 0, index).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libc_reads_is_read() {
        let text = "# comment\nnameserver 192.0.2.1 # first\nnameserver fe80::1%1\nnameserver nonsense\n\
            domain old.example\nsearch a.example b.example\noptions ndots:2\noptions rotate\nsortlist 192.0.2.0\n";
        let found = ResolvConf::parse(text);
        assert_eq!(found.searches, ["a.example", "b.example"]);
        assert_eq!(found.options, ["ndots:2", "rotate"]);
        let scoped: SocketAddr = SocketAddrV6::new("fe80::1".parse().unwrap(), 53, 0, 1).into();
        assert_eq!(found.sockets(), ["192.0.2.1:53".parse().unwrap(), scoped]);
        let none = ResolvConf::parse("search a\n");
        assert_eq!(none.sockets(), ["127.0.0.1:53".parse().unwrap()]);
    }
}
