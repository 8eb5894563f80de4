//! What the fuzz targets of the API server do with any bytes: each runs a decoder of what strangers send. None may panic,
//! take more than its bounds, or never end; and what was understood must be understood the same way again.
//!
//! `orchestrator/tests/decoders.rs` replays the corpora and changes of their members through the same functions.

use std::sync::LazyLock;

use berth_api::schema::{Type, decode};
use berth_api::selector::{FieldSelector, LabelSelector};
use berth_api::{kinds, parse, patch, protobuf as envelope};
use berthd::pki::Tokens;
use berthd::server::streaming::{spdy as spdy_frames, websocket as websocket_frames};
use serde_json::{Value, json as value};

/// A pod that patches are made on.
static POD: LazyLock<Value> = LazyLock::new(|| {
    let text = include_str!("corpus/json/pod");
    serde_json::from_str(text).expect("the corpus' pod is JSON")
});

/// What a request's body goes through once it is a tree: a second time it must be found as it is.
fn conform(mut object: Value) {
    let of = Type::named("Pod").expect("a type of every server");
    if decode::decode(of, &mut object).is_ok() {
        let once = object.clone();
        let unknown = decode::decode(of, &mut object).expect("what was decoded once decodes again");
        assert!(unknown.is_empty(), "left over: {unknown:?}");
        assert_eq!(once, object, "decoding goes on changing an object");
    }
}

/// A body in JSON.
pub fn json(data: &[u8]) {
    if let Ok((object, _)) = parse::json(data) {
        let text = object.to_string();
        let again = parse::json(text.as_bytes()).expect("what was written is read");
        assert_eq!(again.0, object);
        assert!(again.1.is_empty(), "twice in {text}: {:?}", again.1);
        conform(object);
    }
}

/// A body in YAML.
pub fn yaml(data: &[u8]) {
    if let Ok((object, _)) = parse::yaml(data) {
        conform(object);
    }
}

/// A body in the API's protobuf envelope.
pub fn protobuf(data: &[u8]) {
    if let Ok(object) = envelope::object(data) {
        conform(object);
    }
}

/// The three patches that are made on an object (the fourth, apply, is decoded as an object).
pub fn patch(data: &[u8]) {
    let Ok((change, _)) = parse::json(data) else {
        return;
    };
    let mut merged = POD.clone();
    if patch::merge(&mut merged, &change).is_ok() {
        let once = merged.clone();
        patch::merge(&mut merged, &change).expect("a merge is possible again");
        assert_eq!(once, merged, "a merge is not idempotent");
    }
    // Whether these apply or not: no panic, and an end.
    let _ = patch::json(&mut POD.clone(), &change);
    let of = Type::named("Pod").expect("a type of every server");
    let mut patched = POD.clone();
    if patch::strategic(of, &mut patched, &change).is_ok() {
        conform(patched);
    }
}

/// Label and field selectors of a query.
pub fn selector(data: &[u8]) {
    let object = value!({"metadata": {"name": "a", "labels": {"a": "b", "l": "7"}}});
    let text = String::from_utf8_lossy(data);
    if let Ok(selector) = LabelSelector::parse(&text) {
        selector.matches_object(&object);
    }
    if let Ok(selector) = FieldSelector::parse(kinds::POD, &text) {
        let by_object = selector.matches_object(&object);
        if let Some(by_place) = selector.matches_place("", "a") {
            assert_eq!(by_object, by_place, "{text}");
        }
    }
    for alias in kinds::ALIASES {
        if let Ok(stored) = FieldSelector::translated(alias, &text) {
            let _ = FieldSelector::parse(alias.stored, &stored);
        }
    }
}

/// Frames of SPDY/3.1, in small pieces.
pub fn spdy(data: &[u8]) {
    let mut decoder = spdy_frames::Decoder::default();
    for piece in data.chunks(7) {
        decoder.buffer().extend_from_slice(piece);
        while let Ok(Some(_)) = decoder.next_frame() {}
    }
}

/// Frames of WebSocket, in small pieces.
pub fn websocket(data: &[u8]) {
    let mut decoder = websocket_frames::Decoder::default();
    for piece in data.chunks(5) {
        decoder.buffer().extend_from_slice(piece);
        while let Ok(Some(_)) = decoder.next_frame() {}
    }
}

/// Bearer tokens: nobody makes one without the key.
pub fn token(data: &[u8]) {
    static TOKENS: LazyLock<Tokens> = LazyLock::new(|| {
        let folder = tempfile::tempdir().expect("a folder");
        Tokens::open(folder.path()).expect("a key")
    });
    let text = String::from_utf8_lossy(data);
    assert!(
        TOKENS.verify(&text, jiff::Timestamp::now()).is_err(),
        "{text} was taken"
    );
}
