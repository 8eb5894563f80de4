//! How the types of the configuration are declared and read.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::reader::{Failed, Reader, Value};

impl Value for bool {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Failed> {
        reader.boolean()
    }
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        #[allow(clippy::cast_lossless)] // for the narrower ones it is
        impl Value for $type {
            fn read(reader: &mut Reader<'_>) -> Result<Self, Failed> {
                Ok(reader.integer(Self::MIN as i64, Self::MAX as u64)? as Self)
            }
        }
    )*};
}

integers!(u16, u32, u64, usize, i32, i64);

impl Value for String {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Failed> {
        Ok(reader.string()?.into_owned())
    }
}

impl Value for PathBuf {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Failed> {
        String::read(reader).map(Self::from)
    }
}

/// Absence is the object's matter: what is here is there.
impl<T: Value> Value for Option<T> {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Failed> {
        T::read(reader).map(Some)
    }
}

impl<T: Value> Value for Vec<T> {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Failed> {
        let mut list = Self::new();
        reader.array(&mut |reader| {
            list.push(T::read(reader)?);
            Ok(())
        })?;
        Ok(list)
    }
}

/// A key that is given twice has its last value.
impl<T: Value> Value for BTreeMap<String, T> {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Failed> {
        let mut map = Self::new();
        reader.map(&mut |reader, key| {
            map.insert(key, T::read(reader)?);
            Ok(())
        })?;
        Ok(map)
    }
}

/// Declares an object of the configuration: public fields, a method of the same name to read each (by value where
/// it says `copy`, else `by_ref`), and how it is read from JSON. A field is written
/// `name: copy|by_ref Type = "key"`, with `required` at the end if it must be there.
#[macro_export]
macro_rules! object {
    ($(#[$attribute:meta])* pub struct $object:ident {
        $($(#[$doc:meta])* $name:ident: $kind:ident $type:ty = $key:literal $($required:ident)?,)*
    }) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct $object {
            $($(#[$doc])* pub $name: $type,)*
        }

        impl $object {
            $($crate::object!(@getter $kind [$(#[$doc])*] $name $type);)*
        }

        impl $crate::Value for $object {
            fn read(reader: &mut $crate::Reader<'_>) -> Result<Self, $crate::Failed> {
                #[allow(non_camel_case_types)]
                enum Field { $($name),* }
                const KEYS: &[&str] = &[$($key),*];
                const REQUIRED: u32 = 0 $($(| $crate::object!(@$required Field::$name))?)*;
                let mut object = Self::default();
                reader.object(KEYS, REQUIRED, &mut |reader, index| {
                    $(if index == Field::$name as usize {
                        object.$name = $crate::Value::read(reader)?;
                    })*
                    Ok(())
                })?;
                Ok(object)
            }
        }
    };
    (@getter copy [$(#[$doc:meta])*] $name:ident $type:ty) => {
        $(#[$doc])*
        pub fn $name(&self) -> $type {
            self.$name
        }
    };
    (@getter by_ref [$(#[$doc:meta])*] $name:ident $type:ty) => {
        $(#[$doc])*
        pub fn $name(&self) -> &$type {
            &self.$name
        }
    };
    (@required $field:expr) => {
        1 << $field as u32
    };
}

/// Declares a set of words of the configuration. The first is the default, unless there is a `default`.
macro_rules! words {
    ($(#[$attribute:meta])* pub enum $enum:ident {
        $($(#[$doc:meta])* $variant:ident $(= $number:literal)? => $word:literal,)*
    }) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $enum {
            $($(#[$doc])* #[doc = concat!("`", $word, "`")] $variant $(= $number)?,)*
        }

        impl $enum {
            /// All of them, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            const WORDS: &[&str] = &[$($word),*];

            /// The word of the configuration.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl Default for $enum {
            fn default() -> Self {
                Self::ALL[0]
            }
        }

        impl std::fmt::Display for $enum {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl $crate::Value for $enum {
            fn read(reader: &mut $crate::Reader<'_>) -> Result<Self, $crate::Failed> {
                reader.word(Self::WORDS).map(|index| Self::ALL[index])
            }
        }
    };
}

pub(crate) use words;
