//! Queueing disciplines and filters: token bucket, ingress, redirect to another interface
//! (tc-tbf(8), tc-mirred(8); structures of include/uapi/linux/pkt_sched.h and pkt_cls.h).

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use nix::errno::Errno;

use super::{Message, NetlinkError, Rtnl};
use crate::nft::wire::{Attributes, Writer};

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;
const RTM_GETTFILTER: u16 = 46;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const ROOT: u32 = 0xffff_ffff;
const INGRESS_PARENT: u32 = 0xffff_fff1;
const INGRESS: u32 = 0xffff_0000;
const TCM: usize = 20;

/// A token bucket: the rate and burst, and how long a packet may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenBucket {
    /// Bytes a second.
    pub rate: u64,
    /// Bytes that may go at once.
    pub burst: u32,
    /// Bytes that may wait.
    pub limit: u32,
}

/// struct tcmsg.
fn header(index: u32, handle: u32, parent: u32, info: u32) -> Writer {
    let mut bytes = vec![0; 4];
    for word in [index, handle, parent, info] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    Writer(bytes)
}

impl TokenBucket {
    fn options(&self, w: &mut Writer) {
        let short = u32::try_from(self.rate).unwrap_or(u32::MAX);
        // struct tc_tbf_qopt: rate, peak rate, limit, buffer, mtu. Ethernet framing is link layer 1.
        let mut parms = vec![0, 1, 0, 0, 0, 0, 0, 0];
        parms.extend_from_slice(&short.to_ne_bytes());
        parms.extend_from_slice(&[0; 12]);
        parms.extend_from_slice(&self.limit.to_ne_bytes());
        parms.extend_from_slice(&[0; 8]);
        w.nest(TCA_OPTIONS, |w| {
            w.bytes(1, &parms);
            if self.rate > u64::from(u32::MAX) {
                w.bytes(4, &self.rate.to_ne_bytes());
            }
            // TCA_TBF_BURST: the burst in bytes, so that nothing is converted to timer ticks.
            w.bytes(6, &self.burst.to_ne_bytes());
        });
    }

    fn parse(options: &Attributes<'_>) -> Option<(u64, u32)> {
        let parms = options.value(1)?;
        let word = |at: usize| {
            parms
                .get(at..at + 4)?
                .first_chunk::<4>()
                .map(|b| u32::from_ne_bytes(*b))
        };
        let rate = match options.value(4).and_then(|v| v.first_chunk::<8>()) {
            Some(long) => u64::from_ne_bytes(*long),
            None => u64::from(word(8)?),
        };
        Some((rate, word(24)?))
    }
}

impl Message {
    /// Holds everything that leaves by the interface to a rate.
    pub(crate) fn shape(index: u32, on: &str, bucket: &TokenBucket) -> Self {
        let mut w = header(index, 0x0001_0000, ROOT, 0);
        w.text(TCA_KIND, "tbf");
        bucket.options(&mut w);
        Self {
            what: format!("limit the rate of {on}"),
            kind: RTM_NEWQDISC,
            flags: NLM_F_CREATE | NLM_F_EXCL,
            body: w.0,
            tolerated: &[],
        }
    }

    /// Lifts the limit; none is fine.
    pub fn unshape(index: u32, on: &str) -> Self {
        let w = header(index, 0, ROOT, 0);
        Self {
            what: format!("lift the rate limit of {on}"),
            kind: RTM_DELQDISC,
            flags: 0,
            body: w.0,
            tolerated: &[Errno::ENOENT, Errno::EINVAL, Errno::ENODEV],
        }
    }

    /// Makes filters on what comes in possible.
    pub fn add_ingress(index: u32, on: &str) -> Self {
        let mut w = header(index, INGRESS, INGRESS_PARENT, 0);
        w.text(TCA_KIND, "ingress");
        Self {
            what: format!("add an ingress queue to {on}"),
            kind: RTM_NEWQDISC,
            flags: NLM_F_CREATE | NLM_F_EXCL,
            body: w.0,
            tolerated: &[],
        }
    }

    /// Takes the ingress queue with its filters away; none is fine.
    pub fn delete_ingress(index: u32, on: &str) -> Self {
        let w = header(index, INGRESS, INGRESS_PARENT, 0);
        Self {
            what: format!("remove the ingress queue of {on}"),
            kind: RTM_DELQDISC,
            flags: 0,
            body: w.0,
            tolerated: &[Errno::ENOENT, Errno::EINVAL, Errno::ENODEV],
        }
    }

    /// Sends everything that comes in to another interface first.
    pub fn redirect_ingress(index: u32, on: &str, to: u32) -> Self {
        // Priority 1, all protocols (ETH_P_ALL in network byte order).
        let info = 1 << 16 | u32::from(3u16.to_be());
        let mut w = header(index, 0, INGRESS, info);
        w.text(TCA_KIND, "u32");
        w.nest(TCA_OPTIONS, |w| {
            w.bytes(1, &0x0001_0001u32.to_ne_bytes());
            // struct tc_u32_sel: terminal, one key, that matches anything.
            let mut selector = vec![1, 0, 1, 0];
            selector.extend_from_slice(&[0; 12]);
            selector.extend_from_slice(&[0; 16]);
            w.bytes(5, &selector);
            w.nest(7, |w| {
                w.nest(1, |w| {
                    w.text(1, "mirred");
                    w.nest(2, |w| {
                        // struct tc_mirred: action stolen (4), redirect to egress (1).
                        let mut mirred = Vec::new();
                        for word in [0, 0, 4, 0, 0, 1, to] {
                            mirred.extend_from_slice(&word.to_ne_bytes());
                        }
                        w.bytes(2, &mirred);
                    });
                });
            });
        });
        Self {
            what: format!("redirect what comes in by {on}"),
            kind: RTM_NEWTFILTER,
            flags: NLM_F_CREATE | NLM_F_EXCL,
            body: w.0,
            tolerated: &[],
        }
    }
}

impl Rtnl {
    /// Rate and limit of the token bucket at the interface's root.
    pub(crate) fn token_bucket(&mut self, index: u32) -> Result<Option<(u64, u32)>, NetlinkError> {
        let mut found = None;
        self.queues(index, |parent, kind, options| {
            if parent == ROOT && kind == "tbf" {
                found = options.and_then(|o| TokenBucket::parse(&o));
            }
        })?;
        Ok(found)
    }

    /// Whether the interface has an ingress queue with a filter.
    pub(crate) fn redirects_ingress(&mut self, index: u32) -> Result<bool, NetlinkError> {
        let request = Message {
            what: "list filters".into(),
            kind: RTM_GETTFILTER,
            flags: 0,
            body: header(index, 0, INGRESS, 0).0,
            tolerated: &[],
        };
        let mut found = false;
        match self.channel.dump(&request, |answer| {
            let attributes = Attributes::new(answer.body.get(TCM..).unwrap_or_default());
            found |= attributes.text(TCA_KIND).as_deref() == Some("u32");
        }) {
            Ok(()) => Ok(found),
            // There is no ingress queue.
            Err(e) if matches!(e.errno, Errno::ENOENT | Errno::EINVAL) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn queues(
        &mut self,
        index: u32,
        mut each: impl FnMut(u32, &str, Option<Attributes<'_>>),
    ) -> Result<(), NetlinkError> {
        let request = Message {
            what: "list queueing disciplines".into(),
            kind: RTM_GETQDISC,
            flags: 0,
            body: header(index, 0, 0, 0).0,
            tolerated: &[],
        };
        self.channel.dump(&request, |answer| {
            let word = |at: usize| {
                answer
                    .body
                    .get(at..at + 4)
                    .and_then(|b| b.first_chunk::<4>())
                    .map_or(0, |b| u32::from_ne_bytes(*b))
            };
            // The kernel lists all interfaces' queues whatever was asked.
            if word(4) != index {
                return;
            }
            let attributes = Attributes::new(answer.body.get(TCM..).unwrap_or_default());
            each(
                word(12),
                &attributes.text(TCA_KIND).unwrap_or_default(),
                attributes.inner(TCA_OPTIONS),
            );
        })
    }
}
