//! `net`: CNI networks from the command line, as cnitool drives them, and their repair. Runs in the network
//! namespace of the caller, as root, and talks to no node.
//!
//! The environment is cnitool's: CNI_PATH (plugins), NETCONFPATH (configurations), CNI_IFNAME, CNI_ARGS, and
//! CAP_ARGS (a JSON object of capabilities). So is the container ID, which is made of the namespace's path:
//! what one of the two programs has attached, the other can detach.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use cni_plugins::exec::{Attachment, Cached, ExecError, Network, Repair, Runtime};
use serde_json::Value;
use sha2::{Digest, Sha512};

use crate::error::CtlError;
use crate::output;

#[derive(Debug, Subcommand)]
pub(crate) enum Net {
    /// Attach a network namespace to a network, and print the result
    Add(Attach),
    /// Detach it; may be repeated, also when the namespace is gone
    Del(Attach),
    /// Verify that everything is there that was made for it
    Check(Attach),
    /// Remove what belongs to attachments that are over
    ///
    /// Kept are the recorded attachments whose namespace is still there, and those named by --keep.
    Gc(Collect),
    /// Ask whether the network can take a container
    Status(Named),
    /// Verify all recorded attachments, and put back what is missing, as after a firewall flush
    Repair(Mend),
}

#[derive(Debug, Args)]
pub(crate) struct Records {
    /// Folder of the records; repeat it for more, the first is written to [default: /var/lib/cni and /var/lib/berth/cni]
    #[arg(long = "cache-dir", value_name = "DIR")]
    cache_dirs: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Attach {
    /// Name of the network
    network: String,
    /// Path of the network namespace, like /run/netns/NAME
    netns: PathBuf,
    /// Container ID [default: made of the path, as cnitool does]
    #[arg(long, value_name = "ID")]
    container: Option<String>,
    #[command(flatten)]
    records: Records,
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Name of the network
    network: String,
    /// Not used
    #[arg(hide = true)]
    netns: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Collect {
    #[command(flatten)]
    named: Named,
    /// Keep this attachment, too: ID, for its interface CNI_IFNAME, or ID/INTERFACE
    #[arg(long, value_name = "ID[/INTERFACE]")]
    keep: Vec<String>,
    /// Keep nothing
    #[arg(long, conflicts_with = "keep")]
    all: bool,
    #[command(flatten)]
    records: Records,
}

#[derive(Debug, Args)]
pub(crate) struct Mend {
    /// Name of the network [default: all]
    network: Option<String>,
    /// Detach and attach what plugins cannot repair in place; connections break, addresses are asked for again
    #[arg(long)]
    reattach: bool,
    #[command(flatten)]
    records: Records,
}

/// Does what the command line says.
pub(crate) fn run(command: &Net) -> Result<(), CtlError> {
    match command {
        Net::Add(options) => add(options),
        Net::Del(options) => {
            let (network, attachment) = options.read()?;
            let runtime = options.records.runtime_of(&network, &attachment);
            Ok(runtime.del(&network, &attachment)?)
        }
        Net::Check(options) => {
            let (network, attachment) = options.read()?;
            let runtime = options.records.runtime_of(&network, &attachment);
            Ok(runtime.check(&network, &attachment)?)
        }
        Net::Gc(options) => collect(options),
        Net::Status(options) => Ok(Records::default_runtime().status(&options.load()?)?),
        Net::Repair(options) => repair(options),
    }
}

/// A variable of the environment that is not empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn plugin_dirs() -> Vec<PathBuf> {
    std::env::var_os("CNI_PATH")
        .filter(|path| !path.is_empty())
        .map_or_else(
            || vec![PathBuf::from("/opt/cni/bin")],
            |path| std::env::split_paths(&path).collect(),
        )
}

fn interface() -> String {
    variable("CNI_IFNAME").unwrap_or_else(|| "eth0".to_owned())
}

impl Named {
    fn load(&self) -> Result<Network, CtlError> {
        load(&self.network)
    }
}

fn load(network: &str) -> Result<Network, CtlError> {
    let dir = variable("NETCONFPATH").unwrap_or_else(|| "/etc/cni/net.d".to_owned());
    Ok(Network::load(Path::new(&dir), network)?)
}

impl Attach {
    fn read(&self) -> Result<(Network, Attachment), CtlError> {
        let netns = std::path::absolute(&self.netns).map_err(|source| CtlError::File {
            path: self.netns.clone(),
            source,
        })?;
        let container = self.container.clone().unwrap_or_else(|| container_id(&netns));
        let mut attachment = Attachment::new(container, netns, interface());
        attachment.args = arguments(&variable("CNI_ARGS").unwrap_or_default())?;
        attachment.capabilities = capabilities(&variable("CAP_ARGS").unwrap_or_default())?;
        Ok((load(&self.network)?, attachment))
    }
}

/// cnitool's container ID of a namespace.
fn container_id(netns: &Path) -> String {
    let digest = Sha512::digest(netns.as_os_str().as_encoded_bytes());
    let digits: String = digest.iter().take(10).fold(String::new(), |mut digits, byte| {
        // Writing to a String cannot fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    });
    format!("cnitool-{digits}")
}

fn arguments(text: &str) -> Result<Vec<(String, String)>, CtlError> {
    text.split(';')
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(CtlError::Usage(format!(
                "CNI_ARGS: {pair:?} is not of the form KEY=VALUE; pairs are separated by ';'"
            ))),
        })
        .collect()
}

fn capabilities(text: &str) -> Result<BTreeMap<String, Value>, CtlError> {
    if text.is_empty() {
        return Ok(BTreeMap::new());
    }
    serde_json::from_str(text).map_err(|error| {
        CtlError::Usage(format!(
            "CAP_ARGS: is not a JSON object like {{\"portMappings\": […]}}: {error}"
        ))
    })
}

impl Records {
    fn dirs(&self) -> Vec<PathBuf> {
        if self.cache_dirs.is_empty() {
            vec!["/var/lib/cni".into(), "/var/lib/berth/cni".into()]
        } else {
            self.cache_dirs.clone()
        }
    }

    fn default_runtime() -> Runtime {
        Runtime::new(plugin_dirs(), "/var/lib/cni")
    }

    fn runtimes(&self) -> Vec<Runtime> {
        let runtime = |dir: PathBuf| Runtime::new(plugin_dirs(), dir);
        self.dirs().into_iter().map(runtime).collect()
    }

    /// The runtime that has recorded the attachment, else the first.
    fn runtime_of(&self, network: &Network, attachment: &Attachment) -> Runtime {
        let mut all = self.runtimes();
        let at = all
            .iter()
            .position(|runtime| runtime.cached(network, attachment).is_some());
        all.swap_remove(at.unwrap_or(0))
    }
}

fn add(options: &Attach) -> Result<(), CtlError> {
    let (network, attachment) = options.read()?;
    let runtime = options.records.runtime_of(&network, &attachment);
    if runtime.cached(&network, &attachment).is_some() {
        return Err(CtlError::Refused(format!(
            "container {} has interface {} in network {} already: run `berthctl net del` first",
            attachment.container, attachment.ifname, network.name
        )));
    }
    let outcome = match runtime.add(&network, &attachment) {
        Ok(outcome) => outcome,
        Err(error) => {
            // Each plugin undoes itself; those before it are undone here.
            let first = network.plugins.first().map(|p| p.kind.as_str());
            if matches!(&error, ExecError::Plugin { plugin, .. } if Some(plugin.as_str()) != first)
                && let Err(second) = runtime.del(&network, &attachment)
            {
                return Err(CtlError::Several(vec![error.into(), second.into()]));
            }
            return Err(error.into());
        }
    };
    let result: Value = serde_json::from_str(&outcome.json).map_err(|source| CtlError::Answer {
        what: "result of ADD".to_owned(),
        source,
    })?;
    output::line(&output::json_text(&result))
}

/// Whether a namespace is held at the path.
fn lives(netns: &str) -> bool {
    // NSFS_MAGIC of include/uapi/linux/magic.h: the file system of namespaces.
    rustix::fs::statfs(netns).is_ok_and(|found| found.f_type == 0x6e73_6673)
}

fn collect(options: &Collect) -> Result<(), CtlError> {
    let network = options.named.load()?;
    if network.disable_gc {
        eprintln!("network {} has disableGC: nothing is removed", network.name);
        return Ok(());
    }
    let runtimes = options.records.runtimes();
    let named = options.keep.iter().map(|item| match item.split_once('/') {
        Some((id, interface)) => (id.to_owned(), interface.to_owned()),
        None => (item.clone(), interface()),
    });
    Runtime::gc_together(&runtimes, &network, || {
        let mut valid: Vec<(String, String)> = named.collect();
        if !options.all {
            let recorded = runtimes.iter().flat_map(Runtime::attachments);
            let alive = recorded.filter(|c| c.network_name == network.name && lives(&c.netns));
            valid.extend(alive.map(|c| (c.container_id, c.if_name)));
        }
        valid
    })?;
    Ok(())
}

fn repair(options: &Mend) -> Result<(), CtlError> {
    let mut errors = Vec::new();
    for runtime in options.records.runtimes() {
        let mut recorded = runtime.attachments();
        recorded.sort_by(|a, b| {
            (&a.network_name, &a.container_id, &a.if_name).cmp(&(
                &b.network_name,
                &b.container_id,
                &b.if_name,
            ))
        });
        for cached in recorded
            .iter()
            .filter(|c| options.network.as_ref().is_none_or(|n| *n == c.network_name))
        {
            let what = format!(
                "container {} interface {} in network {}",
                cached.container_id, cached.if_name, cached.network_name
            );
            match mend(&runtime, cached, options.reattach) {
                Ok(state) => output::line(&format!("{what}: {state}"))?,
                Err(error) => errors.push(CtlError::Refused(format!("{what}: {}", error.rendered()))),
            }
        }
    }
    CtlError::all(errors)
}

/// Repairs one attachment; gives the word for what was done.
fn mend(runtime: &Runtime, cached: &Cached, reattach: bool) -> Result<&'static str, CtlError> {
    if !lives(&cached.netns) {
        return Ok("its namespace is gone (`berthctl net gc` removes what it has left)");
    }
    let bytes = cached.config_bytes().unwrap_or_default();
    let network = Network::from_bytes(&bytes)?;
    let attachment = Attachment::remembered(cached);
    match runtime.repair(&network, &attachment) {
        Ok(Repair::Sound) => Ok("sound"),
        Ok(Repair::Done) => Ok("repaired"),
        Err(ExecError::Version { .. }) => Ok("not verified: its cniVersion has no CHECK"),
        Err(ExecError::Plugin { .. }) if reattach => {
            runtime.reattach(&network, &attachment)?;
            Ok("attached anew")
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_container_id_is_cnitools() {
        // printf /run/netns/a | sha512sum | cut -c1-20
        assert_eq!(
            container_id(Path::new("/run/netns/a")),
            "cnitool-a145bc1ace582bff43bd"
        );
    }

    #[test]
    fn arguments_are_pairs() {
        assert_eq!(
            arguments("IP=10.1.0.5;;X=a=b").unwrap(),
            [
                ("IP".to_owned(), "10.1.0.5".to_owned()),
                ("X".to_owned(), "a=b".to_owned())
            ]
        );
        for text in ["IP", "=1", "a=1;b"] {
            assert!(
                arguments(text).unwrap_err().to_string().contains("CNI_ARGS"),
                "{text}"
            );
        }
        assert!(capabilities("[1]").unwrap_err().to_string().contains("CAP_ARGS"));
        assert_eq!(capabilities("{\"mac\": \"x\"}").unwrap()["mac"], "x");
    }
}
