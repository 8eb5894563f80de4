use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use super::*;
use crate::fixture::Tar;

/// A folder with the layer's root inside, so that an escape would be seen beside it.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("root")).unwrap();
        fs::write(folder.path().join("secret"), "secret").unwrap();
        Self { folder }
    }

    fn root(&self) -> std::path::PathBuf {
        self.folder.path().join("root")
    }

    fn unpack_over(&self, tar: Tar, lower: &Lower<'_>, limits: &Limits) -> Result<Contents, UnpackError> {
        let root = File::open(self.root()).unwrap();
        unpack(&tar.finish()[..], root.as_fd(), lower, limits)
    }

    fn unpack(&self, tar: Tar) -> Result<Contents, UnpackError> {
        self.unpack_over(tar, &Lower::none(), &Limits::default())
    }

    fn assert_untouched(&self) {
        let mut names: Vec<_> = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["root", "secret"]);
        assert_eq!(
            fs::read_to_string(self.folder.path().join("secret")).unwrap(),
            "secret"
        );
    }
}

fn lower(places: &[&Place]) -> Lower<'static> {
    let roots: Vec<_> = places.iter().map(|place| place.root()).collect();
    Lower::new(move || {
        let open = |root: &std::path::PathBuf| File::open(root).map(OwnedFd::from);
        roots.iter().map(open).collect()
    })
}

fn is_whiteout(path: &Path) -> bool {
    let metadata = fs::symlink_metadata(path).unwrap();
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

fn is_opaque(path: &Path) -> bool {
    attributes::is_opaque(File::open(path).unwrap().as_fd()).unwrap()
}

#[test]
fn attributes_are_kept() {
    let place = Place::new();
    let tar = Tar::new()
        .directory("tmp", 0o1777)
        .raw(b'0', "tmp/suid", "", 0o4755, (1000, 1001), b"data", (0, 0))
        .pax(&[
            ("mtime", "12.5"),
            ("SCHILY.xattr.user.note", "x=y"),
            ("SCHILY.xattr.trusted.overlay.redirect", "/etc"),
        ])
        .raw(b'0', "tmp/noted", "", 0o600, (0, 0), b"", (0, 0))
        .symlink("tmp/link", "../../../etc/passwd")
        .device("tmp/null", (1, 3))
        .raw(b'6', "tmp/pipe", "", 0o622, (5, 6), b"", (0, 0))
        .hard_link("tmp/same", "tmp/suid");
    let contents = place.unpack(tar).unwrap();
    assert_eq!((contents.entries, contents.bytes), (7, 4));
    let at = |name: &str| fs::symlink_metadata(place.root().join("tmp").join(name)).unwrap();
    let directory = fs::metadata(place.root().join("tmp")).unwrap();
    assert_eq!(
        (directory.mode() & 0o7777, directory.mtime()),
        (0o1777, 1_000_000_007)
    );
    let file = at("suid");
    assert_eq!(
        (file.mode() & 0o7777, file.uid(), file.gid(), file.nlink()),
        (0o4755, 1000, 1001, 2)
    );
    assert_eq!(file.ino(), at("same").ino());
    assert_eq!((at("noted").mtime(), at("noted").mtime_nsec()), (12, 500_000_000));
    let noted = File::open(place.root().join("tmp/noted")).unwrap();
    let mut value = [0u8; 16];
    let length = rustix::fs::fgetxattr(&noted, "user.note", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"x=y");
    assert!(rustix::fs::fgetxattr(&noted, "trusted.overlay.redirect", &mut value[..]).is_err());
    assert_eq!(
        fs::read_link(place.root().join("tmp/link")).unwrap(),
        Path::new("../../../etc/passwd")
    );
    assert_eq!(at("null").rdev(), nix::sys::stat::makedev(1, 3));
    assert!(at("pipe").file_type().is_fifo());
    assert_eq!(
        (at("pipe").mode() & 0o777, at("pipe").uid(), at("link").mtime()),
        (0o622, 5, 1_000_000_007)
    );
}

#[test]
fn paths_that_lead_out_are_refused() {
    for tar in [
        Tar::new().file("../evil", b""),
        Tar::new().file("a/../../evil", b""),
        Tar::new().directory("..", 0o777),
        Tar::new().hard_link("evil", "../secret"),
        Tar::new().hard_link("evil", "a/../../secret"),
        Tar::new().symlink("..", "x"),
    ] {
        let place = Place::new();
        assert!(matches!(place.unpack(tar), Err(UnpackError::Escapes { .. })));
        place.assert_untouched();
    }
}

#[test]
fn absolute_paths_and_links_stay_inside() {
    let place = Place::new();
    let outside = place.folder.path().to_str().unwrap().to_owned();
    let short = "/e".to_owned();
    let tar = Tar::new()
        .file("/etc/absolute", b"inside")
        .symlink("up", "../../../..")
        .file("up/through-up", b"1")
        .symlink("abs", &outside)
        .file("abs/through-abs", b"2")
        .symlink("e", "/")
        .file("e/e/through-root", b"3")
        .symlink("target", "../secret")
        .file("target", b"replaced")
        .symlink("a", &short)
        .directory("a/made", 0o755);
    place.unpack(tar).unwrap();
    place.assert_untouched();
    let read = |path: &str| fs::read_to_string(place.root().join(path)).unwrap();
    assert_eq!(read("etc/absolute"), "inside");
    assert_eq!(read("through-up"), "1");
    assert_eq!(read(&format!("{}/through-abs", &outside[1..])), "2");
    assert_eq!(read("through-root"), "3");
    assert_eq!(read("target"), "replaced");
    assert!(place.root().join("made").is_dir());
}

#[test]
fn hard_links_through_links_stay_inside() {
    let place = Place::new();
    let tar = Tar::new()
        .symlink("out", "/../..")
        .hard_link("copy", "out/secret");
    assert!(matches!(place.unpack(tar), Err(UnpackError::LinkTarget { .. })));
    let place = Place::new();
    // A hard link to a symbolic link links the link itself.
    let tar = Tar::new()
        .symlink("link", "../secret")
        .hard_link("copy", "link")
        .file("copy", b"new");
    place.unpack(tar).unwrap();
    place.assert_untouched();
    assert!(matches!(
        Place::new().unpack(Tar::new().hard_link("a", "nowhere")),
        Err(UnpackError::LinkTarget { .. })
    ));
}

#[test]
fn links_in_a_circle_and_files_on_the_way_are_errors() {
    let circle = Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", b"");
    assert!(matches!(
        Place::new().unpack(circle),
        Err(UnpackError::Loop { .. })
    ));
    let file = Tar::new().file("a", b"").file("a/x", b"");
    assert!(matches!(
        Place::new().unpack(file),
        Err(UnpackError::NotADirectory { .. })
    ));
    assert!(matches!(
        Place::new().unpack(Tar::new().file("/", b"")),
        Ok(_) | Err(UnpackError::Root { .. })
    ));
    assert!(matches!(
        Place::new().unpack(Tar::new().symlink("./", "/etc")),
        Err(UnpackError::Root { .. })
    ));
    let mut deep = Tar::new();
    for _ in 0..9 {
        deep = deep
            .directory(&"d/".repeat(30), 0o755)
            .symlink("again", &"d/".repeat(30));
    }
    let limits = Limits {
        depth: 40,
        ..Limits::default()
    };
    let deeper = deep.file(&format!("again/{}x", "e/".repeat(20)), b"");
    assert!(matches!(
        Place::new().unpack_over(deeper, &Lower::none(), &limits),
        Err(UnpackError::Depth { .. })
    ));
}

#[test]
fn bombs_are_bounded() {
    let limits = Limits {
        entries: 10,
        bytes: 100,
        file_size: 50,
        devices: 2,
        ..Limits::default()
    };
    let unpack = |tar: Tar| Place::new().unpack_over(tar, &Lower::none(), &limits);
    let many = (0..11).fold(Tar::new(), |tar, index| tar.file(&format!("f{index}"), b""));
    assert!(matches!(
        unpack(many),
        Err(UnpackError::TooMany { what: "entries", .. })
    ));
    let devices = (0..3).fold(Tar::new(), |tar, index| {
        tar.device(&format!("d{index}"), (1, index))
    });
    assert!(matches!(
        unpack(devices),
        Err(UnpackError::TooMany {
            what: "device nodes",
            ..
        })
    ));
    assert!(matches!(
        unpack(Tar::new().file("f", &[0; 51])),
        Err(UnpackError::TooBig { what: "one file", .. })
    ));
    let sum = (0..3).fold(Tar::new(), |tar, index| tar.file(&format!("f{index}"), &[0; 40]));
    assert!(matches!(unpack(sum), Err(UnpackError::TooBig { .. })));
    let sparse = Tar::new()
        .pax(&[("GNU.sparse.size", "1000000000000"), ("GNU.sparse.map", "0,1")])
        .file("lie", b"x");
    assert!(matches!(
        unpack(sparse),
        Err(UnpackError::TooBig { what: "one file", .. })
    ));
    let full = Limits {
        keep_free: u64::MAX,
        ..Limits::default()
    };
    let big = vec![1u8; (SPACE_CHECK + 1) as usize];
    let result = Place::new().unpack_over(Tar::new().file("f", &big), &Lower::none(), &full);
    assert!(matches!(result, Err(UnpackError::NoSpace { .. })));
}

#[test]
fn later_entries_replace_earlier_ones() {
    let place = Place::new();
    let tar = Tar::new()
        .file("a", b"first")
        .file("a", b"second")
        .directory("b", 0o700)
        .file("b/old", b"")
        .file("b", b"now a file")
        .file("c", b"was a file")
        .directory("c", 0o755)
        .file("c/in", b"")
        .directory("d", 0o700)
        .file("d/kept", b"")
        .directory("d", 0o750);
    place.unpack(tar).unwrap();
    let root = place.root();
    assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "second");
    assert_eq!(fs::read_to_string(root.join("b")).unwrap(), "now a file");
    assert!(root.join("c/in").exists() && is_opaque(&root.join("c")));
    assert!(root.join("d/kept").exists());
    assert_eq!(
        fs::metadata(root.join("d")).unwrap().permissions().mode() & 0o777,
        0o750
    );
}

#[test]
fn whiteouts_take_overlayfs_form() {
    let below = Place::new();
    below
        .unpack(
            Tar::new()
                .file("gone", b"")
                .file("dir/x", b"")
                .file("whole/y", b"")
                .file("file", b""),
        )
        .unwrap();
    let place = Place::new();
    let tar = Tar::new()
        .file(".wh.gone", b"")
        .file(".wh.never", b"")
        .file("dir/.wh..wh..opq", b"")
        .file("dir/new", b"")
        .directory("whole", 0o755)
        .file(".wh.whole", b"")
        .file("file", b"mine")
        .file(".wh.file", b"")
        .file(".wh..wh.aufs", b"")
        .file(".wh..wh.plnk/1.2", b"");
    place
        .unpack_over(tar, &lower(&[&below]), &Limits::default())
        .unwrap();
    let root = place.root();
    assert!(is_whiteout(&root.join("gone")));
    assert!(!root.join("never").exists(), "nothing below to hide");
    assert!(is_opaque(&root.join("dir")) && root.join("dir/new").exists());
    assert!(is_opaque(&root.join("whole")));
    assert_eq!(fs::read_to_string(root.join("file")).unwrap(), "mine");
    for name in [".wh.", ".wh..", ".wh..."] {
        assert!(matches!(
            Place::new().unpack(Tar::new().file(name, b"")),
            Err(UnpackError::Whiteout { .. })
        ));
    }
}

#[test]
fn folders_that_a_layer_leaves_out_are_as_below() {
    let bottom = Place::new();
    let tar = Tar::new()
        .raw(b'5', "home/app", "", 0o2750, (1000, 1000), b"", (0, 0))
        .directory("usr/lib", 0o755)
        .symlink("lib", "usr/lib")
        .raw(b'0', "usr/lib/so", "", 0o751, (3, 4), b"content", (0, 0))
        .directory("removed", 0o711);
    bottom.unpack(tar).unwrap();
    let middle = Place::new();
    middle
        .unpack_over(
            Tar::new().file(".wh.removed", b""),
            &lower(&[&bottom]),
            &Limits::default(),
        )
        .unwrap();
    let top = Place::new();
    let tar = Tar::new()
        .file("home/app/file", b"")
        .file("lib/other", b"")
        .file("removed/file", b"")
        .hard_link("usr/so2", "lib/so");
    top.unpack_over(tar, &lower(&[&middle, &bottom]), &Limits::default())
        .unwrap();
    let home = fs::metadata(top.root().join("home/app")).unwrap();
    assert_eq!(
        (home.mode() & 0o7777, home.uid(), home.gid()),
        (0o2750, 1000, 1000)
    );
    assert_eq!(home.mtime(), 1_000_000_007);
    assert!(top.root().join("usr/lib/other").exists() && !top.root().join("lib").exists());
    let removed = fs::metadata(top.root().join("removed")).unwrap();
    assert_eq!(removed.mode() & 0o777, 0o755);
    let linked = fs::metadata(top.root().join("usr/so2")).unwrap();
    assert_eq!(
        (linked.mode() & 0o7777, linked.uid(), linked.nlink(), linked.len()),
        (0o751, 3, 2, 7)
    );
}

#[test]
fn a_truncated_or_foreign_archive_is_an_error() {
    let whole = Tar::new().file("a", &[7; 5000]).finish();
    let place = Place::new();
    let root = File::open(place.root()).unwrap();
    let result = unpack(&whole[..3000], root.as_fd(), &Lower::none(), &Limits::default());
    assert!(result.is_err());
    let noise = vec![b'x'; 4096];
    let result = unpack(&noise[..], root.as_fd(), &Lower::none(), &Limits::default());
    assert!(matches!(
        result,
        Err(UnpackError::Tar(TarError::Checksum { offset: 0 }))
    ));
}
