//! `apply`: makes objects be as files say, in kubectl's way, so that both can be used in turn.

use http::Method;
use serde_json::Value;

use super::Context;
use crate::cli::{Apply, DryRun, Format};
use crate::client::Call;
use crate::error::CtlError;
use crate::manifest::{self, Manifest};
use crate::output;
use crate::patch::{LAST_APPLIED, last_applied, three_way, with_last_applied};
use crate::resource::{Target, query};
use crate::tree::{annotation, text};

/// kubectl's name for this kind of apply: fields stay with one manager, whichever program is used.
const CLIENT_SIDE: &str = "kubectl-client-side-apply";
const SERVER_SIDE: &str = "kubectl";
/// How often a change that came between is taken into account anew.
const ATTEMPTS: u32 = 5;

/// Applies every manifest; one that fails does not keep the others back.
pub(super) async fn run(context: &Context, options: &Apply) -> Result<(), CtlError> {
    let manifests = manifest::read(&options.files)?;
    // Everything is checked before anything is done.
    let mut targets = Vec::with_capacity(manifests.len());
    for manifest in &manifests {
        manifest.check_namespace(context.asked_namespace.as_deref())?;
        let namespace = manifest.namespace(&context.namespace);
        targets.push(Target::new(manifest.kind()?, namespace, Some(manifest.name()?)));
    }
    let mut errors = Vec::new();
    let mut results = Vec::new();
    for (manifest, target) in manifests.iter().zip(&targets) {
        match one(context, options, manifest, target).await {
            Ok((object, what)) => match options.output {
                None | Some(Format::Wide) => {
                    output::line(&format!("{} {what}{}", target.title(), dry(options)))?;
                }
                Some(Format::Name) => output::line(&target.title())?,
                Some(_) => results.push(output::without_managed_fields(object)),
            },
            Err(error) => errors.push(error),
        }
    }
    show(options, results)?;
    CtlError::all(errors)
}

fn dry(options: &Apply) -> &'static str {
    if options.dry_run.is_some() {
        " (server dry run)"
    } else {
        ""
    }
}

fn show(options: &Apply, mut results: Vec<Value>) -> Result<(), CtlError> {
    if results.is_empty() {
        return Ok(());
    }
    let whole = if results.len() == 1 {
        results.remove(0)
    } else {
        output::list_of(&results)
    };
    match options.output {
        Some(Format::Yaml) => output::raw(output::yaml_text(&whole).as_bytes()),
        _ => output::line(&output::json_text(&whole)),
    }
}

fn parameters(options: &Apply, manager: &str) -> Vec<(&'static str, String)> {
    let mut parameters = vec![
        ("fieldManager", manager.to_owned()),
        ("fieldValidation", "Strict".to_owned()),
    ];
    if options.dry_run == Some(DryRun::Server) {
        parameters.push(("dryRun", "All".to_owned()));
    }
    parameters
}

async fn one(
    context: &Context,
    options: &Apply,
    manifest: &Manifest,
    target: &Target,
) -> Result<(Value, &'static str), CtlError> {
    let mut object = manifest.object.clone();
    if !target.namespace.is_empty() {
        object["metadata"]["namespace"] = Value::from(target.namespace.clone());
    }
    if options.server_side {
        return server_side(context, options, target, &object).await;
    }
    let annotated = with_last_applied(&object);
    for attempt in 1.. {
        let outcome = match context.client.json(Call::get(&target.path())).await {
            Ok(live) => change(context, options, target, &annotated, &live).await,
            Err(error) if error.is_not_found() => create(context, options, target, &annotated).await,
            Err(error) => Err(error),
        };
        match outcome {
            // Somebody created, changed or deleted it since we looked.
            Err(CtlError::Api {
                code: 409 | 404,
                ref reason,
                ..
            }) if attempt < ATTEMPTS && reason != "Invalid" => {}
            outcome => return outcome,
        }
    }
    Err(CtlError::Timeout(format!("{} to stay the same", target.title())))
}

async fn create(
    context: &Context,
    options: &Apply,
    target: &Target,
    annotated: &Value,
) -> Result<(Value, &'static str), CtlError> {
    let list = Target {
        name: None,
        ..target.clone()
    };
    let path = format!("{}{}", list.path(), query(&parameters(options, CLIENT_SIDE)));
    let call = Call::with(Method::POST, &path, "application/json", annotated);
    Ok((context.client.json(call).await?, "created"))
}

async fn change(
    context: &Context,
    options: &Apply,
    target: &Target,
    annotated: &Value,
    live: &Value,
) -> Result<(Value, &'static str), CtlError> {
    if annotation(live, LAST_APPLIED).is_none() {
        eprintln!(
            "Warning: {} was not made by apply: what this file no longer sets is not deleted this time",
            target.title()
        );
    }
    let last = last_applied(live).unwrap_or_default();
    let patch = three_way(target.kind, &last, annotated, live);
    if patch.as_object().is_none_or(serde_json::Map::is_empty) {
        return Ok((live.clone(), "unchanged"));
    }
    let path = format!("{}{}", target.path(), query(&parameters(options, CLIENT_SIDE)));
    let call = Call::with(
        Method::PATCH,
        &path,
        "application/strategic-merge-patch+json",
        &patch,
    );
    let changed = context.client.json(call).await?;
    let version = |object: &Value| text(object, "/metadata/resourceVersion").to_owned();
    let what = if version(&changed) == version(live) && options.dry_run.is_none() {
        "unchanged"
    } else {
        "configured"
    };
    Ok((changed, what))
}

async fn server_side(
    context: &Context,
    options: &Apply,
    target: &Target,
    object: &Value,
) -> Result<(Value, &'static str), CtlError> {
    let mut parameters = parameters(options, SERVER_SIDE);
    parameters.push(("force", options.force_conflicts.to_string()));
    let path = format!("{}{}", target.path(), query(&parameters));
    let call = Call::with(Method::PATCH, &path, "application/apply-patch+yaml", object);
    Ok((context.client.json(call).await?, "serverside-applied"))
}
