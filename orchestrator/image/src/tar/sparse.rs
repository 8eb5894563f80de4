//! Sparse files in tar: GNU's old form and its three pax forms (GNU tar manual, "Sparse Formats").

use std::io::Read;

use super::{Archive, BLOCK, TarError};

/// Most regions a sparse file may have: real writers stay far below, a bomb does not.
const SEGMENT_LIMIT: usize = 1 << 18;

/// A region with data; what is between regions is a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// The map in an old GNU header and in the blocks that continue it.
pub(super) fn gnu_map<R: Read>(
    archive: &mut Archive<R>,
    header: &tar::GnuHeader,
    path: &str,
) -> Result<Vec<Segment>, TarError> {
    let malformed = || TarError::Sparse {
        path: path.to_owned(),
    };
    let mut segments = Vec::new();
    let mut collect = |entries: &[tar::GnuSparseHeader]| {
        for entry in entries.iter().take_while(|entry| !entry.is_empty()) {
            let (Ok(offset), Ok(length)) = (entry.offset(), entry.length()) else {
                return Err(malformed());
            };
            segments.push(Segment { offset, length });
        }
        if segments.len() > SEGMENT_LIMIT {
            Err(malformed())
        } else {
            Ok(())
        }
    };
    collect(&header.sparse)?;
    let mut extended = header.is_extended();
    while extended {
        let mut block = tar::GnuExtSparseHeader::new();
        block.as_mut_bytes().copy_from_slice(&archive.raw_block()?);
        collect(block.sparse())?;
        extended = block.is_extended();
    }
    Ok(segments)
}

/// The map of format 1.0: decimal numbers, one a line, at the beginning of the data, filled up to
/// a whole block.
pub(super) fn read_map<R: Read>(archive: &mut Archive<R>, path: &str) -> Result<Vec<Segment>, TarError> {
    let malformed = || TarError::Sparse {
        path: path.to_owned(),
    };
    let mut numbers: Vec<u64> = Vec::new();
    let mut digits = 0u64;
    let mut any = false;
    loop {
        let mut block = [0u8; BLOCK];
        archive.read_data(&mut block)?;
        for &byte in &block {
            match byte {
                b'0'..=b'9' => {
                    digits = digits
                        .checked_mul(10)
                        .and_then(|value| value.checked_add(u64::from(byte - b'0')))
                        .ok_or_else(malformed)?;
                    any = true;
                }
                b'\n' if any => {
                    numbers.push(std::mem::take(&mut digits));
                    any = false;
                }
                _ => return Err(malformed()),
            }
            let count = numbers.first().copied().unwrap_or(1);
            if count > SEGMENT_LIMIT as u64 {
                return Err(malformed());
            }
            if !numbers.is_empty() && numbers.len() as u64 == 1 + 2 * count {
                return Ok(numbers[1..]
                    .chunks_exact(2)
                    .map(|pair| Segment {
                        offset: pair[0],
                        length: pair[1],
                    })
                    .collect());
            }
        }
    }
}

/// Whether the regions are in order, inside the file, and account for all stored bytes.
pub(super) fn consistent(segments: &[Segment], size: u64, stored: u64) -> bool {
    let (mut end, mut total) = (0u64, 0u64);
    for segment in segments {
        let Some(segment_end) = segment.offset.checked_add(segment.length) else {
            return false;
        };
        if segment.offset < end || segment_end > size {
            return false;
        }
        end = segment_end;
        total += segment.length;
    }
    total == stored
}
