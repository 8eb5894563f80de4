//! Kinds of fields: how a step's field is kept in a plan, and how the init sees it.

use core::ffi::CStr;

#[cfg(not(berth_init))]
use super::encode;
use super::reader::{Malformed, Reader, TextList};

/// A kind of field of a step: how it is kept in a plan, and how the init sees it.
pub trait Field {
    /// As the init sees it.
    type Borrowed<'a>;
    /// As the plan keeps it.
    #[cfg(not(berth_init))]
    type Owned: Clone + PartialEq + Eq + core::fmt::Debug;
    /// Reads it.
    fn decode<'a>(reader: &mut Reader<'a>) -> Result<Self::Borrowed<'a>, Malformed>;
    /// Writes it.
    #[cfg(not(berth_init))]
    fn encode(owned: &Self::Owned, writer: &mut encode::Writer<'_>);
    /// Shows it in `berth plan`.
    #[cfg(not(berth_init))]
    fn show(owned: &Self::Owned, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result;
}

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident: $owned:ty, $borrowed:ty, $read:ident;)*) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub enum $name {}

        impl Field for $name {
            type Borrowed<'a> = $borrowed;
            #[cfg(not(berth_init))]
            type Owned = $owned;
            fn decode<'a>(reader: &mut Reader<'a>) -> Result<Self::Borrowed<'a>, Malformed> {
                reader.$read()
            }
            #[cfg(not(berth_init))]
            fn encode(owned: &Self::Owned, writer: &mut encode::Writer<'_>) {
                encode::Encode::put(owned, writer);
            }
            #[cfg(not(berth_init))]
            fn show(owned: &Self::Owned, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                encode::Encode::show(owned, f)
            }
        }
    )* };
}

fields! {
    /// A 32-bit number.
    U32: u32, u32, u32;
    /// A 64-bit number, shown in hexadecimal: flags and masks.
    U64: u64, u64, u64;
    /// Yes or no.
    Flag: bool, bool, flag;
    /// A string: a path, a name.
    Text: std::ffi::CString, &'a CStr, text;
    /// Several strings.
    Texts: Vec<std::ffi::CString>, TextList<'a>, list;
    /// Bytes without meaning to the init: a filter, a structure for the kernel.
    Bytes: Vec<u8>, &'a [u8], bytes;
    /// A descriptor that the init inherits, or none (-1).
    Descriptor: Option<Slot>, i32, fd;
}

/// Descriptors that a plan refers to before they have numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Slot {
    /// The listening socket that `berth start` connects to.
    Gate,
    /// The connected socket that gets the pseudoterminal's master.
    Console,
    /// A detached mount made by the host step with this number.
    Source(u32),
    /// The state document for hooks that run while the container is created.
    CreatingDocument,
    /// The state document for hooks that run when it is started.
    CreatedDocument,
}
