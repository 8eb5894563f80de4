//! `logs`: what containers wrote.

use http_body_util::BodyExt;
use serde_json::Value;
use tokio::task::JoinSet;

use super::Context;
use crate::cli::Logs;
use crate::client::Call;
use crate::error::CtlError;
use crate::output;
use crate::resource::{Target, kind, query};
use crate::tree::{annotation, list, members, name, plain, text};
use berth_api::kinds;

/// Annotation that names the container people mean when they name none.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// With a selector, only so many lines of each pod are shown by default, as kubectl does.
const SELECTED_TAIL: i64 = 10;

/// One container's log to be shown.
struct Source {
    path: String,
    prefix: String,
}

/// Shows the logs, one after another, or, with --follow and several, as they come.
pub(super) async fn run(context: &Context, options: &Logs) -> Result<(), CtlError> {
    let pods = pods(context, options).await?;
    let mut sources = Vec::new();
    for pod in &pods {
        for container in containers(options, pod)? {
            let target = Target::of(kinds::POD, pod);
            let parameters = parameters(options, &container);
            sources.push(Source {
                path: format!("{}/log{}", target.path(), query(&parameters)),
                prefix: if options.prefix {
                    format!("[pod/{}/{container}] ", name(pod))
                } else {
                    String::new()
                },
            });
        }
    }
    if options.follow && sources.len() > 1 {
        return together(context, sources).await;
    }
    for source in sources {
        show(context, &source).await?;
    }
    Ok(())
}

async fn pods(context: &Context, options: &Logs) -> Result<Vec<Value>, CtlError> {
    let all = Target::new(kinds::POD, &context.namespace, None);
    if let Some(selector) = &options.selector {
        let found = select(context, &all, selector).await?;
        if found.is_empty() {
            return Err(CtlError::Refused(format!(
                "No resources found in {} namespace.",
                context.namespace
            )));
        }
        return Ok(found);
    }
    let Some(word) = options.target.first() else {
        return Err(CtlError::Usage(
            "name a pod, or TYPE/NAME, or give -l SELECTOR".to_owned(),
        ));
    };
    let (type_word, object_name) = word.split_once('/').unwrap_or(("pod", word));
    let target = Target::new(kind(type_word)?, &context.namespace, Some(object_name));
    let object = context.client.json(Call::get(&target.path())).await?;
    if target.kind == kinds::POD {
        return Ok(vec![object]);
    }
    let labels: Vec<String> = members(&object, "/spec/selector/matchLabels")
        .map(|(key, value)| format!("{key}={}", plain(value)))
        .collect();
    if labels.is_empty() {
        return Err(CtlError::Refused(format!(
            "{} has no pods to show logs of",
            target.title()
        )));
    }
    let mut found = select(context, &all, &labels.join(",")).await?;
    found.sort_by_key(|pod| {
        (
            text(pod, "/status/phase") != "Running",
            text(pod, "/metadata/creationTimestamp").to_owned(),
        )
    });
    let Some(first) = found.first().cloned() else {
        return Err(CtlError::Refused(format!("{} has no pods yet", target.title())));
    };
    if found.len() > 1 {
        eprintln!("Found {} pods, using pod/{}", found.len(), name(&first));
    }
    Ok(vec![first])
}

async fn select(context: &Context, all: &Target, selector: &str) -> Result<Vec<Value>, CtlError> {
    let path = format!(
        "{}{}",
        all.path(),
        query(&[("labelSelector", selector.to_owned())])
    );
    Ok(list(&context.client.json(Call::get(&path)).await?, "/items").to_vec())
}

fn containers(options: &Logs, pod: &Value) -> Result<Vec<String>, CtlError> {
    let names = |pointer: &str| -> Vec<String> {
        list(pod, pointer)
            .iter()
            .map(|container| text(container, "/name").to_owned())
            .collect()
    };
    let (main, init) = (names("/spec/containers"), names("/spec/initContainers"));
    if options.all_containers {
        return Ok([init, main].concat());
    }
    let asked = options.container.as_ref().or(options.target.get(1));
    if let Some(asked) = asked {
        if main.contains(asked) || init.contains(asked) {
            return Ok(vec![asked.clone()]);
        }
        return Err(CtlError::Refused(format!(
            "container {asked} is not valid for pod {}",
            name(pod)
        )));
    }
    let default = annotation(pod, DEFAULT_CONTAINER)
        .map(str::to_owned)
        .filter(|name| main.contains(name));
    let Some(chosen) = default.or_else(|| main.first().cloned()) else {
        return Err(CtlError::Refused(format!("pod {} has no containers", name(pod))));
    };
    if main.len() > 1 && options.selector.is_none() {
        eprintln!(
            "Defaulted container {chosen:?} out of: {}",
            [main, init].concat().join(", ")
        );
    }
    Ok(vec![chosen])
}

fn parameters(options: &Logs, container: &str) -> Vec<(&'static str, String)> {
    let mut parameters = vec![("container", container.to_owned())];
    for (set, parameter) in [
        (options.follow, "follow"),
        (options.previous, "previous"),
        (options.timestamps, "timestamps"),
    ] {
        if set {
            parameters.push((parameter, "true".to_owned()));
        }
    }
    let default_tail = options.selector.as_ref().map(|_| SELECTED_TAIL);
    if let Some(tail) = options.tail.or(default_tail).filter(|tail| *tail >= 0) {
        parameters.push(("tailLines", tail.to_string()));
    }
    if let Some(since) = options.since {
        // Whole seconds, and at least one: less is not what anybody means.
        parameters.push(("sinceSeconds", since.as_secs().max(1).to_string()));
    }
    if let Some(time) = &options.since_time {
        parameters.push(("sinceTime", time.clone()));
    }
    parameters
}

async fn show(context: &Context, source: &Source) -> Result<(), CtlError> {
    let mut body = context
        .client
        .open(Call::get(&source.path).accept("*/*"))
        .await?
        .into_body();
    let mut rest = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| context.client.broke(error))?;
        let data = frame.into_data().unwrap_or_default();
        if source.prefix.is_empty() {
            output::raw(&data)?;
        } else {
            rest.extend_from_slice(&data);
            print_lines(&source.prefix, &mut rest)?;
        }
    }
    if rest.is_empty() {
        Ok(())
    } else {
        output::raw(&[source.prefix.as_bytes(), &rest].concat())
    }
}

/// Prints the whole lines, each with its prefix in one write, so that logs do not run together.
fn print_lines(prefix: &str, rest: &mut Vec<u8>) -> Result<(), CtlError> {
    while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
        let line: Vec<u8> = rest.drain(..=end).collect();
        output::raw(&[prefix.as_bytes(), &line].concat())?;
    }
    Ok(())
}

/// Follows several logs at once.
async fn together(context: &Context, sources: Vec<Source>) -> Result<(), CtlError> {
    let mut bodies = JoinSet::new();
    for source in sources {
        let response = context.client.open(Call::get(&source.path).accept("*/*")).await?;
        bodies.spawn(async move {
            let mut body = response.into_body();
            let mut rest = Vec::new();
            while let Some(Ok(frame)) = body.frame().await {
                rest.extend_from_slice(&frame.into_data().unwrap_or_default());
                print_lines(&source.prefix, &mut rest)?;
            }
            Ok::<(), CtlError>(())
        });
    }
    while let Some(ended) = bodies.join_next().await {
        if let Ok(outcome) = ended {
            outcome?;
        }
    }
    Ok(())
}
