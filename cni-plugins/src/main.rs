//! All CNI plugins in one program: it acts as the plugin it is called by (`argv[0]`), or, for use
//! without links, as the plugin that its first argument names.

use std::{path::Path, process::ExitCode};

use cni_plugins::{PLUGINS, protocol};

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let called = args.next().unwrap_or_default();
    let called = Path::new(&called)
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or_default()
        .to_owned();
    let argument = args.next().and_then(|a| a.into_string().ok()).unwrap_or_default();
    let find = |name: &str| PLUGINS.iter().find(|p| p.name == name);
    if let Some(plugin) = find(&called).or_else(|| find(&argument)) {
        return protocol::run(plugin);
    }
    let names: Vec<&str> = PLUGINS.iter().map(|p| p.name).collect();
    let usage = format!(
        "CNI plugins of Berth {}: {}\n\
         Link this program under a plugin's name into a directory of CNI_PATH, or give the name as first argument.\n",
        env!("CARGO_PKG_VERSION"),
        names.join(", ")
    );
    if argument == "--list" {
        let _ = std::io::Write::write_all(&mut std::io::stdout(), (names.join("\n") + "\n").as_bytes());
        return ExitCode::SUCCESS;
    }
    let _ = std::io::Write::write_all(&mut std::io::stderr(), usage.as_bytes());
    if matches!(argument.as_str(), "-h" | "--help" | "--version") {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
