//! Records of a pax extended header: `<length> <key>=<value>\n`.

use super::sparse::Segment;

/// What the records say about the next entry. Unknown keys are ignored, as pax demands.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Option<Sparse>,
}

/// GNU tar's `GNU.sparse.*` records (GNU tar manual, "Storing Sparse Files").
#[derive(Debug, Default)]
pub(super) struct Sparse {
    /// Version 1.0: the map stands at the beginning of the data.
    pub(super) in_data: bool,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    /// Versions 0.0 and 0.1: the map itself.
    pub(super) segments: Option<Vec<Segment>>,
    offset: Option<u64>,
}

impl Pax {
    /// Parses all records; the error is the record at fault, for the message.
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, String> {
        let mut pax = Self::default();
        while !bytes.is_empty() {
            let (record, rest) = split_record(bytes).ok_or_else(|| excerpt(bytes))?;
            let equals = record
                .iter()
                .position(|&byte| byte == b'=')
                .ok_or_else(|| excerpt(record))?;
            pax.apply(&record[..equals], &record[equals + 1..])
                .ok_or_else(|| excerpt(record))?;
            bytes = rest;
        }
        Ok(pax)
    }

    fn apply(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"path" => self.path = Some(text(value)?),
            b"linkpath" => self.link = Some(text(value)?),
            b"size" => self.size = Some(number(value)?),
            b"uid" => self.uid = Some(number(value)?),
            b"gid" => self.gid = Some(number(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((text(name)?, value.to_vec()));
                } else if let Some(field) = key.strip_prefix(b"GNU.sparse.") {
                    self.apply_sparse(field, value)?;
                }
            }
        }
        Some(())
    }

    fn apply_sparse(&mut self, field: &[u8], value: &[u8]) -> Option<()> {
        let sparse = self.sparse.get_or_insert_default();
        match field {
            b"major" => sparse.in_data = number(value)? >= 1,
            b"name" => sparse.name = Some(text(value)?),
            b"size" | b"realsize" => sparse.real_size = Some(number(value)?),
            b"numblocks" => sparse.segments = Some(Vec::new()),
            b"offset" => sparse.offset = Some(number(value)?),
            b"numbytes" => {
                let offset = sparse.offset.take()?;
                let length = number(value)?;
                sparse
                    .segments
                    .get_or_insert_default()
                    .push(Segment { offset, length });
            }
            b"map" => {
                let numbers: Vec<u64> = value
                    .split(|&byte| byte == b',')
                    .map(number)
                    .collect::<Option<_>>()?;
                if !numbers.len().is_multiple_of(2) {
                    return None;
                }
                sparse.segments = Some(
                    numbers
                        .chunks_exact(2)
                        .map(|pair| Segment {
                            offset: pair[0],
                            length: pair[1],
                        })
                        .collect(),
                );
            }
            _ => {}
        }
        Some(())
    }
}

/// The first record without its length and newline, and what follows it.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|&byte| byte == b' ')?;
    let length = usize::try_from(number(&bytes[..space])?).ok()?;
    if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
        return None;
    }
    Some((&bytes[space + 1..length - 1], &bytes[length..]))
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// A path or name: no NUL, which would end it early in a system call.
fn text(value: &[u8]) -> Option<Vec<u8>> {
    (!value.contains(&0)).then(|| value.to_vec())
}

/// Decimal seconds with an optional fraction, possibly negative.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let (negative, digits) = match value.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, value),
    };
    let mut parts = digits.splitn(2, |&byte| byte == b'.');
    let seconds = i64::try_from(number(parts.next()?)?).ok()?;
    let mut nanoseconds = 0u32;
    if let Some(fraction) = parts.next() {
        let mut unit = 100_000_000;
        for &digit in fraction {
            if !digit.is_ascii_digit() {
                return None;
            }
            nanoseconds += u32::from(digit - b'0') * unit;
            unit /= 10;
        }
    }
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

fn excerpt(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read() {
        let pax =
            Pax::parse(b"11 path=ab\n13 uid=70000\n15 mtime=-1.25\n22 SCHILY.xattr.u.a=\x00\n").unwrap();
        assert_eq!(pax.path.unwrap(), b"ab");
        assert_eq!(pax.uid, Some(70000));
        assert_eq!(pax.mtime, Some((-2, 750_000_000)));
        assert_eq!(pax.xattrs, [(b"u.a".to_vec(), vec![0])]);
    }

    #[test]
    fn malformed_records_are_named() {
        for bytes in [
            &b"path=ab\n"[..],
            b"99 path=ab\n",
            b"0 path=ab\n",
            b"11 path=abc",
            b"9 pathab\n",
            b"12 size=-12\n",
            b"12 path=a\0b\n",
            b"18446744073709551616 a=b\n",
        ] {
            assert!(Pax::parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
