//! Expressions of nf_tables rules (include/uapi/linux/netfilter/nf_tables.h).
//!
//! A rule is a program over registers: load something, compare it, give a verdict.

use std::net::IpAddr;

use ipnet::IpNet;

use super::wire::Writer;

/// Registers: one verdict register, sixteen of four bytes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Register(u32);

impl Register {
    /// The verdict.
    pub const VERDICT: Self = Self(0);
    /// The first four-byte register (NFT_REG32_00).
    pub const FIRST: Self = Self(8);

    /// The four-byte register `n` places after the first.
    pub const fn word(n: u32) -> Self {
        Self(8 + n)
    }
}

/// Address families inside table `inet`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// NFPROTO_IPV4 or NFPROTO_IPV6.
    pub fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    /// Bytes of an address.
    pub fn width(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    /// nft's word for the header.
    pub fn keyword(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    fn source_offset(self) -> u32 {
        match self {
            Self::V4 => 12,
            Self::V6 => 8,
        }
    }

    fn destination_offset(self) -> u32 {
        match self {
            Self::V4 => 16,
            Self::V6 => 24,
        }
    }
}

/// An address in network byte order.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// What `meta` loads.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Meta {
    InputName = 6,
    Nfproto = 15,
    L4proto = 16,
}

/// What `ct` loads.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ct {
    State = 0,
    Status = 2,
}

/// Bits of `ct status`: destination was translated (IPS_DST_NAT).
pub(crate) const CT_STATUS_DNAT: u32 = 1 << 5;
/// Bits of `ct state`, as nf_tables counts them: established and related (NF_CT_STATE_BIT).
pub(crate) const CT_STATE_ESTABLISHED: u32 = 2;
pub(crate) const CT_STATE_RELATED: u32 = 4;

/// How a comparison succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Is {
    Equal = 0,
    NotEqual = 1,
}

/// Verdicts a rule gives.
#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    Drop,
    Accept,
    Return,
    Jump(String),
}

const NFT_JUMP: i32 = -3;
const NFT_RETURN: i32 = -5;

impl Verdict {
    pub fn write(&self, w: &mut Writer) {
        let (code, chain) = match self {
            Self::Drop => (0, None),
            Self::Accept => (1, None),
            Self::Return => (NFT_RETURN, None),
            Self::Jump(chain) => (NFT_JUMP, Some(chain)),
        };
        w.nest(2, |w| {
            w.be32(1, code as u32);
            if let Some(chain) = chain {
                w.text(2, chain);
            }
        });
    }
}

/// A rule's expressions being written, in the order they run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Program(Writer);

impl Program {
    pub fn bytes(&self) -> &[u8] {
        &self.0.0
    }

    fn push(mut self, name: &str, data: impl FnOnce(&mut Writer)) -> Self {
        self.0.nest(1, |w| {
            w.text(1, name);
            w.nest(2, data);
        });
        self
    }

    /// Loads packet metadata.
    pub fn meta(self, key: Meta, to: Register) -> Self {
        self.push("meta", |w| {
            w.be32(2, key as u32).be32(1, to.0);
        })
    }

    /// Loads `length` bytes at `offset` of the link layer (0), network (1) or transport (2) header.
    fn payload(self, base: u32, offset: u32, length: u32, to: Register) -> Self {
        self.push("payload", |w| {
            w.be32(1, to.0).be32(2, base).be32(3, offset).be32(4, length);
        })
    }

    /// Goes on only for packets of this family.
    pub fn family(self, family: Family) -> Self {
        self.meta(Meta::Nfproto, Register::FIRST)
            .compare(Register::FIRST, Is::Equal, &[family.number()])
    }

    /// Loads the hardware address of the sender.
    pub fn source_hardware(self, to: Register) -> Self {
        self.payload(0, 6, 6, to)
    }

    /// Loads the source address.
    pub fn source(self, family: Family, to: Register) -> Self {
        self.payload(1, family.source_offset(), family.width(), to)
    }

    /// Loads the destination address.
    pub fn destination(self, family: Family, to: Register) -> Self {
        self.payload(1, family.destination_offset(), family.width(), to)
    }

    /// Loads the destination port.
    pub fn destination_port(self, to: Register) -> Self {
        self.payload(2, 2, 2, to)
    }

    /// Loads connection tracking data.
    pub fn ct(self, key: Ct, to: Register) -> Self {
        self.push("ct", |w| {
            w.be32(2, key as u32).be32(1, to.0);
        })
    }

    /// Loads the kind of the destination address as the routing table sees it (RTN_…).
    pub fn fib_destination_type(self, to: Register) -> Self {
        self.push("fib", |w| {
            w.be32(3, 2).be32(2, 3).be32(1, to.0);
        })
    }

    /// Goes on only for connections whose destination was translated.
    pub fn translated() -> Self {
        Self::default()
            .ct(Ct::Status, Register::FIRST)
            .mask(Register::FIRST, &CT_STATUS_DNAT.to_ne_bytes())
            .compare(Register::FIRST, Is::NotEqual, &0u32.to_ne_bytes())
    }

    /// Goes on only if the register compares.
    pub fn compare(self, register: Register, is: Is, value: &[u8]) -> Self {
        self.push("cmp", |w| {
            w.be32(1, register.0).be32(2, is as u32).nest(3, |w| {
                w.bytes(1, value);
            });
        })
    }

    /// register = register & mask.
    pub fn mask(self, register: Register, mask: &[u8]) -> Self {
        let zero = vec![0; mask.len()];
        self.push("bitwise", |w| {
            w.be32(1, register.0)
                .be32(2, register.0)
                .be32(3, mask.len() as u32);
            w.nest(4, |w| {
                w.bytes(1, mask);
            });
            w.nest(5, |w| {
                w.bytes(1, &zero);
            });
        })
    }

    /// Goes on only for addresses inside (or outside) `net`; the address is in the register.
    pub fn in_network(self, register: Register, is: Is, net: &IpNet) -> Self {
        let program = if net.prefix_len() == net.max_prefix_len() {
            self
        } else {
            self.mask(register, &octets(net.netmask()))
        };
        program.compare(register, is, &octets(net.network()))
    }

    /// Goes on only if a set holds the key; `to` takes the map's data (or the verdict).
    pub fn lookup(self, set: &str, key: Register, to: Option<Register>) -> Self {
        self.push("lookup", |w| {
            w.text(1, set).be32(2, key.0);
            if let Some(to) = to {
                w.be32(3, to.0);
            }
        })
    }

    /// Goes on only if a set does not hold the key.
    pub fn not_in(self, set: &str, key: Register) -> Self {
        self.push("lookup", |w| {
            // NFT_LOOKUP_F_INV
            w.text(1, set).be32(2, key.0).be32(5, 1);
        })
    }

    /// Loads the next number below `modulus`, one after the other over all packets.
    pub fn next_number(self, modulus: u32, to: Register) -> Self {
        self.push("numgen", |w| {
            // NFT_NG_INCREMENTAL
            w.be32(1, to.0).be32(2, modulus).be32(3, 0);
        })
    }

    /// Loads a number below `modulus` that is always the same for the same `length` bytes at `from`.
    pub fn hashed_number(self, from: Register, length: u32, modulus: u32, to: Register) -> Self {
        self.push("hash", |w| {
            // NFT_HASH_JENKINS with a seed of our own: the same choice after a restart.
            w.be32(1, from.0)
                .be32(2, to.0)
                .be32(3, length)
                .be32(4, modulus)
                .be32(5, 0x6265_7274)
                .be32(7, 0);
        })
    }

    /// Loads the value of a map without a name (see `Batch::numbered_map`).
    pub fn lookup_numbered(self, map: u32, key: Register, to: Register) -> Self {
        self.push("lookup", |w| {
            w.text(1, super::batch::ANONYMOUS_MAP)
                .be32(2, key.0)
                .be32(3, to.0)
                .be32(4, map);
        })
    }

    /// Answers that the port is unreachable (ICMP).
    pub fn reject(self) -> Self {
        self.push("reject", |w| {
            // NFT_REJECT_ICMP_UNREACH, ICMP_PORT_UNREACH
            w.be32(1, 0).bytes(2, &[3]);
        })
    }

    /// Gives a verdict.
    pub fn verdict(self, verdict: &Verdict) -> Self {
        self.push("immediate", |w| {
            w.be32(1, Register::VERDICT.0).nest(2, |w| verdict.write(w));
        })
    }

    /// Counts packets and bytes.
    pub fn counter(self) -> Self {
        self.push("counter", |w| {
            w.bytes(1, &0u64.to_be_bytes()).bytes(2, &0u64.to_be_bytes());
        })
    }

    /// Replaces the source address by the outgoing interface's.
    pub fn masquerade(self) -> Self {
        self.push("masq", |_| {})
    }

    /// Replaces destination address and port by those in the registers.
    pub fn destination_nat(self, family: Family, address: Register, port: Register) -> Self {
        self.push("nat", |w| {
            // The kernel takes NF_NAT_RANGE flags from the registers given.
            w.be32(1, 1)
                .be32(2, u32::from(family.number()))
                .be32(3, address.0)
                .be32(5, port.0);
        })
    }
}
