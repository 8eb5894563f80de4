//! `delete`: objects by name, file, label or all of a kind; waits until they are gone.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};

use super::Context;
use crate::cli::{Cascade, Delete, Format};
use crate::client::Call;
use crate::error::CtlError;
use crate::output;
use crate::resource::{Target, expand, targets, type_title};
use crate::tree::text;

/// Between two looks whether an object is gone: short at first, for what goes at once.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LONGEST_LOOK: Duration = Duration::from_secs(1);

/// Deletes, then waits.
pub(super) async fn run(context: &Context, options: &Delete) -> Result<(), CtlError> {
    let selection = &options.selection;
    let wanted = targets(selection, &context.namespace)?;
    if wanted.iter().any(|target| target.name.is_none()) && !options.all && selection.selector.is_none() {
        return Err(CtlError::Usage(
            "name the objects to delete, or give --all or -l SELECTOR".to_owned(),
        ));
    }
    if options.force && options.grace_period > 0 {
        return Err(CtlError::Usage(
            "--force and --grace-period greater than 0 contradict each other".to_owned(),
        ));
    }
    if options.force {
        eprintln!(
            "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated."
        );
    }
    let found = expand(&context.client, wanted, selection.selector.as_deref()).await?;
    if found.is_empty() {
        eprintln!("No resources found");
        return Ok(());
    }
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    for target in &found {
        match one(context, options, target).await {
            Ok(uid) => {
                deleted.push((target, uid));
                report(options, target)?;
            }
            Err(error) if error.is_not_found() && (options.ignore_not_found || options.all) => {}
            Err(error) => errors.push(error),
        }
    }
    if options.wait {
        let end = (!options.timeout.is_zero()).then(|| Instant::now() + options.timeout);
        for (target, uid) in deleted {
            if let Err(error) = gone(context, target, &uid, end).await {
                errors.push(error);
            }
        }
    }
    CtlError::all(errors)
}

fn report(options: &Delete, target: &Target) -> Result<(), CtlError> {
    if options.output == Some(Format::Name) {
        return output::line(&target.title());
    }
    let force = if options.force { "force " } else { "" };
    let name = target.name.as_deref().unwrap_or_default();
    let place = if target.namespace.is_empty() {
        String::new()
    } else {
        format!(" from {} namespace", target.namespace)
    };
    output::line(&format!(
        "{} {name:?} {force}deleted{place}",
        type_title(target.kind)
    ))
}

/// Seconds to give a pod; nothing is its own choice. Zero without --force is one, so that nobody
/// loses data by a zero that was meant as "soon".
fn grace(options: &Delete) -> Option<i64> {
    match options.grace_period {
        _ if options.now => Some(1),
        _ if options.force => Some(0),
        seconds if seconds < 0 => None,
        0 => Some(1),
        seconds => Some(seconds),
    }
}

/// Begins the deletion, and gives the uid of what is being deleted.
async fn one(context: &Context, options: &Delete, target: &Target) -> Result<String, CtlError> {
    let policy = match options.cascade {
        Cascade::Background => "Background",
        Cascade::Foreground => "Foreground",
        Cascade::Orphan => "Orphan",
    };
    let mut body = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy });
    if let Some(seconds) = grace(options) {
        body["gracePeriodSeconds"] = json!(seconds);
    }
    let path = target.path();
    let answer = context
        .client
        .json(Call::with(Method::DELETE, &path, "application/json", &body))
        .await?;
    // A Status when it went at once, the object itself when that takes time.
    let uid = match text(&answer, "/metadata/uid") {
        "" => text(&answer, "/details/uid"),
        uid => uid,
    };
    Ok(uid.to_owned())
}

/// Waits until the object, or rather this one of its name, is gone.
async fn gone(context: &Context, target: &Target, uid: &str, end: Option<Instant>) -> Result<(), CtlError> {
    let mut pause = FIRST_LOOK;
    loop {
        match context.client.json(Call::get(&target.path())).await {
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
            Ok(object) if is_another(&object, uid) => return Ok(()),
            Ok(_) => {}
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            return Err(CtlError::Timeout(format!("{} to be gone", target.quoted())));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_LOOK);
    }
}

fn is_another(object: &Value, uid: &str) -> bool {
    !uid.is_empty() && text(object, "/metadata/uid") != uid
}
