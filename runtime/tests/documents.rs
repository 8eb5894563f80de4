//! Completions and man pages are made from the command line's definition, and name all of it.

#![allow(missing_docs, clippy::unwrap_used)]

#[allow(dead_code, reason = "its `main` is the example's")]
#[path = "../examples/documents.rs"]
mod documents;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

fn verbs() -> BTreeSet<String> {
    let definition = berth::commands::definition();
    let names = definition
        .get_subcommands()
        .map(|verb| verb.get_name().to_owned());
    names.collect()
}

#[test]
fn every_verb_and_option_is_in_the_completions() {
    let dir = tempfile::tempdir().unwrap();
    documents::write(dir.path()).unwrap();
    for name in ["berth", "_berth", "berth.fish"] {
        let text = fs::read_to_string(dir.path().join("completions").join(name)).unwrap();
        for verb in berth::commands::definition().get_subcommands() {
            assert!(text.contains(verb.get_name()), "{name}: {}", verb.get_name());
            for option in verb.get_arguments().filter(|option| !option.is_hide_set()) {
                let Some(long) = option.get_long() else { continue };
                assert!(text.contains(long), "{name}: {} --{long}", verb.get_name());
            }
        }
    }
}

#[test]
fn shells_take_their_completions() {
    let dir = tempfile::tempdir().unwrap();
    documents::write(dir.path()).unwrap();
    for (shell, name) in [("bash", "berth"), ("zsh", "_berth"), ("fish", "berth.fish")] {
        let file = dir.path().join("completions").join(name);
        // Shells that are not installed have no say.
        if let Ok(checked) = Command::new(shell).arg("-n").arg(&file).output() {
            assert!(checked.status.success(), "{shell}: {checked:?}");
        }
    }
    // What bash would offer after `berth `, and after `berth upd`.
    let offered = |word: &str| -> BTreeSet<String> {
        let script = format!(
            "source {}; COMP_WORDS=(berth '{word}'); COMP_CWORD=1; _berth berth '{word}' berth; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            dir.path().join("completions/berth").display()
        );
        let output = Command::new("bash").args(["-c", &script]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    };
    assert!(verbs().is_subset(&offered("")), "{:?}", offered(""));
    assert_eq!(offered("upd"), BTreeSet::from(["update".to_owned()]));
}

#[test]
fn every_verb_has_a_page_with_its_options() {
    let dir = tempfile::tempdir().unwrap();
    documents::write(dir.path()).unwrap();
    let page = |name: &str| {
        let text = fs::read_to_string(dir.path().join("man").join(name)).unwrap();
        // Hyphens are written as the minus sign that can be copied from a page.
        text.replace("\\-", "-")
    };
    let main = page("berth.8");
    for verb in verbs() {
        assert!(main.contains(&format!("berth-{verb}(8)")), "berth.8 names {verb}");
        let text = page(&format!("berth-{verb}.8"));
        assert!(text.contains(&format!("berth-{verb}")), "{text}");
    }
    assert!(page("berth-update.8").contains("--memory-swap"));
    assert!(page("berth-exec.8").contains("--ignore-paused"));
}
