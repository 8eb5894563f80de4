//! `image pull`, `push`, `referrers`: what the node does with a registry, shown as it goes on.

use http::Method;
use serde_json::{Value, json};

use super::super::Context;
use super::progress::Display;
use super::{IMAGES, credentials, size};
use crate::cli::{Access, Format, Pull, Push, Referrers};
use crate::client::{Call, JSON, Lines};
use crate::error::CtlError;
use crate::output;
use crate::tree::{list, members, number, plain, text};

pub(super) async fn pull(context: &Context, options: &Pull) -> Result<(), CtlError> {
    let mut errors = Vec::new();
    for name in &options.names {
        if let Err(error) = pull_one(context, name, options).await {
            errors.push(error);
        }
    }
    CtlError::all(errors)
}

async fn pull_one(context: &Context, name: &str, options: &Pull) -> Result<(), CtlError> {
    let body = json!({ "name": name, "credentials": credentials::of(name, &options.access)? });
    let done = follow(context, "pull", &body, options.access.quiet).await?;
    if options.access.quiet {
        return output::line(text(&done, "/id"));
    }
    let names: Vec<String> = list(&done, "/names").iter().map(plain).collect();
    let state = if done["present"] == true {
        "is up to date".to_owned()
    } else {
        format!("pulled, {} transferred", size(number(&done, "/downloaded")))
    };
    output::line(&format!(
        "{} {state}\nDigest: {}\nId: {}",
        names.first().map_or(name, String::as_str),
        text(&done, "/manifest"),
        text(&done, "/id")
    ))
}

pub(super) async fn push(context: &Context, options: &Push) -> Result<(), CtlError> {
    let target = options.target.as_ref().unwrap_or(&options.name);
    let body = json!({
        "name": options.name,
        "target": target,
        "credentials": credentials::of(target, &options.access)?,
    });
    let done = follow(context, "push", &body, options.access.quiet).await?;
    if options.access.quiet {
        return output::line(text(&done, "/manifest"));
    }
    output::line(&format!(
        "{} pushed, {} transferred\nDigest: {}",
        text(&done, "/name"),
        size(number(&done, "/uploaded")),
        text(&done, "/manifest")
    ))
}

pub(super) async fn referrers(context: &Context, options: &Referrers) -> Result<(), CtlError> {
    let access = Access {
        creds: options.creds.clone(),
        authfile: options.authfile.clone(),
        quiet: true,
    };
    let body = json!({ "name": options.name, "credentials": credentials::of(&options.name, &access)? });
    let path = format!("{IMAGES}/referrers");
    let answer = context
        .client
        .json(Call::with(Method::POST, &path, JSON, &body))
        .await?;
    match options.output {
        Some(Format::Json) => return output::line(&output::json_text(&answer)),
        Some(Format::Yaml) => return output::raw(output::yaml_text(&answer).as_bytes()),
        _ => {}
    }
    let mut rows = vec![["TYPE", "DIGEST", "ANNOTATIONS"].map(str::to_owned).to_vec()];
    for item in list(&answer, "/items") {
        let annotations: Vec<String> = members(item, "/annotations")
            .map(|(name, value)| format!("{name}={}", plain(value)))
            .collect();
        rows.push(vec![
            text(item, "/artifactType").to_owned(),
            text(item, "/digest").to_owned(),
            annotations.join(","),
        ]);
    }
    output::raw(output::table(&rows).as_bytes())
}

/// Starts a transfer and shows its steps; gives back how it ended.
async fn follow(context: &Context, verb: &str, body: &Value, quiet: bool) -> Result<Value, CtlError> {
    let path = format!("{IMAGES}/{verb}");
    let response = context
        .client
        .open(Call::with(Method::POST, &path, JSON, body))
        .await?;
    let mut lines = Lines::new(response);
    let mut display = Display::new(quiet);
    while let Some(line) = lines.next().await {
        if let Some(done) = line.get("done") {
            display.end();
            return Ok(done.clone());
        }
        if let Some(error) = line["error"].as_str() {
            display.end();
            return Err(CtlError::Refused(error.to_owned()));
        }
        display.step(&line);
    }
    display.end();
    Err(CtlError::Refused(format!(
        "the node ended the {verb} without saying how it went: is berthd still running?"
    )))
}
