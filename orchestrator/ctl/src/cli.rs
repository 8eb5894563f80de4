//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::commands::net::Net;

/// Talks to a Berth node: applies and shows objects, follows logs and rollouts, keeps images.
#[derive(Debug, Parser)]
#[command(name = "berthctl", version, infer_long_args = true)]
pub(crate) struct Arguments {
    /// File with address and keys [default: $KUBECONFIG, else /var/lib/berth/admin.kubeconfig]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig to use instead of its current one
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Namespace to work in [default: the context's, else "default"]
    #[arg(short, long, global = true, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Pull, push, import, save, list and remove images
    #[command(subcommand)]
    Image(Image),
    /// Make objects be as files say
    Apply(Apply),
    /// Show objects
    Get(Get),
    /// Show one or more objects in detail, with their events
    Describe(Describe),
    /// Print the log of a pod's container
    Logs(Logs),
    /// Delete objects
    Delete(Delete),
    /// Change the number of pods
    Scale(Scale),
    /// Watch, undo, pause, resume or restart a rollout
    #[command(subcommand)]
    Rollout(Rollout),
    /// Attach network namespaces to CNI networks, verify and repair them; needs no node
    #[command(subcommand)]
    Net(Net),
    /// Print the kubeconfig in use, for kubectl and others
    Kubeconfig(Kubeconfig),
    /// Print the versions of berthctl and of the node
    Version(Version),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Pull images from their registries
    Pull(Pull),
    /// Push an image to a registry
    Push(Push),
    /// Import a docker-archive, an OCI layout (archive or folder), or a root file system
    Import(Box<Import>),
    /// Load the images of an archive: docker save, podman save, an OCI layout as archive or folder
    Load {
        /// Archive, folder, or - for standard input
        #[arg(default_value = "-")]
        source: PathBuf,
        /// Name the image gets instead of the archive's own
        #[arg(long)]
        name: Option<String>,
    },
    /// Save images as an archive or folder that Docker, Podman and others load
    Save(Save),
    /// Give an image another name
    Tag {
        /// Name or id
        name: String,
        /// The new name
        new: String,
    },
    /// List images
    #[command(alias = "list")]
    Ls(ImageList),
    /// Show everything about images: names, layers, manifest, config
    Inspect {
        /// Names or ids
        #[arg(required = true)]
        names: Vec<String>,
        /// Format
        #[arg(short, long, value_enum)]
        output: Option<Format>,
    },
    /// Show the steps by which an image was made
    History {
        /// Name or id
        name: String,
        /// Show all of each step
        #[arg(long)]
        no_trunc: bool,
    },
    /// List what is attached to an image at its registry: SBOMs, scan reports, signatures
    Referrers(Referrers),
    /// Show what the images take of the disk
    Df {
        /// Format
        #[arg(short, long, value_enum)]
        output: Option<Format>,
    },
    /// Verify every blob of the store, and that every image has what it needs
    Check {
        /// Also every file of the unpacked layers: unpacks each once more, and compares
        #[arg(long)]
        deep: bool,
        /// Remove what is damaged, so that it can be pulled or imported anew
        #[arg(long)]
        repair: bool,
    },
    /// Remove images that no pod uses, by name or id
    #[command(alias = "remove")]
    Rm {
        /// Names or ids
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove images without a name that no pod uses
    Prune {
        /// Also those with a name, and downloads that were cut off
        #[arg(short, long)]
        all: bool,
    },
}

/// Who we are to a registry, and how much is said.
#[derive(Debug, Args)]
pub(crate) struct Access {
    /// Name and password for the registry [default: what docker login or podman login left]
    #[arg(long, value_name = "USER:PASSWORD")]
    pub(crate) creds: Option<String>,
    /// Credentials file, as docker login writes it
    #[arg(long, value_name = "FILE", conflicts_with = "creds")]
    pub(crate) authfile: Option<PathBuf>,
    /// Print nothing but the id or digest
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// Names, by tag or digest
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) access: Access,
}

#[derive(Debug, Args)]
pub(crate) struct Push {
    /// Name or id of the image
    pub(crate) name: String,
    /// Where to, if not to where its name says
    pub(crate) target: Option<String>,
    #[command(flatten)]
    pub(crate) access: Access,
}

#[derive(Debug, Args)]
pub(crate) struct Referrers {
    /// Name of the image
    pub(crate) name: String,
    /// Name and password for the registry
    #[arg(long, value_name = "USER:PASSWORD")]
    pub(crate) creds: Option<String>,
    /// Credentials file, as docker login writes it
    #[arg(long, value_name = "FILE", conflicts_with = "creds")]
    pub(crate) authfile: Option<PathBuf>,
    /// Format
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<Format>,
}

#[derive(Debug, Args)]
pub(crate) struct Save {
    /// Names or ids
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
    /// File or folder to write [default: standard output]
    #[arg(short, long, value_name = "PATH")]
    pub(crate) output: Option<PathBuf>,
    /// What to write
    #[arg(long, value_enum, default_value_t = SaveAs::DockerArchive)]
    pub(crate) format: SaveAs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SaveAs {
    /// What docker save writes
    DockerArchive,
    /// An OCI image layout as an archive
    OciArchive,
    /// An OCI image layout as a folder
    OciDir,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// Archive, folder, or - for standard input
    pub(crate) source: PathBuf,
    /// Name the image gets instead of the archive's own
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// The source is a root file system (a folder that is no OCI layout always is)
    #[arg(long)]
    pub(crate) root: bool,
    /// Program to run, and its fixed arguments: repeat the option, or give a JSON list
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    pub(crate) entrypoint: Vec<String>,
    /// Default arguments: repeat the option, or give a JSON list
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    pub(crate) cmd: Vec<String>,
    /// Environment variable
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Working directory
    #[arg(long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// User, or user:group, by name or number
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// Port the program listens on
    #[arg(long, value_name = "PORT[/PROTOCOL]")]
    pub(crate) port: Vec<String>,
    /// Label of the image
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) label: Vec<String>,
    /// Signal that stops the program
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ImageList {
    /// Format
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<Format>,
    /// Ids only
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// Objects named by type and name, by file, or by label.
#[derive(Debug, Args)]
pub(crate) struct Selection {
    /// TYPE, TYPE NAME…, TYPE/NAME…, TYPE,TYPE…
    pub(crate) resources: Vec<String>,
    /// File or folder with manifests, or - for standard input
    #[arg(short, long = "filename", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Labels that the objects must have
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub(crate) selector: Option<String>,
    /// All namespaces
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// File or folder with manifests, or - for standard input
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Let the node merge, and track who owns which field
    #[arg(long)]
    pub(crate) server_side: bool,
    /// With --server-side: take over fields that others own
    #[arg(long, requires = "server_side")]
    pub(crate) force_conflicts: bool,
    /// Have everything checked, but nothing changed
    #[arg(long, value_enum, value_name = "WHERE")]
    pub(crate) dry_run: Option<DryRun>,
    /// Format in which the resulting objects are printed
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<Format>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DryRun {
    /// The node does everything but store the result
    Server,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// type/name, one a line
    Name,
    /// A table with more columns
    Wide,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Format
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<Format>,
    /// Go on with changes as they happen
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// Fields that the objects must have
    #[arg(long, value_name = "SELECTOR")]
    pub(crate) field_selector: Option<String>,
    /// Without the line of column names
    #[arg(long)]
    pub(crate) no_headers: bool,
    /// With a column of labels
    #[arg(long)]
    pub(crate) show_labels: bool,
    /// With metadata.managedFields, in JSON and YAML
    #[arg(long)]
    pub(crate) show_managed_fields: bool,
    /// No error if a named object does not exist
    #[arg(long)]
    pub(crate) ignore_not_found: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Describe {
    #[command(flatten)]
    pub(crate) selection: Selection,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// POD, or TYPE/NAME of something that has pods; and perhaps the container
    #[arg(num_args = 0..=2)]
    pub(crate) target: Vec<String>,
    /// Container [default: the pod's first]
    #[arg(short, long)]
    pub(crate) container: Option<String>,
    /// Go on as the log grows
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// The log of the container's last run
    #[arg(short, long)]
    pub(crate) previous: bool,
    /// Only so many of the last lines
    #[arg(long, value_name = "LINES", allow_negative_numbers = true)]
    pub(crate) tail: Option<i64>,
    /// With the time of each line
    #[arg(long)]
    pub(crate) timestamps: bool,
    /// Only what is not older, such as 5s, 2m, 3h
    #[arg(long, value_name = "AGE", value_parser = duration)]
    pub(crate) since: Option<Duration>,
    /// Only what is not older than this time (RFC 3339)
    #[arg(long, value_name = "TIME", conflicts_with = "since")]
    pub(crate) since_time: Option<String>,
    /// Pods by their labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub(crate) selector: Option<String>,
    /// All containers of the pod
    #[arg(long)]
    pub(crate) all_containers: bool,
    /// With pod and container before each line
    #[arg(long)]
    pub(crate) prefix: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// All objects of the type
    #[arg(long, conflicts_with = "selector")]
    pub(crate) all: bool,
    /// Wait until the objects are gone
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1,
          default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pub(crate) wait: bool,
    /// How long to wait, such as 30s; 0 is for ever
    #[arg(long, default_value = "0s", value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Seconds that pods get to stop; -1 is as the pod says
    #[arg(long, default_value_t = -1, allow_negative_numbers = true, value_name = "SECONDS")]
    pub(crate) grace_period: i64,
    /// One second to stop
    #[arg(long, conflicts_with = "grace_period")]
    pub(crate) now: bool,
    /// With --grace-period 0: at once, without waiting for the pod to stop
    #[arg(long)]
    pub(crate) force: bool,
    /// What becomes of what the objects own
    #[arg(long, value_enum, default_value_t = Cascade::Background, num_args = 0..=1,
          default_missing_value = "background", require_equals = true)]
    pub(crate) cascade: Cascade,
    /// No error if an object does not exist
    #[arg(long)]
    pub(crate) ignore_not_found: bool,
    /// "name" prints type/name only
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<Format>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Cascade {
    /// Deleted afterwards
    Background,
    /// Deleted before
    Foreground,
    /// Kept
    Orphan,
}

#[derive(Debug, Args)]
pub(crate) struct Scale {
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Number of pods
    #[arg(long)]
    pub(crate) replicas: u32,
    /// Only if there are so many now
    #[arg(long, value_name = "NUMBER")]
    pub(crate) current_replicas: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Rollout {
    /// Follow a rollout until it is done
    Status {
        #[command(flatten)]
        selection: Selection,
        /// Follow it, or only tell how it is
        #[arg(short, long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1,
              default_missing_value = "true", require_equals = true, value_name = "BOOL")]
        watch: bool,
        /// How long to follow, such as 90s; 0 is for ever
        #[arg(long, default_value = "0s", value_name = "TIME", value_parser = duration)]
        timeout: Duration,
    },
    /// List revisions, or show one
    History {
        #[command(flatten)]
        selection: Selection,
        /// The revision to show
        #[arg(long, value_name = "NUMBER")]
        revision: Option<i64>,
    },
    /// Go back to a former revision
    Undo {
        #[command(flatten)]
        selection: Selection,
        /// The revision; 0 is the last but one
        #[arg(long, default_value_t = 0, value_name = "NUMBER")]
        to_revision: i64,
    },
    /// Replace all pods
    Restart {
        #[command(flatten)]
        selection: Selection,
    },
    /// Let no further changes roll out
    Pause {
        #[command(flatten)]
        selection: Selection,
    },
    /// Let changes roll out again
    Resume {
        #[command(flatten)]
        selection: Selection,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Kubeconfig {
    /// The file's path instead of its content
    #[arg(long)]
    pub(crate) path: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Version {
    /// berthctl's own version only, without asking the node
    #[arg(long)]
    pub(crate) client: bool,
    /// Format
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<Format>,
}

/// A time span as Go writes it: `1h30m`, `90s`, `500ms`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time span such as 5s, 2m, 1h30m");
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest
            .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
            .ok_or_else(wrong)?;
        let amount: f64 = rest[..end].parse().map_err(|_| wrong())?;
        rest = &rest[end..];
        let end = rest
            .find(|letter: char| letter.is_ascii_digit())
            .unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            _ => return Err(wrong()),
        };
        rest = &rest[end..];
        total += Duration::try_from_secs_f64(amount * unit).map_err(|_| wrong())?;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn time_spans_are_read_as_go_writes_them() {
        for (text, expected) in [
            ("90s", 90.0),
            ("1h30m", 5400.0),
            ("500ms", 0.5),
            ("1.5s", 1.5),
            ("7", 7.0),
            ("0s", 0.0),
        ] {
            assert_eq!(
                duration(text).unwrap(),
                Duration::from_secs_f64(expected),
                "{text}"
            );
        }
        for text in ["s", "5x", "-5s", "5s3", "1..2s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn usual_command_lines_are_understood() {
        for line in [
            "berthctl get pods -A -o wide",
            "berthctl get pods -l app=x -o json --watch",
            "berthctl -n x get pods,deploy",
            "berthctl get pods -n x",
            "berthctl delete deployments --all -A --grace-period 1",
            "berthctl delete pods --all -A --grace-period 0 --force",
            "berthctl delete pod a b --wait=false --cascade=orphan",
            "berthctl scale deployment user-service --replicas 5",
            "berthctl scale --replicas=5 deployment/user-service",
            "berthctl rollout undo deployment/user-service --to-revision=2",
            "berthctl rollout status deployment/x --timeout=90s --watch=false",
            "berthctl logs deployment/x -f --tail=-1 --since 5m",
            "berthctl logs pod container -p",
            "berthctl image import DIR --name a:1 --entrypoint /a --entrypoint -x --env A=b",
            "berthctl apply -f - --server-side --dry-run=server",
            "berthctl net add pods /run/netns/a",
            "berthctl net gc pods --keep a/eth0 --keep b",
            "berthctl net repair",
        ] {
            Arguments::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        for line in [
            "berthctl apply",
            "berthctl scale deployment x",
            "berthctl image rm",
            "berthctl get -o xml",
            "berthctl net add pods",
            "berthctl net gc pods --all --keep a",
        ] {
            assert!(Arguments::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
