//! Bodies of requests: nothing, a document, or a file as it is read.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};

use super::error::RegistryError;

/// Bytes of a file that are read at once.
const PIECE: usize = 128 * 1024;

/// What a request carries.
#[derive(Debug)]
pub(crate) enum Content {
    Bytes(Option<Bytes>),
    File { file: File, left: u64 },
}

impl Content {
    pub(crate) fn none() -> Self {
        Self::Bytes(None)
    }

    pub(crate) fn bytes(bytes: Vec<u8>) -> Self {
        Self::Bytes(Some(Bytes::from(bytes)))
    }

    pub(crate) fn file(path: &Path) -> Result<Self, RegistryError> {
        let failed = |source| RegistryError::Upload {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let left = file.metadata().map_err(failed)?.len();
        Ok(Self::File { file, left })
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match &mut *self {
            Self::Bytes(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::File { left: 0, .. } => Poll::Ready(None),
            // The transfer has the thread for itself, so reading may block it.
            Self::File { file, left } => {
                let most = usize::try_from(*left).unwrap_or(PIECE).min(PIECE);
                let mut piece = vec![0; most];
                Poll::Ready(Some(match file.read(&mut piece) {
                    Ok(0) => Err(std::io::ErrorKind::UnexpectedEof.into()),
                    Ok(count) => {
                        *left -= count as u64;
                        piece.truncate(count);
                        Ok(Frame::data(Bytes::from(piece)))
                    }
                    Err(error) => Err(error),
                }))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Bytes(None) | Self::File { left: 0, .. })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Bytes(bytes) => bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
            Self::File { left, .. } => *left,
        })
    }
}
