//! Writes shell completions and man pages of `berth` from the definition of its command line:
//! `documents DIRECTORY` fills `completions/` and `man/`. `make documents` runs it.
//!
//! A program of its own, so that `berth` carries neither the generators nor their texts.

use std::fs;
use std::io;
use std::path::Path;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

/// Completions by the names that the shells look for.
const SHELLS: [(Shell, &str); 3] = [
    (Shell::Bash, "berth"),
    (Shell::Zsh, "_berth"),
    (Shell::Fish, "berth.fish"),
];

fn main() -> io::Result<()> {
    let Some(directory) = std::env::args_os().nth(1) else {
        return Err(io::Error::other("usage: documents DIRECTORY"));
    };
    write(Path::new(&directory))
}

/// Writes everything.
pub fn write(directory: &Path) -> io::Result<()> {
    let mut command = berth::commands::definition().version(env!("CARGO_PKG_VERSION"));
    command.build();
    completions(&command, &directory.join("completions"))?;
    manual(&command, &directory.join("man"))
}

fn completions(command: &Command, directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for (shell, name) in SHELLS {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command.clone(), "berth", &mut text);
        fs::write(directory.join(name), text)?;
    }
    Ok(())
}

/// berth(8), and a page a verb: berth-run(8).
fn manual(command: &Command, directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let verbs = command
        .get_subcommands()
        .filter(|verb| !verb.is_hide_set() && verb.get_name() != "help");
    page(command.clone(), "berth", directory)?;
    for verb in verbs {
        page(verb.clone(), &format!("berth-{}", verb.get_name()), directory)?;
    }
    Ok(())
}

fn page(command: Command, name: &str, directory: &Path) -> io::Result<()> {
    let mut text = Vec::new();
    Man::new(command)
        .title(name.to_uppercase())
        .section("8")
        .source(concat!("berth ", env!("CARGO_PKG_VERSION")))
        .manual("System Manager's Manual")
        .render(&mut text)?;
    fs::write(directory.join(format!("{name}.8")), text)
}
