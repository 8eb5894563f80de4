//! The name this program goes by. Called through a link named `runc`, as where it takes runc's place on a path that
//! programs have fixed, it says `runc` of itself: what reads its texts (`runc version …`, `runc run failed: …`) then finds
//! what it looks for.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::OnceLock;

/// Its own.
const OWN: &str = "berth";
/// The only other: any word of a caller's would end up in texts that are read by programs.
const LINK: &str = "runc";

static NAME: OnceLock<&str> = OnceLock::new();

/// Takes the name from the first argument of the command line.
pub fn set(first: Option<&OsStr>) {
    let _ = NAME.set(of(first));
}

/// The name.
pub fn get() -> &'static str {
    NAME.get().copied().unwrap_or(OWN)
}

fn of(first: Option<&OsStr>) -> &'static str {
    match first.and_then(|path| Path::new(path).file_name()) {
        Some(name) if name == LINK => LINK,
        _ => OWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_link_of_that_name_changes_it() {
        for (first, name) in [
            ("/usr/local/sbin/runc", "runc"),
            ("runc", "runc"),
            ("/usr/bin/berth", "berth"),
            ("/opt/runc/berth", "berth"),
            ("runc-berth", "berth"),
            ("", "berth"),
        ] {
            assert_eq!(of(Some(OsStr::new(first))), name, "{first}");
        }
        assert_eq!(of(None), "berth");
    }
}
