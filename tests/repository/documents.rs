//! Documents name files and commands that are there.

use harness::repository_root;
use std::path::{Path, PathBuf};

fn tracked(extension: &str) -> Vec<PathBuf> {
    let root = repository_root();
    let listed = harness::run(
        std::process::Command::new("git")
            .current_dir(&root)
            .args(["ls-files", "-z"]),
    )
    .ok();
    listed
        .split('\0')
        .filter(|f| f.ends_with(extension))
        .map(|f| root.join(f))
        .collect()
}

/// The pieces of a Markdown text in single backquotes, outside fenced blocks.
fn code_spans(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut spans = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            spans.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    spans
}

/// Whether a code span is meant as a path of this repository.
fn is_repository_path(span: &str) -> bool {
    const ROOMS: &[&str] = &[
        "runtime/",
        "orchestrator/",
        "cni-plugins/",
        "examples/",
        "tests/",
        ".ci/",
        ".cargo/",
    ];
    ROOMS.iter().any(|room| span.starts_with(room)) && !span.contains(['*', '<', '{', ' ', '…', '$'])
}

#[test]
fn paths_named_in_documents_exist() {
    let root = repository_root();
    let mut missing = Vec::new();
    for document in tracked(".md") {
        let text = std::fs::read_to_string(&document).expect("read a document");
        for span in code_spans(&text).into_iter().filter(|s| is_repository_path(s)) {
            let path = span.split([':', '#']).next().unwrap_or(&span);
            if !root.join(path).exists() && !document.parent().is_some_and(|d| d.join(path).exists()) {
                missing.push(format!(
                    "{}: {span}",
                    document.strip_prefix(&root).unwrap_or(&document).display()
                ));
            }
        }
    }
    assert!(
        missing.is_empty(),
        "documents name what is not there:\n{}",
        missing.join("\n")
    );
}

#[test]
fn links_between_documents_lead_somewhere() {
    let root = repository_root();
    let mut broken = Vec::new();
    for document in tracked(".md") {
        let text = std::fs::read_to_string(&document).expect("read a document");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or("");
            let here = document.parent().unwrap_or(Path::new("."));
            if !path.is_empty() && !path.contains("://") && !here.join(path).exists() {
                broken.push(format!(
                    "{}: {target}",
                    document.strip_prefix(&root).unwrap_or(&document).display()
                ));
            }
        }
    }
    assert!(broken.is_empty(), "links lead nowhere:\n{}", broken.join("\n"));
}

#[test]
fn make_targets_named_in_documents_exist() {
    let makefile = std::fs::read_to_string(repository_root().join("Makefile")).expect("read the Makefile");
    for document in tracked(".md") {
        let text = std::fs::read_to_string(&document).expect("read a document");
        for target in code_spans(&text).iter().filter_map(|s| s.strip_prefix("make ")) {
            let target = target.split(' ').next().unwrap_or(target);
            assert!(
                makefile
                    .lines()
                    .any(|line| line.starts_with(&format!("{target}:"))),
                "{}: `make {target}` is not in the Makefile",
                document.display()
            );
        }
    }
}
