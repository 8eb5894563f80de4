//! From what a container printed to lines that can be compared: names instead of numbers that differ from run to run.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

/// Lines by section.
pub type View = BTreeMap<String, Vec<String>>;

/// What differs from run to run, and what it is called instead.
pub struct Names {
    /// Texts with their names, longest first.
    pub texts: Vec<(String, &'static str)>,
    /// Namespace files such as `net:[4026531840]` with their names.
    pub namespaces: Vec<(String, &'static str)>,
}

impl Names {
    fn of(&self, line: &str) -> String {
        let mut line = numbers_after(line, "/proc/", "SELF");
        for (text, name) in &self.texts {
            line = line.replace(text, name);
        }
        line
    }
}

/// Replaces the number behind each `prefix`.
fn numbers_after(line: &str, prefix: &str, name: &str) -> String {
    let mut result = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find(prefix) {
        let (before, after) = rest.split_at(at + prefix.len());
        result.push_str(before);
        let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if digits > 0 {
            result.push_str(name);
        }
        rest = &after[digits..];
    }
    result + rest
}

/// Splits the output of probe.sh: `== NAME` begins a section, and `/proc/…/FILE:LINE` belongs to FILE's.
pub fn sections(output: &str, names: &Names) -> View {
    let mut view = View::new();
    let mut section = String::from("output");
    let mut folder = String::new();
    for line in output.lines() {
        if let Some(title) = line.strip_prefix("== ") {
            title.clone_into(&mut section);
            folder.clear();
            view.entry(section.clone()).or_default();
            continue;
        }
        if ["files", "links"].contains(&section.as_str()) {
            if let Some(name) = line.strip_suffix(':') {
                folder = format!("{name} has ");
                continue;
            }
            if line.is_empty() || line.starts_with("total ") {
                continue;
            }
        }
        let of_file = line
            .strip_prefix("/proc/")
            .filter(|_| section == "output")
            .and_then(|rest| rest.split_once(':'));
        let (name, text) = match of_file {
            Some((file, text)) => (file.rsplit('/').next().unwrap_or(file), text),
            None => (section.as_str(), line),
        };
        if let Some(kept) = stable(name, text, names) {
            view.entry(name.to_owned())
                .or_default()
                .push(names.of(&format!("{folder}{kept}")));
        }
    }
    // In a user namespace devices are bound from the host's, in an order without meaning.
    if let Some(mounts) = view.get_mut("mountinfo") {
        let (mut devices, mut others): (Vec<_>, Vec<_>) = mounts
            .drain(..)
            .partition(|line: &String| line.contains(" - devtmpfs "));
        devices.sort();
        others.append(&mut devices);
        *mounts = others;
    }
    view
}

/// Fields of /proc/PID/status that say something about the container.
const STATUS: &[&str] = &[
    "Name",
    "Umask",
    "State",
    "TracerPid",
    "Uid",
    "Gid",
    "Groups",
    "Kthread",
    "Threads",
    "SigPnd",
    "ShdPnd",
    "SigBlk",
    "SigIgn",
    "SigCgt",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
    "Speculation_Store_Bypass",
    "Cpus_allowed",
    "Mems_allowed",
];

/// The part of a line that does not change from run to run.
fn stable(section: &str, line: &str, names: &Names) -> Option<String> {
    match section {
        "status" => {
            let name = line.split(':').next().unwrap_or_default();
            // A process that reads this is not asleep yet, or already: a matter of the moment.
            (STATUS.contains(&name) && name != "State").then(|| line.to_owned())
        }
        "mountinfo" => mount(line),
        "files" => Some(file(line)),
        "links" => Some(link(line, names)),
        _ => Some(line.to_owned()),
    }
}

/// ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [optional] - TYPE SOURCE SUPER, without numbers given by the kernel.
pub fn mount(line: &str) -> Option<String> {
    let fields: Vec<&str> = line.split(' ').collect();
    let separator = fields.iter().position(|field| *field == "-")?;
    let optional: Vec<&str> = fields[6..separator]
        .iter()
        .map(|field| field.split(':').next().unwrap_or_default())
        .collect();
    let (major, _) = fields[2].split_once(':')?;
    let major = if major == "0" { "0" } else { fields[2] };
    Some(format!(
        "{major} {} {} {} {} - {}",
        fields[3],
        fields[4],
        fields[5],
        optional.join(","),
        fields[separator + 1..].join(" ")
    ))
}

/// A line of `ls -l` without its date, and without the size of a folder.
fn file(line: &str) -> String {
    const MONTHS: &[&str] = &[
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let words: Vec<&str> = line.split_whitespace().collect();
    let Some(month) = words.iter().position(|word| MONTHS.contains(word)) else {
        return line.to_owned();
    };
    let mut kept: Vec<&str> = words[..month].to_vec();
    if line.starts_with('d') {
        // Neither its size nor the number of folders in it, which are listed themselves.
        kept.pop();
        kept.remove(1);
    }
    kept.extend(words.iter().skip(month + 3));
    kept.join(" ")
}

/// A line of `ls -l` for a link in /proc: only its name and where it leads to.
fn link(line: &str, names: &Names) -> String {
    let Some(at) = line.find(" -> ") else {
        return file(line);
    };
    let name = line[..at].rsplit(' ').next().unwrap_or_default();
    let mut target = line[at + 4..].to_owned();
    if let Some((kind, _)) = target.split_once(":[").filter(|_| target.ends_with(']')) {
        let known = names.namespaces.iter().find(|(file, _)| *file == target);
        target = match known {
            Some((_, name)) => format!("{kind}:{name}"),
            None => format!("{kind}:its own"),
        };
    }
    // Decision 8: inherited by one, pipes by the other.
    if ["0", "1", "2"].contains(&name) {
        "a stream".clone_into(&mut target);
    }
    format!("{name} -> {target}")
}

/// Everything below a folder of the host: what the container, and the runtime for it, made there.
pub fn tree(root: &Path, below: &Path, found: &mut Vec<String>) {
    let entries: BTreeSet<_> = std::fs::read_dir(root.join(below))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    for name in entries {
        let path = below.join(&name);
        let Ok(data) = std::fs::symlink_metadata(root.join(&path)) else {
            continue;
        };
        let kind = data.file_type();
        let letter = match () {
            () if kind.is_dir() => 'd',
            () if kind.is_symlink() => 'l',
            () if kind.is_char_device() => 'c',
            () if kind.is_block_device() => 'b',
            () if kind.is_fifo() => 'p',
            () => '-',
        };
        let mode = data.mode() & 0o7777;
        found.push(format!(
            "{letter}{mode:o} {}:{} {}",
            data.uid(),
            data.gid(),
            path.display()
        ));
        if kind.is_dir() && path != Path::new("bin") {
            tree(root, &path, found);
        }
    }
}

/// Every line that only one of two views has. Where a command failed, that is all there is to compare.
pub fn differences(left: (&str, &View), right: (&str, &View)) -> Vec<String> {
    let only = |view: &View, names: &[&str]| -> View {
        let kept = view.iter().filter(|(name, _)| names.contains(&name.as_str()));
        kept.map(|(name, lines)| (name.clone(), lines.clone())).collect()
    };
    let error = |view: &View| view.get("error").and_then(|lines| lines.first().cloned());
    let (here, there, names): (_, _, &[&str]) = match (error(left.1), error(right.1)) {
        (None, None) => return lines_of_one(left, right),
        // The words are each one's own; which verb fails, and with what code, is not.
        (Some(_), Some(_)) => (
            None,
            None,
            &["create", "start", "delete", "exit code", "left behind"],
        ),
        // What the other shows says nothing.
        (here, there) => (here, there, &[]),
    };
    let mut found = Vec::new();
    for (name, message) in [(left.0, here), (right.0, there)] {
        found.extend(message.map(|message| format!("fails: only {name}: {message}")));
    }
    for (name, view) in [left, right] {
        let left_behind = view.get("left behind").into_iter().flatten();
        found.extend(
            left_behind
                .filter(|_| error(view).is_some() && !names.contains(&"left behind"))
                .map(|what| format!("left behind: only {name}: {what}")),
        );
    }
    found.append(&mut lines_of_one(
        (left.0, &only(left.1, names)),
        (right.0, &only(right.1, names)),
    ));
    found
}

fn lines_of_one(left: (&str, &View), right: (&str, &View)) -> Vec<String> {
    let empty = Vec::new();
    let names: BTreeSet<&String> = left.1.keys().chain(right.1.keys()).collect();
    let mut found = Vec::new();
    for name in names {
        let (ours, theirs) = (
            left.1.get(name).unwrap_or(&empty),
            right.1.get(name).unwrap_or(&empty),
        );
        let before = found.len();
        for ((here, lines), others) in [((left.0, ours), theirs), ((right.0, theirs), ours)] {
            for line in lines.iter().filter(|line| !others.contains(line)) {
                found.push(format!("{name}: only {here}: {line}"));
            }
        }
        if found.len() == before && ours != theirs {
            found.push(format!("{name}: the order differs: {ours:?} {theirs:?}"));
        }
    }
    found
}
