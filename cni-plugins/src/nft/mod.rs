//! nf_tables over netlink: one table `inet berth`, maps with tagged elements, atomic batches.
//!
//! Rules are few and the same for all containers; what differs by container is an element of a map,
//! found by hash whatever their number. Each change reads the ruleset's generation first and is
//! committed only if it is still the same (NFNL_BATCH_GENID), so that "delete the element only if it
//! is still mine" has no race.

mod batch;
pub(crate) mod conntrack;
pub(crate) mod elements;
pub(crate) mod expr;
mod layout;
mod native;
mod read;
mod tag;
pub(crate) mod wire;

pub(crate) mod masquerade;
pub(crate) mod spoofing;

pub(crate) use batch::{Batch, Data, Element};
pub(crate) use layout::{BaseChain, Layout, Rule, Set, datatype, hook, subnet_chain};
pub(crate) use native::NativeTable;
pub use tag::Tag;

use std::time::{Duration, Instant};

use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use crate::{
    netlink::{Channel, NetlinkError},
    protocol::{Failure, code},
};

/// The table's name.
pub(crate) const TABLE: &str = "berth";
/// The table of services, apart from the plugins' so that it can be replaced as a whole.
const SERVICES_TABLE: &str = "berth-services";
/// NFPROTO_INET.
const INET: u8 = 1;
/// NFPROTO_BRIDGE.
const BRIDGE: u8 = 7;

/// "Restart the system call": the batch was planned for another generation of the ruleset.
const ERESTART: i32 = 85;

/// How long a change is tried again while others change the ruleset.
const PATIENCE: Duration = Duration::from_secs(10);

/// An nf_tables socket in one network namespace, for Berth's table of one family.
pub(crate) struct Nft {
    channel: Channel,
    family: u8,
    table: &'static str,
}

impl Nft {
    /// Opens it in the thread's namespace, for what is routed: table `inet berth`.
    pub fn open() -> Result<Self, NetlinkError> {
        Self::open_table(INET, TABLE)
    }

    /// For what passes bridges: table `bridge berth`.
    pub fn open_bridge() -> Result<Self, NetlinkError> {
        Self::open_table(BRIDGE, TABLE)
    }

    /// For the load balancing of services: table `inet berth-services`.
    pub fn open_services() -> Result<Self, NetlinkError> {
        Self::open_table(INET, SERVICES_TABLE)
    }

    fn open_table(family: u8, table: &'static str) -> Result<Self, NetlinkError> {
        Ok(Self {
            channel: Channel::open(NETLINK_NETFILTER)?,
            family,
            table,
        })
    }

    /// How nft(8) names the table.
    pub fn table(&self) -> String {
        let family = if self.family == BRIDGE { "bridge" } else { "inet" };
        format!("{family} {}", self.table)
    }

    /// Makes one change: `plan` reads the ruleset and fills a batch, which is committed atomically if
    /// nobody changed anything meanwhile; otherwise all is done again. An empty batch commits nothing.
    pub fn change<T>(
        &mut self,
        what: &str,
        mut plan: impl FnMut(&mut Self, &mut Batch) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let start = Instant::now();
        let mut pause = Duration::from_micros(200);
        loop {
            let generation = self.generation()?;
            let mut batch = Batch::new(self.family, self.table);
            let outcome = plan(self, &mut batch)?;
            if batch.is_empty() {
                return Ok(outcome);
            }
            match self.commit(what, &batch, generation) {
                Ok(()) => return Ok(outcome),
                Err(e) if is_race(e.errno) && start.elapsed() < PATIENCE => {
                    // Spread the contenders: the process ID is as good as a random number here.
                    let spread = u64::from(std::process::id() % 7) * 100;
                    std::thread::sleep(pause + Duration::from_micros(spread));
                    pause = (pause * 2).min(Duration::from_millis(5));
                }
                Err(e) if is_race(e.errno) => {
                    return Err(Failure::new(
                        code::TRY_AGAIN,
                        format!("{what}: other programs keep changing the firewall rules; try again"),
                    ));
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Gives the socket's last close to the kernel's own workers.
    ///
    /// Closing an nf_tables socket waits for the destruction of deleted objects, an RCU grace period
    /// of about 13 ms. A descriptor that is only held by itself, in flight on a unix socket, is closed by the
    /// kernel's garbage collector of such sockets instead.
    pub fn close_elsewhere(self) {
        use std::{io::IoSlice, os::fd::AsRawFd as _};

        use nix::sys::socket::{
            AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
        };
        let Ok((one, other)) = socketpair(
            AddressFamily::Unix,
            SockType::Stream,
            None,
            SockFlag::SOCK_CLOEXEC,
        ) else {
            return;
        };
        let nft = std::os::fd::AsFd::as_fd(&self.channel).as_raw_fd();
        // Each end is in flight to the other: a cycle that no process holds once this one has gone.
        for (from, to_hold) in [(&one, &other), (&other, &one)] {
            let fds = [nft, to_hold.as_raw_fd(), from.as_raw_fd()];
            let message = [ControlMessage::ScmRights(&fds)];
            let _ = sendmsg::<()>(
                from.as_raw_fd(),
                &[IoSlice::new(b"x")],
                &message,
                MsgFlags::MSG_DONTWAIT,
                None,
            );
        }
    }
}

/// Whether a commit failed only because the ruleset changed since it was read.
///
/// ENOENT, EEXIST and EBUSY are no races: the generation was still the one that was read.
fn is_race(errno: Errno) -> bool {
    // ERESTART is the kernel's own number and has no name in nix.
    matches!(errno, Errno::EAGAIN | Errno::EINTR) || errno as i32 == ERESTART
}
