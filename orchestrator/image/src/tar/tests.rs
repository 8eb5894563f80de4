use std::io::Read;
use std::process::Command;

use super::*;

fn header(kind: u8, path: &str, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::new(kind));
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(7);
    header.set_cksum();
    header
}

fn padded(mut data: Vec<u8>) -> Vec<u8> {
    data.resize(data.len().next_multiple_of(BLOCK), 0);
    data
}

fn file(kind: u8, path: &str, data: &[u8]) -> Vec<u8> {
    [
        header(kind, path, data.len() as u64).as_bytes().to_vec(),
        padded(data.to_vec()),
    ]
    .concat()
}

fn entries(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut archive = Archive::new(bytes);
    let mut found = Vec::new();
    while let Some(entry) = archive.next()? {
        let mut data = Vec::new();
        archive
            .read_to_end(&mut data)
            .map_err(|source| TarError::Read { offset: 0, source })?;
        found.push((entry, data));
    }
    Ok(found)
}

#[test]
fn long_names_links_and_pax_values_apply_to_the_next_entry_only() {
    let long = "d/".repeat(100) + "file";
    let archive = [
        file(b'L', "././@LongLink", format!("{long}\0").as_bytes()),
        file(b'0', "short", b"one"),
        file(b'x', "pax", b"18 uid=3000000000\n11 path=pq\n"),
        file(b'0', "next", b"two"),
        file(b'g', "global", b"13 path=other\n"),
        file(b'0', "last", b""),
    ]
    .concat();
    let found = entries(&archive).unwrap();
    assert_eq!(found[0].0.path, long.as_bytes());
    assert_eq!(found[0].1, b"one");
    assert_eq!(
        (found[1].0.path.as_slice(), found[1].0.uid),
        (&b"pq"[..], 3_000_000_000)
    );
    assert_eq!((found[2].0.path.as_slice(), found[2].0.uid), (&b"last"[..], 0));
}

#[test]
fn hostile_headers_are_refused() {
    let mut broken = file(b'0', "a", b"");
    broken[0] = b'b';
    assert!(matches!(entries(&broken), Err(TarError::Checksum { offset: 0 })));

    let bomb = header(b'L', "name", 1 << 40);
    assert!(matches!(entries(bomb.as_bytes()), Err(TarError::Extended { .. })));

    let whole = file(b'0', "a", &[1; 2000]);
    assert!(entries(&whole[..1000]).is_err());
    assert!(matches!(entries(&whole[..300]), Err(TarError::Truncated { .. })));

    let mut too_big = header(b'0', "a", 0);
    too_big.set_uid(u64::from(u32::MAX));
    too_big.set_cksum();
    assert!(matches!(
        entries(too_big.as_bytes()),
        Err(TarError::Range { field: "uid", .. })
    ));

    assert!(matches!(
        entries(&file(b'M', "multi", b"")),
        Err(TarError::Type { kind: 'M', .. })
    ));
    assert!(matches!(
        entries(&file(b'x', "pax", b"nonsense")),
        Err(TarError::PaxRecord { .. })
    ));
}

#[test]
fn sparse_maps_that_lie_are_refused() {
    for map in ["0,1,0,1", "0,2000", "5,1", "18446744073709551615,2", "0,1,2"] {
        let record = format!("GNU.sparse.map={map}\n");
        let records = format!("23 GNU.sparse.size=1000\n{} {record}", record.len() + 3);
        let archive = [file(b'x', "pax", records.as_bytes()), file(b'0', "a", b"xx")].concat();
        assert!(
            matches!(
                entries(&archive),
                Err(TarError::Sparse { .. } | TarError::PaxRecord { .. })
            ),
            "{map}: {:?}",
            entries(&archive)
        );
    }
}

/// GNU tar's own archives of one sparse file, in each of its formats.
#[test]
fn sparse_files_of_gnu_tar_are_understood() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("holes");
    let image = std::fs::File::create(&path).unwrap();
    let mut expected = vec![0u8; 4 << 20];
    for index in 0..30u64 {
        let (offset, text) = (index * 128 * 1024, format!("region {index}"));
        std::os::unix::fs::FileExt::write_all_at(&image, text.as_bytes(), offset).unwrap();
        expected[offset as usize..][..text.len()].copy_from_slice(text.as_bytes());
    }
    image.set_len(4 << 20).unwrap();
    for format in [
        &["--format=gnu"][..],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ] {
        let output = Command::new("tar")
            .args(["--sparse", "-C"])
            .arg(folder.path())
            .args(format)
            .args(["-cf", "-", "holes"])
            .output()
            .unwrap();
        assert!(output.status.success());
        let found = entries(&output.stdout).unwrap_or_else(|error| panic!("{format:?}: {error}"));
        let (entry, data) = &found[0];
        assert_eq!(
            (entry.path.as_slice(), entry.size),
            (&b"holes"[..], 4 << 20),
            "{format:?}"
        );
        let mut unpacked = vec![0u8; entry.size as usize];
        let mut data = data.as_slice();
        for segment in entry
            .sparse
            .as_ref()
            .unwrap_or_else(|| panic!("{format:?} is sparse"))
        {
            let (piece, rest) = data.split_at(segment.length as usize);
            unpacked[segment.offset as usize..][..piece.len()].copy_from_slice(piece);
            data = rest;
        }
        assert!(unpacked == expected, "{format:?}");
    }
}
