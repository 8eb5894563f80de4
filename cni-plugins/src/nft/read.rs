//! Reading the ruleset: generation, rules, chains' use counts, elements.

use nix::errno::Errno;

use super::{
    Data, Element, Nft,
    batch::{generic_header, write_element},
    wire::{Attributes, Writer},
};
use crate::netlink::{Message, NetlinkError};

const SUBSYSTEM: u16 = 10 << 8;
const GETCHAIN: u16 = SUBSYSTEM | 4;
const GETRULE: u16 = SUBSYSTEM | 7;
const GETSETELEM: u16 = SUBSYSTEM + 13;
const GETGEN: u16 = SUBSYSTEM | 16;
/// After nfgenmsg.
const ATTRIBUTES: usize = 4;

/// A rule as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundRule {
    pub chain: String,
    pub handle: u64,
    /// Its comment; empty if it has none.
    pub text: String,
}

/// A base chain as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundChain {
    /// Rules in it and jumps to it.
    pub uses: u32,
    /// The policy drops.
    pub drops: bool,
}

fn request(what: &str, kind: u16, family: u8, body: impl FnOnce(&mut Writer)) -> Message {
    let mut writer = Writer(generic_header(family, 0));
    body(&mut writer);
    Message {
        what: what.into(),
        kind,
        flags: 0,
        body: writer.0,
        tolerated: &[],
    }
}

fn attributes(body: &[u8]) -> Attributes<'_> {
    Attributes::new(body.get(ATTRIBUTES..).unwrap_or_default())
}

fn comment(user_data: Option<&[u8]>) -> String {
    let mut rest = user_data.unwrap_or_default();
    while let [kind, length, tail @ ..] = rest {
        let length = usize::from(*length);
        if *kind == 0 {
            let text = tail.get(..length).unwrap_or_default();
            return String::from_utf8_lossy(text).trim_end_matches('\0').to_owned();
        }
        rest = tail.get(length..).unwrap_or_default();
    }
    String::new()
}

impl Nft {
    /// One request that is not a dump; absent when the kernel knows no such thing.
    fn one(&mut self, message: &Message) -> Result<Option<Vec<u8>>, NetlinkError> {
        let sequence = self.channel.next_sequence();
        let mut bytes = Vec::new();
        message.append(&mut bytes, 0, sequence);
        self.channel.send(&message.what, &bytes)?;
        loop {
            for answer in self.channel.receive(&message.what, true)? {
                if answer.sequence != sequence {
                    continue;
                }
                return match answer.error() {
                    None => Ok(Some(answer.body)),
                    Some((number, detail)) => match Errno::from_raw(number) {
                        Errno::ENOENT => Ok(None),
                        errno => Err(NetlinkError {
                            what: message.what.clone(),
                            errno,
                            detail,
                        }),
                    },
                };
            }
        }
    }

    fn list(
        &mut self,
        message: &Message,
        mut each: impl FnMut(Attributes<'_>),
    ) -> Result<bool, NetlinkError> {
        match self
            .channel
            .dump(message, |answer| each(attributes(&answer.body)))
        {
            Ok(()) => Ok(true),
            Err(e) if e.errno == Errno::ENOENT => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The ruleset's generation, which every commit raises.
    pub(super) fn generation(&mut self) -> Result<u32, NetlinkError> {
        let answer = self.one(&request("read the nf_tables generation", GETGEN, 0, |_| {}))?;
        Ok(answer.and_then(|body| attributes(&body).be32(1)).unwrap_or(0))
    }

    /// All rules of Berth's table.
    pub fn rules(&mut self) -> Result<Vec<FoundRule>, NetlinkError> {
        self.foreign_rules(self.family, self.table, None)
    }

    /// Rules of any table; of one chain if named.
    pub fn foreign_rules(
        &mut self,
        family: u8,
        table: &str,
        chain: Option<&str>,
    ) -> Result<Vec<FoundRule>, NetlinkError> {
        let message = request(
            &format!("list the rules of table {table}"),
            GETRULE,
            family,
            |w| {
                w.text(1, table);
                if let Some(chain) = chain {
                    w.text(2, chain);
                }
            },
        );
        let mut rules = Vec::new();
        self.list(&message, |a| {
            // Kernels that do not filter list every table of the family.
            if a.text(1).as_deref() != Some(table) {
                return;
            }
            rules.push(FoundRule {
                chain: a.text(2).unwrap_or_default(),
                handle: a
                    .value(3)
                    .and_then(|v| v.first_chunk::<8>())
                    .map_or(0, |b| u64::from_be_bytes(*b)),
                text: comment(a.value(7)),
            });
        })?;
        Ok(rules)
    }

    /// A chain of Berth's table.
    pub fn own_chain(&mut self, name: &str) -> Result<Option<FoundChain>, NetlinkError> {
        self.chain(self.family, self.table, name)
    }

    /// A chain of any table.
    pub fn chain(&mut self, family: u8, table: &str, name: &str) -> Result<Option<FoundChain>, NetlinkError> {
        let message = request(&format!("look up chain {table} {name}"), GETCHAIN, family, |w| {
            w.text(1, table).text(3, name);
        });
        Ok(self.one(&message)?.map(|body| {
            let a = attributes(&body);
            FoundChain {
                uses: a.be32(6).unwrap_or(0),
                drops: a.be32(5) == Some(0),
            }
        }))
    }

    /// All elements of a set; none when there is no such set.
    pub fn elements(&mut self, set: &str) -> Result<Vec<Element>, NetlinkError> {
        let table = self.table;
        let message = request(
            &format!("list the elements of nf_tables set {set}"),
            GETSETELEM,
            self.family,
            |w| {
                w.text(1, table).text(2, set);
            },
        );
        let mut elements = Vec::new();
        self.list(&message, |a| {
            for (_, item) in a.inner(3).into_iter().flatten() {
                elements.extend(parse_element(&Attributes::new(item)));
            }
        })?;
        Ok(elements)
    }

    /// The element with that key.
    pub fn element(&mut self, set: &str, key: &[u8]) -> Result<Option<Element>, NetlinkError> {
        let table = self.table;
        let wanted = Element {
            key: key.to_vec(),
            data: Data::Nothing,
            comment: String::new(),
        };
        let message = request(
            &format!("look up an element of nf_tables set {set}"),
            GETSETELEM,
            self.family,
            |w| {
                write_element(w, table, set, std::slice::from_ref(&wanted), false);
            },
        );
        Ok(self.one(&message)?.and_then(|body| {
            attributes(&body)
                .inner(3)?
                .next()
                .and_then(|(_, i)| parse_element(&Attributes::new(i)))
        }))
    }
}

fn parse_element(a: &Attributes<'_>) -> Option<Element> {
    let key = a.inner(1)?.value(1)?.to_vec();
    let data = match a.inner(2) {
        None => Data::Nothing,
        Some(data) => match (data.value(1), data.inner(2)) {
            (Some(value), _) => Data::Value(value.to_vec()),
            (None, Some(verdict)) => Data::Jump(verdict.text(2).unwrap_or_default()),
            (None, None) => Data::Nothing,
        },
    };
    Some(Element {
        key,
        data,
        comment: comment(a.value(6)),
    })
}
