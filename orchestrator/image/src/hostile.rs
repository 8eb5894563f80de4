//! A corpus of layers that attack whoever unpacks them, imported as images of one or two layers. Each
//! is refused, or does what it says inside its own root; nothing outside is ever touched.

use std::fs;
use std::path::{Path, PathBuf};

use crate::fixture::{Tar, docker_archive, gzip};
use crate::import::ImportOptions;
use crate::store::ImageStore;
use crate::unpack::Limits;

/// What must come of a layer.
enum Fate {
    /// Refused, for a reason that has this text.
    Refused(&'static str),
    /// Unpacked; then this file of the topmost layer has this content.
    Contained(&'static str, &'static [u8]),
    /// Unpacked, and this is not in the topmost layer.
    Without(&'static str),
}
use Fate::{Contained, Refused, Without};

struct Case {
    name: &'static str,
    layers: Vec<Vec<u8>>,
    fate: Fate,
}

fn case(name: &'static str, tar: Tar, fate: Fate) -> Case {
    Case {
        name,
        layers: vec![tar.finish()],
        fate,
    }
}

fn over(name: &'static str, below: Tar, tar: Tar, fate: Fate) -> Case {
    Case {
        name,
        layers: vec![below.finish(), tar.finish()],
        fate,
    }
}

fn raw(name: &'static str, bytes: Vec<u8>, fate: Fate) -> Case {
    Case {
        name,
        layers: vec![bytes],
        fate,
    }
}

fn limits() -> Limits {
    Limits {
        entries: 1000,
        bytes: 4 << 20,
        file_size: 2 << 20,
        devices: 4,
        depth: 64,
        keep_free: 0,
    }
}

fn paths(outside: &str) -> Vec<Case> {
    let up = format!("{}{}", "../".repeat(12), outside.trim_start_matches('/'));
    let link = |target: &str| Tar::new().symlink("x", target);
    vec![
        case("dot-dot", Tar::new().file("../escape", b"x"), Refused("\"..\"")),
        case(
            "dot-dot later",
            Tar::new().file("a/../../escape", b"x"),
            Refused("\"..\""),
        ),
        case(
            "dot-dot folder",
            Tar::new().directory("../d", 0o755),
            Refused("\"..\""),
        ),
        case(
            "absolute path",
            Tar::new().file("/etc/passwd", b"x"),
            Contained("etc/passwd", b"x"),
        ),
        case(
            "many slashes",
            Tar::new().file("//./etc//passwd", b"x"),
            Contained("etc/passwd", b"x"),
        ),
        case(
            "through an absolute link",
            link(outside).file("x/secret", b"x"),
            Contained(OUTSIDE, b"x"),
        ),
        case(
            "through a relative link",
            link(&up).file("x/secret", b"x"),
            Contained(OUTSIDE, b"x"),
        ),
        case(
            "over a link",
            link(&format!("{outside}/secret")).file("x", b"mine"),
            Contained("x", b"mine"),
        ),
        over(
            "through a link below",
            link(outside),
            Tar::new().file("x/secret", b"x"),
            Contained(OUTSIDE, b"x"),
        ),
        case(
            "hard link by dot-dot",
            Tar::new().hard_link("h", "../../secret"),
            Refused("\"..\""),
        ),
        case(
            "hard link out",
            Tar::new().hard_link("h", &format!("{outside}/secret")),
            Refused("hard link"),
        ),
        case(
            "hard link through a link",
            link(outside).hard_link("h", "x/secret"),
            Refused("hard link"),
        ),
        case(
            "hard link to a folder",
            Tar::new().directory("d", 0o755).hard_link("h", "d"),
            Refused("hard link"),
        ),
        case(
            "hard link to a link, then written",
            link(&format!("{outside}/secret"))
                .hard_link("h", "x")
                .file("h", b"mine"),
            Contained("h", b"mine"),
        ),
        over(
            "hard link to a link below, then written",
            link(&format!("{outside}/secret")),
            Tar::new().hard_link("h", "x").file("h", b"mine"),
            Refused("hard link"),
        ),
        case(
            "link to the root",
            Tar::new().symlink("x", "/").file("x/f", b"1"),
            Contained("f", b"1"),
        ),
        case(
            "links in a circle",
            Tar::new().symlink("a", "b").symlink("b", "a").file("a/f", b""),
            Refused("symbolic links"),
        ),
        case(
            "root as a link",
            Tar::new().symlink(".", outside),
            Refused("root"),
        ),
        case("root as a file", Tar::new().file(".", b"x"), Refused("root")),
        case(
            "file as a folder",
            Tar::new().file("f", b"").file("f/g", b""),
            Refused("not a directory"),
        ),
        case(
            "too deep",
            Tar::new()
                .pax(&[("path", &format!("{}f", "d/".repeat(65)))])
                .file("f", b""),
            Refused("nested"),
        ),
    ]
}

/// Where the host's folder would be inside the root.
const OUTSIDE: &str = "outside/secret";

fn whiteouts(outside: &str) -> Vec<Case> {
    let below = || Tar::new().directory("d", 0o755).file("d/a", b"1");
    vec![
        case(
            "whiteout of nothing",
            Tar::new().file(".wh.", b""),
            Refused("whiteout"),
        ),
        case(
            "whiteout of dot",
            Tar::new().file(".wh..", b""),
            Refused("whiteout"),
        ),
        case(
            "whiteout of dot-dot",
            Tar::new().file(".wh...", b""),
            Refused("whiteout"),
        ),
        case(
            "whiteout as a folder",
            Tar::new().directory(".wh.x", 0o755),
            Refused("whiteout"),
        ),
        case(
            "whiteout through a link",
            Tar::new().symlink("x", outside).file("x/.wh.secret", b""),
            Without("secret"),
        ),
        case(
            "opaque through a link",
            Tar::new().symlink("x", outside).file("x/.wh..wh..opq", b""),
            Without("secret"),
        ),
        case(
            "aufs's own files",
            Tar::new().directory(".wh..wh.plnk", 0o700),
            Without(".wh..wh.plnk"),
        ),
        over(
            "whiteout and file of one name",
            below(),
            Tar::new().file("d/.wh.a", b"").file("d/a", b"2"),
            Contained("d/a", b"2"),
        ),
        over(
            "folder under a whiteout",
            below(),
            Tar::new().file(".wh.d", b"").file("d/b", b"2"),
            Contained("d/b", b"2"),
        ),
        over(
            "hard link to what is whited out",
            below(),
            Tar::new().file("d/.wh.a", b"").hard_link("h", "d/a"),
            Refused("hard link"),
        ),
        case(
            "whiteout device from the image",
            Tar::new().device("gone", (0, 0)),
            Without("nothing"),
        ),
    ]
}

fn kinds() -> Vec<Case> {
    let xattr = |name: &str, value: &str| {
        Tar::new()
            .pax(&[(&format!("SCHILY.xattr.{name}"), value)])
            .directory("d", 0o755)
            .file("d/f", b"1")
    };
    vec![
        case(
            "device, then written",
            Tar::new().device("null", (1, 3)).file("null", b"mine"),
            Contained("null", b"mine"),
        ),
        case(
            "pipe, then written",
            Tar::new()
                .raw(b'6', "p", "", 0o644, (0, 0), b"", (0, 0))
                .file("p", b"mine"),
            Contained("p", b"mine"),
        ),
        case(
            "too many devices",
            (0..5).fold(Tar::new(), |tar, n| tar.device(&format!("d{n}"), (1, n))),
            Refused("device nodes"),
        ),
        case(
            "folder, then a file",
            Tar::new().directory("d", 0o755).file("d/x", b"1").file("d", b"2"),
            Contained("d", b"2"),
        ),
        case(
            "five hundred times one name",
            (0..500).fold(Tar::new(), |tar, n| tar.file("f", n.to_string().as_bytes())),
            Contained("f", b"499"),
        ),
        case(
            "overlay redirect",
            xattr("trusted.overlay.redirect", "/etc"),
            Contained("d/f", b"1"),
        ),
        case(
            "overlay opaque",
            xattr("trusted.overlay.opaque", "y"),
            Contained("d/f", b"1"),
        ),
        case(
            "overlay metacopy for users",
            xattr("user.overlay.metacopy", ""),
            Contained("d/f", b"1"),
        ),
        case(
            "unknown type",
            Tar::new().raw(b'V', "v", "", 0o644, (0, 0), b"", (0, 0)),
            Refused("type"),
        ),
        case(
            "owner nobody has",
            Tar::new().raw(b'0', "f", "", 0o644, (u64::from(u32::MAX), 0), b"", (0, 0)),
            Refused("uid"),
        ),
        case(
            "zero byte in a name",
            Tar::new().pax(&[("path", "a\0b")]).file("f", b""),
            Refused("extended header"),
        ),
        case(
            "name that no file system takes",
            Tar::new().pax(&[("path", &"n".repeat(300))]).file("f", b""),
            Refused("nnn"),
        ),
    ]
}

fn sizes() -> Vec<Case> {
    let sparse = |map: &str, size: &str| {
        Tar::new()
            .pax(&[("GNU.sparse.size", size), ("GNU.sparse.map", map)])
            .file("s", b"xx")
    };
    let zeros = Tar::new().file("zeros", &vec![0; 3 << 20]).finish();
    let several = (0..5).fold(Tar::new(), |tar, n| tar.file(&format!("f{n}"), &vec![0; 1 << 20]));
    let whole = Tar::new().file("f", &[7; 5000]).finish();
    let mut broken = whole.clone();
    broken[0] ^= 1;
    let mut cut = gzip(&whole);
    cut.truncate(cut.len() - 12);
    let mut flipped = gzip(
        &Tar::new()
            .file(
                "f",
                &(0..5000u32).map(|n| ((n * 7919) >> 3) as u8).collect::<Vec<_>>(),
            )
            .finish(),
    );
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x55;
    vec![
        raw("compressed zeros", gzip(&zeros), Refused("limit")),
        raw(
            "zstd of zeros",
            zstd::encode_all(&zeros[..], 19).unwrap(),
            Refused("limit"),
        ),
        case("too much altogether", several, Refused("limit")),
        case(
            "too many entries",
            (0..1001).fold(Tar::new(), |tar, n| tar.file(&format!("f{n}"), b"")),
            Refused("entries"),
        ),
        case(
            "sparse file of a petabyte",
            sparse("0,2", "1125899906842624"),
            Refused("limit"),
        ),
        case(
            "sparse pieces that overlap",
            sparse("0,1,0,1", "1000"),
            Refused("sparse"),
        ),
        case(
            "sparse piece beyond the end",
            sparse("999,2", "1000"),
            Refused("sparse"),
        ),
        case(
            "sparse numbers that overflow",
            sparse("18446744073709551615,2", "1000"),
            Refused("sparse"),
        ),
        case(
            "sparse map of half a pair",
            sparse("0,1,2", "1000"),
            Refused("extended header"),
        ),
        case(
            "size that is more than there is",
            Tar::new().pax(&[("size", "1000000")]).file("f", b"x"),
            Refused("truncated"),
        ),
        case(
            "size that overflows",
            Tar::new()
                .pax(&[("size", "18446744073709551615")])
                .file("f", b"x"),
            Refused("limit"),
        ),
        raw("cut in a file", whole[..1000].to_vec(), Refused("truncated")),
        raw("cut in a header", whole[..200].to_vec(), Refused("truncated")),
        raw("checksum that is wrong", broken, Refused("checksum")),
        raw("compressed and cut", cut, Refused("")),
        raw("compressed and damaged", flipped, Refused("")),
        raw("bzip2", b"BZh91AY&SY".to_vec(), Refused("bzip2")),
        raw(
            "noise",
            (0..4096u32)
                .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
                .collect(),
            Refused(""),
        ),
    ]
}

/// What a folder holds, names and contents.
fn listing(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap_or_default()))
        .collect();
    found.sort();
    found
}

/// Imports one case; the error says what came of it instead of its fate.
fn judge(case: &Case, root: &Path, outside: &str) -> Result<(), String> {
    let store = ImageStore::open(root).unwrap();
    let options = ImportOptions {
        limits: limits(),
        ..ImportOptions::default()
    };
    let archive = docker_archive(&["hostile:1"], &case.layers);
    match (&case.fate, store.import(&archive[..], &options)) {
        (Refused(reason), Err(error)) => {
            let text = chain(&error);
            let half_made = fs::read_dir(root.join("tmp")).unwrap().count();
            if !text.to_lowercase().contains(&reason.to_lowercase()) {
                Err(format!("refused for another reason: {text}"))
            } else if !store.list().is_empty() || half_made > 0 {
                Err(format!("refused, but something stays: {half_made}"))
            } else {
                Ok(())
            }
        }
        (fate @ (Contained(..) | Without(..)), Ok(_)) => {
            let image = store.resolve("hostile:1").unwrap().unwrap();
            let top = store.layers().path(image.layers.last().unwrap());
            match fate {
                Contained(path, content) => {
                    let inside = format!("{}/", outside.trim_start_matches('/'));
                    let path = top.join(path.replace("outside/", &inside));
                    match fs::read(&path) {
                        Ok(found) if found == *content => Ok(()),
                        other => Err(format!("{}: {other:?}", path.display())),
                    }
                }
                Without(path) if fs::symlink_metadata(top.join(path)).is_ok() => {
                    Err(format!("{path} is there"))
                }
                _ => Ok(()),
            }
        }
        (_, outcome) => Err(format!("{outcome:?}")),
    }
}

#[test]
fn hostile_layers_are_refused_or_contained() {
    let folder = tempfile::tempdir().unwrap();
    // Absolute links lead to a folder that exists on the host, and in no layer.
    let host = tempfile::TempDir::with_prefix("berth-hostile-").unwrap();
    fs::write(host.path().join("secret"), "secret").unwrap();
    let before = listing(host.path());
    let outside = host.path().to_str().unwrap().to_owned();
    let mut cases = paths(&outside);
    cases.extend(whiteouts(&outside));
    cases.extend(kinds());
    cases.extend(sizes());
    assert!(cases.len() >= 30, "{}", cases.len());
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let verdict = judge(case, &folder.path().join(number.to_string()), &outside);
        wrong.extend(verdict.err().map(|why| format!("{}: {why}", case.name)));
        assert_eq!(listing(host.path()), before, "{} reached outside", case.name);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    eprintln!("{} hostile layers", cases.len());
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
