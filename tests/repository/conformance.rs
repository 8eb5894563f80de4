//! The table of the specification in runtime/DESIGN.md names tests that are there.

use harness::repository_root;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The names of the tests in a Rust file.
fn tests_of(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if line == "#[test]" {
            let function = lines.by_ref().find_map(|line| line.strip_prefix("fn "));
            found.extend(
                function
                    .and_then(|rest| rest.split('(').next())
                    .map(str::to_owned),
            );
        }
    }
    found
}

/// The tests below a folder by the module they are in: that of `a/b.rs` and of `a/mod.rs` below it is `a`.
fn modules(folder: &Path, into: &mut BTreeMap<String, Vec<String>>, top: Option<&str>) {
    for entry in fs::read_dir(folder).expect("read a folder") {
        let path = entry.expect("an entry").path();
        let stem = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() {
            modules(&path, into, Some(top.unwrap_or(&stem)));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("read a test");
            let module = top.map_or(stem, str::to_owned);
            into.entry(module).or_default().extend(tests_of(&text));
        }
    }
}

/// The rows of the tables below a heading, as their cells.
fn rows(text: &str, heading: &str) -> Vec<Vec<String>> {
    let section = text
        .split(&format!("\n{heading}\n"))
        .nth(1)
        .unwrap_or_else(|| panic!("no {heading:?}"));
    let level = heading.split(' ').next().unwrap_or_default();
    let end = section.find(&format!("\n{level} ")).unwrap_or(section.len());
    let rows = section[..end].lines().filter(|line| line.starts_with('|'));
    let cells = rows.map(|row| {
        row.trim_matches('|')
            .split('|')
            .map(|cell| cell.trim().to_owned())
            .collect()
    });
    // The first two of a table are its head.
    cells.skip(2).collect()
}

/// What a cell names: a module of tests/runtime, or nothing, and the beginnings of names of tests in it; "all" for all.
fn named(cell: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for part in cell.split("; ") {
        let module = part.split([' ', ',']).next().unwrap_or_default();
        let names = part.split('`').skip(1).step_by(2);
        found.push((
            module.to_owned(),
            names
                .map(|name| name.trim_end_matches("...").to_owned())
                .collect(),
        ));
    }
    found
}

#[test]
fn the_tables_of_the_runtime_name_tests_that_exist() {
    let root = repository_root();
    let design = fs::read_to_string(root.join("runtime/DESIGN.md")).expect("read DESIGN.md");
    let mut modules_of = BTreeMap::new();
    modules(&root.join("tests/runtime"), &mut modules_of, None);
    let mut wrong = Vec::new();
    let mut count = 0;
    for row in rows(&design, "## Conformance") {
        let section = &row[0];
        for (module, names) in named(&row[2]) {
            count += 1;
            // Modules of a crate's own tests are named by their path.
            if module == "berth" || module.starts_with('`') {
                for name in names {
                    if !in_crate(&root, &name) {
                        wrong.push(format!("{section}: no {name}"));
                    }
                }
                continue;
            }
            let Some(tests) = modules_of.get(&module) else {
                wrong.push(format!("{section}: no tests/runtime/{module}.rs"));
                continue;
            };
            for name in names {
                if !tests.iter().any(|test| test.starts_with(&name)) {
                    wrong.push(format!("{section}: no test {name}... in {module}"));
                }
            }
        }
    }
    // The one of attacks has names alone.
    let all: Vec<&String> = modules_of.values().flatten().collect();
    for row in rows(&design, "### Security") {
        for (_, names) in named(&row[2]) {
            for name in names {
                count += 1;
                let there = all.iter().any(|test| **test == name) || in_crate(&root, &name);
                if !there {
                    wrong.push(format!("{}: no test {name}", row[0]));
                }
            }
        }
    }
    assert!(
        count > 60,
        "only {count} names were found: has the form of the tables changed?"
    );
    assert!(wrong.is_empty(), "runtime/DESIGN.md:\n{}", wrong.join("\n"));
}

/// Whether a file, a module with tests (`seccomp::tests`), or a test of the runtime's own packages has this name.
fn in_crate(root: &Path, name: &str) -> bool {
    if name.contains('/') {
        return root.join(name).exists();
    }
    let source = root.join("runtime/src");
    if let Some(module) = name.strip_suffix("::tests") {
        let path = source.join(module.replace("::", "/"));
        return path.join("tests.rs").exists()
            || path.join("tests").is_dir()
            || ["rs", "mod.rs"].iter().any(|ending| {
                let file = if *ending == "rs" {
                    path.with_extension("rs")
                } else {
                    path.join("mod.rs")
                };
                fs::read_to_string(file).is_ok_and(|text| text.contains("mod tests"))
            });
    }
    let mut own = BTreeMap::new();
    modules(&source, &mut own, Some("berth"));
    own.values().flatten().any(|test| test == name)
}
