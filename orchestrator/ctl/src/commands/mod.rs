//! A file a command.

mod apply;
mod archive;
mod delete;
mod get;
mod image;
mod logs;
pub(crate) mod net;
mod rollout;
mod rows;
mod scale;

use std::path::Path;

use serde_json::{Value, json};

use crate::cli::{Arguments, Command, Describe, Format, Kubeconfig, Version};
use crate::client::{Call, Client};
use crate::describe;
use crate::error::CtlError;
use crate::kubeconfig;
use crate::output;
use crate::resource::{expand, targets};
use crate::tree::text;

/// What every command needs.
pub(crate) struct Context {
    pub(crate) client: Client,
    /// The namespace to work in.
    pub(crate) namespace: String,
    /// The namespace that the command line asked for.
    pub(crate) asked_namespace: Option<String>,
}

/// Does what the command line says.
pub(crate) async fn run(arguments: Arguments) -> Result<(), CtlError> {
    let Arguments {
        kubeconfig,
        context,
        namespace,
        command,
    } = arguments;
    match command {
        Command::Kubeconfig(Kubeconfig { path }) => return show_kubeconfig(kubeconfig.as_deref(), path),
        Command::Version(Version { client: true, output }) => return show_version(None, output),
        Command::Net(command) => return net::run(&command),
        _ => {}
    }
    let access = kubeconfig::load(kubeconfig.as_deref(), context.as_deref())?;
    let context = Context {
        client: Client::new(&access)?,
        namespace: namespace.clone().unwrap_or(access.namespace),
        asked_namespace: namespace,
    };
    match command {
        Command::Image(command) => image::run(&context, command).await,
        Command::Apply(options) => apply::run(&context, &options).await,
        Command::Get(options) => get::run(&context, &options).await,
        Command::Describe(options) => describe_all(&context, &options).await,
        Command::Logs(options) => logs::run(&context, &options).await,
        Command::Delete(options) => delete::run(&context, &options).await,
        Command::Scale(options) => scale::run(&context, &options).await,
        Command::Rollout(command) => rollout::run(&context, command).await,
        Command::Version(options) => {
            let node = context.client.json(Call::get("/version")).await?;
            show_version(Some(&node), options.output)
        }
        Command::Kubeconfig(_) | Command::Net(_) => Ok(()),
    }
}

async fn describe_all(context: &Context, options: &Describe) -> Result<(), CtlError> {
    let selection = &options.selection;
    let wanted = targets(selection, &context.namespace)?;
    let found = expand(&context.client, wanted, selection.selector.as_deref()).await?;
    if found.is_empty() {
        eprintln!("No resources found.");
    }
    for (index, target) in found.iter().enumerate() {
        if index > 0 {
            output::line("\n")?;
        }
        let object = context.client.json(Call::get(&target.path())).await?;
        output::raw(
            describe::object(&context.client, target, &object)
                .await?
                .as_bytes(),
        )?;
    }
    Ok(())
}

fn show_kubeconfig(given: Option<&Path>, only_path: bool) -> Result<(), CtlError> {
    for path in kubeconfig::paths(given) {
        if only_path {
            output::line(&path.display().to_string())?;
            continue;
        }
        let content = std::fs::read(&path).map_err(|source| CtlError::KubeconfigFile {
            path: path.clone(),
            source,
        })?;
        output::raw(&content)?;
        if !content.ends_with(b"\n") {
            output::raw(b"\n")?;
        }
    }
    Ok(())
}

fn show_version(node: Option<&Value>, format: Option<Format>) -> Result<(), CtlError> {
    let own = concat!("v", env!("CARGO_PKG_VERSION"));
    let mut whole = json!({ "clientVersion": { "gitVersion": own } });
    if let Some(node) = node {
        whole["serverVersion"] = node.clone();
    }
    match format {
        Some(Format::Json) => output::line(&output::json_text(&whole)),
        Some(Format::Yaml) => output::raw(output::yaml_text(&whole).as_bytes()),
        _ => {
            output::line(&format!("Client Version: {own}"))?;
            match node {
                Some(node) => output::line(&format!("Server Version: {}", text(node, "/gitVersion"))),
                None => Ok(()),
            }
        }
    }
}
