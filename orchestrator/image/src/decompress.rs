//! Layer compression, recognised by content as every engine does (media types are often wrong).

use std::io::{self, BufReader, Cursor, Read};

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// The OCI media type of a layer compressed this way.
    pub(crate) fn layer_media_type(self) -> &'static str {
        match self {
            Self::None => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    /// Recognises the first bytes of a stream; a known but unsupported compression is an error.
    pub(crate) fn of(start: &[u8]) -> io::Result<Self> {
        let unsupported = |name: &str| {
            Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("{name} compression is not supported: compress with gzip or zstd"),
            ))
        };
        if start.starts_with(&[0x1f, 0x8b]) {
            Ok(Self::Gzip)
        } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Ok(Self::Zstd)
        } else if start.starts_with(b"BZh") {
            unsupported("bzip2")
        } else if start.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
            unsupported("xz")
        } else {
            Ok(Self::None)
        }
    }
}

/// How many bytes [`Compression::of`] needs at most.
pub(crate) const MAGIC_BYTES: usize = 6;

/// Reads up to [`MAGIC_BYTES`] of `reader`: fewer only at the end of the stream.
pub(crate) fn peek(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(MAGIC_BYTES);
    reader.take(MAGIC_BYTES as u64).read_to_end(&mut start)?;
    Ok(start)
}

/// The plain bytes of a stream that may be compressed. Concatenated gzip members and zstd frames
/// are one stream (pigz and zstd:chunked write such).
pub(crate) fn decompress<'a>(mut reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let start = peek(&mut reader)?;
    let compression = Compression::of(&start)?;
    let whole = BufReader::with_capacity(128 * 1024, Cursor::new(start).chain(reader));
    Ok(match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(BufReader::with_capacity(
            64 * 1024,
            flate2::bufread::MultiGzDecoder::new(whole),
        )),
        Compression::Zstd => Box::new(BufReader::with_capacity(
            128 * 1024,
            zstd::stream::read::Decoder::with_buffer(whole)?,
        )),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        decompress(bytes)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn plain_gzip_and_zstd_read_the_same() {
        let text = b"some text that is long enough to be a stream".repeat(1000);
        assert_eq!(read(&text).unwrap(), text);
        assert_eq!(read(&gzip(&text)).unwrap(), text);
        assert_eq!(read(&zstd::encode_all(&text[..], 1).unwrap()).unwrap(), text);
        assert_eq!(read(b"").unwrap(), b"");
        assert_eq!(read(b"abc").unwrap(), b"abc");
    }

    #[test]
    fn concatenated_members_are_one_stream() {
        assert_eq!(read(&[gzip(b"one "), gzip(b"two")].concat()).unwrap(), b"one two");
        let frames = [
            zstd::encode_all(&b"one "[..], 1).unwrap(),
            zstd::encode_all(&b"two"[..], 1).unwrap(),
        ]
        .concat();
        assert_eq!(read(&frames).unwrap(), b"one two");
    }

    #[test]
    fn truncated_and_unsupported_streams_are_errors() {
        let whole = gzip(&b"text".repeat(1000));
        assert!(read(&whole[..whole.len() - 9]).is_err());
        let whole = zstd::encode_all(&b"text".repeat(1000)[..], 1).unwrap();
        assert!(read(&whole[..whole.len() - 2]).is_err());
        assert!(read(b"BZh91AY").unwrap_err().to_string().contains("bzip2"));
        assert!(read(b"\xfd7zXZ\0").unwrap_err().to_string().contains("xz"));
    }
}
