//! Who may use what the node offers on 127.0.0.1 to its own pods: the DNS server, and the API where it listens there.
//!
//! The rules of services lead the addresses of both Services to 127.0.0.1. They would do so for every packet that is
//! sent to this host with such an address, also one from outside: so both look at who it is that comes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

/// The addresses of the pods of this node. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Guests(Arc<RwLock<BTreeMap<String, Vec<IpAddr>>>>);

impl Guests {
    /// Notes a pod's addresses, before anything of it runs.
    pub fn enter(&self, uid: &str, addresses: Vec<IpAddr>) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(uid.to_owned(), addresses);
    }

    /// Forgets a pod.
    pub fn leave(&self, uid: &str) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.remove(uid);
    }

    /// Whether an address is a pod's.
    pub fn is_pod(&self, address: IpAddr) -> bool {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.values().any(|addresses| addresses.contains(&address))
    }

    /// Whether somebody with this address is a pod or on the host itself. The kernel takes no packet from outside that
    /// claims to be from the host (`martian source`).
    pub fn admits(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.is_pod(address) || is_of_host(address)
    }
}

fn is_of_host(address: IpAddr) -> bool {
    let all = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let mut addresses = all.filter_map(|interface| interface.address);
    addresses.any(|found| match address {
        IpAddr::V4(wanted) => found.as_sockaddr_in().is_some_and(|found| found.ip() == wanted),
        IpAddr::V6(wanted) => found.as_sockaddr_in6().is_some_and(|found| found.ip() == wanted),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_and_the_host_are_admitted_and_nobody_else() {
        let guests = Guests::default();
        let pod: IpAddr = "198.51.100.7".parse().unwrap();
        assert!(!guests.admits(pod));
        guests.enter("u", vec![pod]);
        assert!(guests.admits(pod) && guests.is_pod(pod));
        guests.leave("u");
        assert!(!guests.admits(pod));
        assert!(guests.admits("127.0.0.1".parse().unwrap()));
    }
}
