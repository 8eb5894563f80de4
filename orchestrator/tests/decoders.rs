//! Every decoder of what strangers send, over a corpus and many changes of each of its members: none may panic, take
//! more than its bounds, or never end.
//!
//! The corpus is `tests/fuzz/corpus/DECODER/`; an input that once broke something belongs there. Changes are made by a
//! fixed rule, so that a failure comes again.

#![allow(clippy::unwrap_used, clippy::panic)] // a test says what failed by panicking

#[path = "../../tests/fuzz/requests.rs"]
#[allow(clippy::expect_used)] // as here
mod requests;

use std::path::{Path, PathBuf};

/// Changes of each member.
const CHANGES: u64 = 400;

/// The members of a decoder's corpus, by name.
fn corpus(decoder: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fuzz/corpus")
        .join(decoder);
    let mut members: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    members.sort();
    assert!(!members.is_empty(), "no corpus for {decoder}");
    members
}

/// Numbers by xorshift.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below.max(1) as u64) as usize
    }
}

/// A changed copy: bytes turned, cut out, doubled, or replaced by ones that often mean something.
fn changed(bytes: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    const TELLING: &[u8] = b"\0\x01\x7f\x80\xff{}[]\",:0-e\\&*!$/~.=()";
    let mut out = bytes.to_vec();
    for _ in 0..=numbers.next(4) {
        let at = numbers.next(out.len());
        match numbers.next(5) {
            0 if !out.is_empty() => out[at] ^= 1 << numbers.next(8),
            1 if !out.is_empty() => out[at] = TELLING[numbers.next(TELLING.len())],
            2 => out.truncate(at),
            3 => {
                let end = (at + numbers.next(16)).min(out.len());
                let piece = out[at.min(end)..end].to_vec();
                out.splice(at.min(out.len())..at.min(out.len()), piece);
            }
            _ => {
                let end = (at + numbers.next(8)).min(out.len());
                out.drain(at.min(end)..end);
            }
        }
    }
    out
}

fn replay(decoder: &str, target: impl Fn(&[u8]) + std::panic::RefUnwindSafe) {
    for (path, bytes) in corpus(decoder) {
        target(&bytes);
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        for change in 0..CHANGES {
            let input = changed(&bytes, &mut numbers);
            let ended = std::panic::catch_unwind(|| target(&input));
            assert!(
                ended.is_ok(),
                "{} after change {change}: {:?}",
                path.display(),
                String::from_utf8_lossy(&input)
            );
        }
    }
}

#[test]
fn json() {
    replay("json", requests::json);
}

#[test]
fn yaml() {
    replay("yaml", requests::yaml);
}

#[test]
fn protobufs() {
    replay("protobuf", requests::protobuf);
}

#[test]
fn patches() {
    replay("patch", requests::patch);
}

#[test]
fn selectors() {
    replay("selector", requests::selector);
}

#[test]
fn spdy_frames() {
    replay("spdy", requests::spdy);
}

#[test]
fn websocket_frames() {
    replay("websocket", requests::websocket);
}

#[test]
fn tokens() {
    replay("token", requests::token);
}
