//! Netlink attributes, written and read by hand: type, length, value, padded to four bytes.

const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// Attributes being written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Writer(pub Vec<u8>);

impl Writer {
    /// An attribute with raw bytes.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.0
            .extend_from_slice(&((4 + value.len()) as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A number in network byte order, as nf_tables has them all.
    pub fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A text with its terminating zero.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// An attribute that holds attributes.
    pub fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Writer)) -> &mut Self {
        let mut nested = Writer::default();
        inner(&mut nested);
        self.bytes(kind | NLA_F_NESTED, &nested.0)
    }
}

/// Attributes being read: kind (without flags) and value.
#[derive(Debug, Clone)]
pub(crate) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The value of the first attribute of that kind.
    pub fn value(&self, wanted: u16) -> Option<&'a [u8]> {
        let mut all = self.clone();
        all.find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
    }

    /// The attributes inside the first attribute of that kind.
    pub fn inner(&self, wanted: u16) -> Option<Self> {
        self.value(wanted).map(Attributes)
    }

    /// A text without its terminating zero.
    pub fn text(&self, wanted: u16) -> Option<String> {
        let bytes = self.value(wanted)?;
        Some(String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned())
    }

    /// A number in network byte order.
    pub fn be32(&self, wanted: u16) -> Option<u32> {
        self.value(wanted)?
            .first_chunk::<4>()
            .map(|b| u32::from_be_bytes(*b))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.0.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut w = Writer::default();
        w.text(1, "berth").be32(2, 7).nest(3, |w| {
            w.bytes(4, &[1, 2, 3]);
        });
        let a = Attributes::new(&w.0);
        assert_eq!(a.text(1).as_deref(), Some("berth"));
        assert_eq!(a.be32(2), Some(7));
        assert_eq!(a.inner(3).and_then(|i| i.value(4)), Some(&[1u8, 2, 3][..]));
        assert_eq!(a.value(9), None);
    }

    #[test]
    fn broken_input_ends_the_list() {
        for bytes in [&[][..], &[1, 0], &[3, 0, 1, 0], &[0, 0, 0, 0], &[200, 0, 1, 0, 5]] {
            assert_eq!(Attributes::new(bytes).count(), 0, "{bytes:?}");
        }
    }
}
