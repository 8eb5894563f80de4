//! Batches of nf_tables changes, committed together or not at all.

use std::collections::VecDeque;

use nix::errno::Errno;

use super::{
    Nft,
    expr::{Program, Verdict},
    layout::{BaseChain, Set, datatype},
    wire::Writer,
};
use crate::netlink::{Message, NetlinkError};

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const BATCH_GENID: u16 = 1;
pub(super) const NEWTABLE: u16 = SUBSYSTEM;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const DELCHAIN: u16 = SUBSYSTEM | 5;
const NEWRULE: u16 = SUBSYSTEM | 6;
const DELRULE: u16 = SUBSYSTEM | 8;
const NEWSET: u16 = SUBSYSTEM | 9;
const NEWSETELEM: u16 = SUBSYSTEM + 12;
const DELSETELEM: u16 = SUBSYSTEM + 14;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_APPEND: u16 = 0x800;

/// Elements in one message: an attribute holds at most 64 KiB.
const ELEMENTS: usize = 400;
/// The kernel's pattern for sets that have no name of their own.
pub(super) const ANONYMOUS_MAP: &str = "__map%d";

/// What an element of a set or map leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data {
    /// A set has none.
    Nothing,
    /// A map's value.
    Value(Vec<u8>),
    /// A verdict map's jump to a chain.
    Jump(String),
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    /// The key in network byte order; each part padded to four bytes.
    pub key: Vec<u8>,
    /// What it leads to.
    pub data: Data,
    /// Whose it is.
    pub comment: String,
}

/// A chain of somebody else's table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ForeignChain<'a> {
    pub family: u8,
    pub table: &'a str,
    pub name: &'a str,
}

/// Changes in the order they are made.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    /// The family of Berth's table that they are for.
    family: u8,
    /// That table's name.
    table: &'static str,
    messages: Vec<Message>,
}

/// nfgenmsg: family, version 0, resource (big endian).
pub(super) fn generic_header(family: u8, resource: u16) -> Vec<u8> {
    let [high, low] = resource.to_be_bytes();
    vec![family, 0, high, low]
}

/// User data of one comment: type 0, length, text, zero; what nft prints as `comment`.
fn comment(text: &str) -> Vec<u8> {
    let mut data = vec![0, text.len() as u8 + 1];
    data.extend_from_slice(text.as_bytes());
    data.push(0);
    data
}

impl Batch {
    pub(super) fn new(family: u8, table: &'static str) -> Self {
        Self {
            family,
            table,
            messages: Vec::new(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    fn push(&mut self, what: String, kind: u16, flags: u16, family: u8, body: impl FnOnce(&mut Writer)) {
        let mut writer = Writer(generic_header(family, 0));
        body(&mut writer);
        self.messages.push(Message {
            what,
            kind,
            flags,
            body: writer.0,
            tolerated: &[],
        });
    }

    /// The table, unless it is there.
    pub fn table(&mut self) {
        let table = self.table;
        self.push(
            format!("create nf_tables table {}", self.table),
            NEWTABLE,
            NLM_F_CREATE,
            self.family,
            |w| {
                w.text(1, table).be32(2, 0);
            },
        );
    }

    /// Removes the table with all that is in it; it must be there.
    pub fn delete_table(&mut self) {
        let table = self.table;
        let what = format!("delete nf_tables table {table}");
        self.push(what, DELTABLE, 0, self.family, |w| {
            w.text(1, table);
        });
    }

    /// A chain that a hook runs, unless it is there.
    pub fn base_chain(&mut self, chain: &BaseChain) {
        let table = self.table;
        self.push(
            format!("create nf_tables chain {}", chain.name),
            NEWCHAIN,
            NLM_F_CREATE,
            self.family,
            |w| {
                w.text(1, table).text(3, chain.name);
                w.nest(4, |w| {
                    w.be32(1, chain.hook).be32(2, chain.priority as u32);
                });
                w.be32(5, 1).text(7, chain.kind);
            },
        );
    }

    /// A chain to jump to, unless it is there.
    pub fn chain(&mut self, name: &str) {
        let table = self.table;
        self.push(
            format!("create nf_tables chain {name}"),
            NEWCHAIN,
            NLM_F_CREATE,
            self.family,
            |w| {
                w.text(1, table).text(3, name);
            },
        );
    }

    /// Removes a chain with its rules; nothing may lead to it.
    pub fn delete_chain(&mut self, name: &str) {
        let table = self.table;
        self.push(
            format!("delete nf_tables chain {name}"),
            DELCHAIN,
            0,
            self.family,
            |w| {
                w.text(1, table).text(3, name);
            },
        );
    }

    /// Removes all rules of a chain.
    pub fn flush_chain(&mut self, name: &str) {
        let table = self.table;
        self.push(
            format!("flush nf_tables chain {name}"),
            DELRULE,
            0,
            self.family,
            |w| {
                w.text(1, table).text(2, name);
            },
        );
    }

    /// Appends a rule to a chain of Berth's table.
    pub fn rule(&mut self, chain: &str, text: &str, program: &Program) {
        let table = self.table;
        self.push(
            format!("add nf_tables rule {text:?} to {chain}"),
            NEWRULE,
            NLM_F_CREATE | NLM_F_APPEND,
            self.family,
            |w| {
                w.text(1, table).text(2, chain);
                w.nest(4, |w| w.0.extend_from_slice(program.bytes()));
                w.bytes(7, &comment(text));
            },
        );
    }

    /// Inserts a rule into a chain of somebody else's table: at its start, or after the rule with that handle.
    pub fn insert_foreign_rule(
        &mut self,
        chain: &ForeignChain<'_>,
        after: Option<u64>,
        text: &str,
        program: &Program,
    ) {
        let flags = if after.is_some() { NLM_F_APPEND } else { 0 };
        self.push(
            format!("insert rule {text:?} into {} {}", chain.table, chain.name),
            NEWRULE,
            NLM_F_CREATE | flags,
            chain.family,
            |w| {
                w.text(1, chain.table).text(2, chain.name);
                w.nest(4, |w| w.0.extend_from_slice(program.bytes()));
                if let Some(handle) = after {
                    w.bytes(6, &handle.to_be_bytes());
                }
                w.bytes(7, &comment(text));
            },
        );
    }

    /// Removes one rule by its handle.
    pub fn delete_foreign_rule(&mut self, chain: &ForeignChain<'_>, handle: u64) {
        self.push(
            format!("delete a rule of {} {}", chain.table, chain.name),
            DELRULE,
            0,
            chain.family,
            |w| {
                w.text(1, chain.table)
                    .text(2, chain.name)
                    .bytes(3, &handle.to_be_bytes());
            },
        );
    }

    /// A chain to jump to in somebody else's table, unless it is there.
    pub fn foreign_chain(&mut self, chain: &ForeignChain<'_>) {
        let what = format!("create chain {} in table {}", chain.name, chain.table);
        self.push(what, NEWCHAIN, NLM_F_CREATE, chain.family, |w| {
            w.text(1, chain.table).text(3, chain.name);
        });
    }

    /// Removes such a chain; nothing may lead to it.
    pub fn delete_foreign_chain(&mut self, chain: &ForeignChain<'_>) {
        let what = format!("delete chain {} of table {}", chain.name, chain.table);
        self.push(what, DELCHAIN, 0, chain.family, |w| {
            w.text(1, chain.table).text(3, chain.name);
        });
    }

    /// A set or map, unless it is there.
    pub fn set(&mut self, set: &Set) {
        let table = self.table;
        let id = self.messages.len() as u32 + 1;
        self.push(
            format!("create nf_tables set {}", set.name),
            NEWSET,
            NLM_F_CREATE,
            self.family,
            |w| {
                w.text(1, table).text(2, set.name);
                w.be32(3, set.flags())
                    .be32(4, set.key_type)
                    .be32(5, set.key_length);
                match set.data {
                    None => {}
                    Some((kind, 0)) => {
                        w.be32(6, kind);
                    }
                    Some((kind, length)) => {
                        w.be32(6, kind).be32(7, length);
                    }
                }
                w.be32(10, id);
                // Tells nft(8) the byte order to print keys and data in: 2 is network byte order, 1 the host's,
                // in which names are.
                let order = if set.key_type == datatype::INTERFACE_NAME {
                    1
                } else {
                    2
                };
                w.bytes(13, &[0, 4, order, 0, 0, 0, 1, 4, 2, 0, 0, 0]);
            },
        );
    }

    fn element_message(
        &mut self,
        verb: &str,
        kind: u16,
        flags: u16,
        set: &str,
        element: &Element,
        whole: bool,
    ) {
        let table = self.table;
        let what = format!("{verb} an element ({}) of nf_tables set {set}", element.comment);
        self.push(what, kind, flags, self.family, |w| {
            write_element(w, table, set, std::slice::from_ref(element), whole);
        });
    }

    /// Adds an element, which must not be there.
    pub fn add_element(&mut self, set: &str, element: &Element) {
        self.element_message("add", NEWSETELEM, NLM_F_CREATE | NLM_F_EXCL, set, element, true);
    }

    /// Adds elements, which must not be there.
    pub fn add_elements(&mut self, set: &str, elements: &[Element]) {
        let table = self.table;
        for some in elements.chunks(ELEMENTS) {
            let what = format!("add {} elements to nf_tables set {set}", some.len());
            let flags = NLM_F_CREATE | NLM_F_EXCL;
            self.push(what, NEWSETELEM, flags, self.family, |w| {
                write_element(w, table, set, some, true);
            });
        }
    }

    /// A map from 0, 1, 2, … to values, without a name: it belongs to the next rule that looks up in it by the
    /// identifier given, and goes with it. `data` is the values' type and length in bytes.
    pub fn numbered_map(&mut self, data: (u32, u32), values: &[Vec<u8>]) -> u32 {
        const ANONYMOUS_CONSTANT_MAP: u32 = 1 | 2 | 8;
        let table = self.table;
        let id = self.messages.len() as u32 + 1;
        let what = "create an nf_tables map".to_owned();
        self.push(what, NEWSET, NLM_F_CREATE, self.family, |w| {
            w.text(1, table).text(2, ANONYMOUS_MAP);
            w.be32(3, ANONYMOUS_CONSTANT_MAP)
                .be32(4, super::datatype::INTEGER)
                .be32(5, 4)
                .be32(6, data.0)
                .be32(7, data.1)
                .be32(10, id);
            // For nft(8): the numbers are in the host's byte order, the values in the network's.
            w.bytes(13, &[0, 4, 1, 0, 0, 0, 1, 4, 2, 0, 0, 0]);
        });
        let elements: Vec<Element> = values
            .iter()
            .enumerate()
            .map(|(number, value)| Element {
                key: (number as u32).to_ne_bytes().to_vec(),
                data: Data::Value(value.clone()),
                comment: String::new(),
            })
            .collect();
        for some in elements.chunks(ELEMENTS) {
            let what = format!("add {} elements to an nf_tables map", some.len());
            self.push(what, NEWSETELEM, NLM_F_CREATE, self.family, |w| {
                write_element(w, table, ANONYMOUS_MAP, some, true);
                w.be32(4, id);
            });
        }
        id
    }

    /// Removes an element.
    pub fn delete_element(&mut self, set: &str, element: &Element) {
        self.element_message("delete", DELSETELEM, 0, set, element, false);
    }
}

/// Set, and a list of elements.
pub(super) fn write_element(w: &mut Writer, table: &str, set: &str, elements: &[Element], whole: bool) {
    w.text(1, table).text(2, set);
    w.nest(3, |w| {
        for element in elements {
            w.nest(1, |w| write_one(w, element, whole));
        }
    });
}

fn write_one(w: &mut Writer, element: &Element, whole: bool) {
    w.nest(1, |w| {
        w.bytes(1, &element.key);
    });
    if !whole {
        return;
    }
    match &element.data {
        Data::Nothing => {}
        Data::Value(value) => {
            w.nest(2, |w| {
                w.bytes(1, value);
            });
        }
        Data::Jump(chain) => {
            w.nest(2, |w| Verdict::Jump(chain.clone()).write(w));
        }
    }
    if !element.comment.is_empty() {
        w.bytes(6, &comment(&element.comment));
    }
}

impl Nft {
    /// Commits a batch if the ruleset still has the generation it was planned for.
    pub(super) fn commit(&mut self, what: &str, batch: &Batch, generation: u32) -> Result<(), NetlinkError> {
        let mut begin = Writer(generic_header(0, 10));
        begin.be32(BATCH_GENID, generation);
        let edge = |kind, body| Message {
            what: what.into(),
            kind,
            flags: 0,
            body,
            tolerated: &[],
        };
        let mut queue: VecDeque<Message> = batch.messages.iter().cloned().collect();
        queue.push_front(edge(BATCH_BEGIN, begin.0));
        queue.push_back(edge(BATCH_END, generic_header(0, 10)));
        let mut bytes = Vec::new();
        let mut sent: Vec<(u32, &Message)> = Vec::new();
        let last_change = queue.len() - 2;
        for (at, message) in queue.iter().enumerate() {
            let sequence = self.channel.next_sequence();
            message.append(
                &mut bytes,
                if at == last_change { NLM_F_ACK } else { 0 },
                sequence,
            );
            sent.push((sequence, message));
        }
        self.channel.make_room(bytes.len());
        self.channel.send(what, &bytes)?;
        // The kernel has answered before send returned: an error a message, and the acknowledgement.
        let mut error = None;
        let mut acknowledged = false;
        loop {
            let answers = self.channel.receive(what, false)?;
            if answers.is_empty() {
                break;
            }
            for answer in answers {
                let Some((number, detail)) = answer.error() else {
                    continue;
                };
                let Some((_, message)) = sent.iter().find(|(s, _)| *s == answer.sequence) else {
                    continue;
                };
                acknowledged |= number == 0;
                if number != 0 && error.is_none() {
                    let errno = Errno::from_raw(number);
                    error = Some(NetlinkError {
                        what: message.what.clone(),
                        errno,
                        detail,
                    });
                }
            }
        }
        match error {
            Some(error) => Err(error),
            None if acknowledged => Ok(()),
            None => Err(NetlinkError {
                what: what.into(),
                errno: Errno::EAGAIN,
                detail: None,
            }),
        }
    }
}
