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

/// Whether a program is installed; that it is not is said as the other tests say it.
fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if !found {
        let line = format!("SKIP documents: needs the program {program}\n");
        eprint!("{line}");
        if let Some(log) = std::env::var_os("BERTH_SKIP_LOG") {
            let mut file = fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(log)
                .unwrap();
            std::io::Write::write_all(&mut file, line.as_bytes()).unwrap();
        }
    }
    found
}

/// The lines that a shell's script prints, without errors.
#[track_caller]
fn lines(program: &str, arguments: &[&str], script: &str) -> BTreeSet<String> {
    let output = Command::new(program)
        .args(arguments)
        .args(["-c", script])
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && errors.is_empty(),
        "{program}: {errors}"
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn bash_offers_verbs_and_options() {
    let dir = tempfile::tempdir().unwrap();
    documents::write(dir.path()).unwrap();
    if !installed("bash") {
        return;
    }
    let file = dir.path().join("completions/berth");
    let file = file.display();
    // What is registered for the command, and what that offers for the words before the cursor.
    let offered = |words: &str| {
        let script = format!(
            "source {file}; COMP_WORDS=(berth {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             function=$(complete -p berth | sed 's/.*-F \\([^ ]*\\).*/\\1/'); \
             $function berth \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        lines("bash", &["--norc"], &script)
    };
    assert!(verbs().is_subset(&offered("''")), "{:?}", offered("''"));
    assert_eq!(offered("upd"), set(&["update"]));
    assert_eq!(offered("exec --no"), set(&["--no-new-privs"]));
    assert_eq!(
        offered("update --cpu-r"),
        set(&["--cpu-rt-period", "--cpu-rt-runtime"])
    );
}

#[test]
fn zsh_offers_verbs_and_options() {
    let dir = tempfile::tempdir().unwrap();
    documents::write(dir.path()).unwrap();
    if !installed("zsh") {
        return;
    }
    let folder = dir.path().join("completions");
    // The completion system finds the function in its folder; what it would hand to the line editor is printed instead.
    let script = format!(
        "fpath=({} $fpath); autoload -Uz compinit; compinit -D -u; autoload +X -Uz $_comps[berth] || exit 1; \
         _describe() {{ local -a list=(\"${{(@P)4}}\"); print -rl -- ${{list%%:*}}; }}; \
         _arguments() {{ print -rl -- $@; }}; \
         words=(berth); CURRENT=2; $_comps[berth]; _berth_commands; _berth__subcmd__exec_commands",
        folder.display()
    );
    let found = lines("zsh", &["-f"], &script);
    assert!(verbs().is_subset(&found), "{found:?}");
    assert!(
        found.iter().any(|line| line.contains("--systemd-cgroup[")),
        "{found:?}"
    );
}

#[test]
fn fish_offers_verbs_and_options() {
    let dir = tempfile::tempdir().unwrap();
    documents::write(dir.path()).unwrap();
    if !installed("fish") {
        return;
    }
    let file = dir.path().join("completions/berth.fish");
    let offered = |line: &str| {
        let script = format!("source {}; complete -C '{line}'", file.display());
        let found = lines("fish", &["--no-config"], &script);
        let words = found.iter().filter_map(|line| line.split('\t').next());
        words.map(str::to_owned).collect::<BTreeSet<String>>()
    };
    assert!(verbs().is_subset(&offered("berth ")), "{:?}", offered("berth "));
    assert_eq!(offered("berth upd"), set(&["update"]));
    assert_eq!(offered("berth exec --no"), set(&["--no-new-privs"]));
}

/// groff(1) has nothing to say against a page, and what man(1) shows has its parts.
#[test]
fn pages_are_rendered() {
    let dir = tempfile::tempdir().unwrap();
    documents::write(dir.path()).unwrap();
    if !installed("groff") || !installed("man") {
        return;
    }
    let folder = dir.path().join("man");
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let checked = Command::new("groff")
            .args(["-man", "-Tutf8", "-ww", "-z"])
            .arg(&path)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&checked.stderr);
        assert!(
            checked.status.success() && errors.is_empty(),
            "{}: {errors}",
            path.display()
        );
    }
    let shown = Command::new("man")
        .args(["--local-file", "--no-hyphenation", "--encoding=UTF-8"])
        .arg(folder.join("berth-exec.8"))
        .envs([
            ("MANWIDTH", "110"),
            ("MAN_KEEP_FORMATTING", ""),
            ("MANPAGER", "cat"),
            ("PAGER", "cat"),
        ])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&shown.stdout);
    for part in [
        "NAME",
        "SYNOPSIS",
        "OPTIONS",
        "--ignore-paused",
        "-g, --additional-gids <GID>",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
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
