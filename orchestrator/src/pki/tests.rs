use super::*;
use std::os::unix::fs::PermissionsExt;

fn open(dir: &Path) -> Pki {
    Pki::open(dir, &[IpAddr::from([10, 0, 0, 7])], "here").unwrap()
}

#[test]
fn keys_are_private_and_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("pki");
    let first = open(&dir);
    let second = open(&dir);
    assert_eq!(first.authority, second.authority);
    assert_eq!(first.server.certificate, second.server.certificate);
    assert_eq!(first.admin.key, second.admin.key);
    assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    for entry in fs::read_dir(&dir).unwrap() {
        assert_eq!(
            entry.unwrap().metadata().unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}

#[test]
fn certificates_say_what_they_must() {
    let dir = tempfile::tempdir().unwrap();
    let pki = open(dir.path());
    let facts = certificate::facts(&pki.server.certificate).unwrap();
    for name in [
        "localhost",
        "here",
        "127.0.0.1",
        "::1",
        "10.0.0.7",
        "kubernetes.default.svc",
    ] {
        assert!(
            facts.names.iter().any(|n| n == name),
            "{name} not in {:?}",
            facts.names
        );
    }
    let (admin, _) = der(&pki.admin).unwrap();
    assert_eq!(
        identity(&admin).unwrap(),
        Identity {
            user: "kubernetes-admin".into(),
            groups: vec!["system:masters".into()]
        }
    );
    assert_eq!(identity(b"\x30\x84\xff\xff\xff\xff"), None);
    assert_eq!(identity(b""), None);
}

#[test]
fn certificates_are_renewed_in_time_and_when_addresses_change() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    let authority = authority(dir.path(), Timestamp::now()).unwrap();
    let later = |days| Timestamp::now() + SignedDuration::from_secs(days * DAY);
    let good = |now| {
        is_good(
            &first.admin.certificate,
            &first.admin.key,
            &authority,
            &Wanted::Admin,
            now,
        )
    };
    assert!(good(Timestamp::now()) && good(later(300)) && !good(later(310)));
    let moved = Pki::open(dir.path(), &[IpAddr::from([10, 9, 9, 9])], "here").unwrap();
    assert_ne!(moved.server.certificate, first.server.certificate);
    assert_eq!(moved.admin.certificate, first.admin.certificate);
}

#[test]
fn foreign_or_damaged_files() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = open(dir.path());
    let foreign = open(other.path());
    for (name, text) in [
        ("admin.crt", &foreign.admin.certificate),
        ("admin.key", &foreign.admin.key),
    ] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let healed = open(dir.path());
    assert_eq!(healed.authority, first.authority);
    assert_ne!(healed.admin.certificate, foreign.admin.certificate);
    fs::write(dir.path().join("ca.key"), "junk").unwrap();
    let error = Pki::open(dir.path(), &[], "here").unwrap_err().to_string();
    assert!(error.contains("ca.key") && error.contains("remove it"), "{error}");
}
