//! Writing a plan for the init program.

use std::ffi::CString;
use std::fmt;

use super::{HEADER_LENGTH, InitStep, MAGIC, Slot, env_version};

/// Builds the bytes of a plan.
#[derive(Debug)]
pub struct Writer<'a> {
    bytes: Vec<u8>,
    slots: &'a dyn SlotNumbers,
}

/// Gives the descriptor number of a slot, now that it has one.
pub trait SlotNumbers: fmt::Debug {
    /// The number, or -1 when the slot was not filled.
    fn number(&self, slot: Slot) -> i32;
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn number(&mut self, number: usize) {
        self.put(&(number as u32).to_le_bytes());
    }
}

/// A value that can stand in a plan.
pub trait Encode {
    /// Writes it.
    fn put(&self, writer: &mut Writer<'_>);
    /// Shows it in `berth plan`.
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

impl Encode for u32 {
    fn put(&self, writer: &mut Writer<'_>) {
        writer.put(&self.to_le_bytes());
    }
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Encode for u64 {
    fn put(&self, writer: &mut Writer<'_>) {
        writer.put(&self.to_le_bytes());
    }
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:#x}")
    }
}

impl Encode for bool {
    fn put(&self, writer: &mut Writer<'_>) {
        writer.number(usize::from(*self));
    }
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Encode for CString {
    fn put(&self, writer: &mut Writer<'_>) {
        writer.number(self.as_bytes_with_nul().len());
        writer.put(self.as_bytes_with_nul());
    }
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string_lossy())
    }
}

impl Encode for Vec<CString> {
    fn put(&self, writer: &mut Writer<'_>) {
        writer.number(self.len());
        for text in self {
            text.put(writer);
        }
    }
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.iter().map(|text| text.to_string_lossy()))
            .finish()
    }
}

impl Encode for Vec<u8> {
    fn put(&self, writer: &mut Writer<'_>) {
        writer.number(self.len());
        writer.put(self);
    }
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(self) {
            Ok(text) if !text.contains(|c: char| c.is_control()) => write!(f, "{text:?}"),
            _ => write!(f, "<{} bytes>", self.len()),
        }
    }
}

impl Encode for Option<Slot> {
    fn put(&self, writer: &mut Writer<'_>) {
        let number = self.map_or(-1, |slot| writer.slots.number(slot));
        writer.put(&number.to_le_bytes());
    }
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Some(slot) => write!(f, "{slot:?}"),
            None => f.write_str("none"),
        }
    }
}

/// Writes a plan. The second result is the number of scratch words its steps need.
pub fn plan(
    steps: &[InitStep],
    socket: i32,
    first_private: u32,
    slots: &dyn SlotNumbers,
) -> (Vec<u8>, usize) {
    let mut writer = Writer {
        bytes: vec![0; HEADER_LENGTH],
        slots,
    };
    writer.bytes.reserve(8192);
    for step in steps {
        writer.put(&step.tag().to_le_bytes());
        let at = writer.bytes.len();
        writer.number(0);
        step.encode_body(&mut writer);
        let length = (writer.bytes.len() - at - 4) as u32;
        writer.bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }
    let scratch = scratch_words(steps);
    let mut bytes = writer.bytes;
    let length = bytes.len() as u64;
    bytes[..8].copy_from_slice(&length.to_le_bytes());
    bytes[8..16].copy_from_slice(&(scratch as u64).to_le_bytes());
    let numbers = [
        MAGIC,
        env_version(),
        socket as u32,
        first_private,
        steps.len() as u32,
    ];
    for (index, number) in numbers.iter().enumerate() {
        bytes[16 + index * 4..20 + index * 4].copy_from_slice(&number.to_le_bytes());
    }
    (bytes, scratch)
}

/// Two null-terminated pointer arrays for each program that is run, and one more entry for HOME.
fn scratch_words(steps: &[InitStep]) -> usize {
    steps
        .iter()
        .map(|step| match step {
            InitStep::Hook {
                arguments,
                environment,
                ..
            }
            | InitStep::Execute {
                arguments,
                environment,
            } => arguments.len() + environment.len() + 3,
            _ => 0,
        })
        .sum()
}
