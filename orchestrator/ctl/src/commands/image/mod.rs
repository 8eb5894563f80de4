//! `image`: pulling, pushing, importing, saving, listing, removing.

mod credentials;
mod import;
mod list;
mod progress;
mod save;
mod transfer;

use std::path::Path;

use http::Method;
use serde_json::json;

use super::Context;
use crate::cli::Image;
use crate::client::{Call, JSON};
use crate::error::CtlError;
use crate::output;
use crate::resource::query;
use crate::tree::{list as items, number, plain, text};

const IMAGES: &str = "/apis/node.berth.dev/v1/images";

/// Does what the command line says.
pub(super) async fn run(context: &Context, command: Image) -> Result<(), CtlError> {
    match command {
        Image::Pull(options) => transfer::pull(context, &options).await,
        Image::Push(options) => transfer::push(context, &options).await,
        Image::Import(options) => import::import(context, &options).await,
        Image::Load { source, name } => import::load(context, &source, name.as_ref()).await,
        Image::Save(options) => save::run(context, &options).await,
        Image::Tag { name, new } => tag(context, &name, &new).await,
        Image::Ls(options) => list::show(context, &options).await,
        Image::Inspect { names, output } => list::inspect(context, &names, output).await,
        Image::History { name, no_trunc } => list::history(context, &name, no_trunc).await,
        Image::Referrers(options) => transfer::referrers(context, &options).await,
        Image::Df { output } => list::usage(context, output).await,
        Image::Check { repair, deep } => check(context, repair, deep).await,
        Image::Rm { names } => remove(context, &names).await,
        Image::Prune { all } => prune(context, all).await,
    }
}

async fn tag(context: &Context, name: &str, new: &str) -> Result<(), CtlError> {
    let path = format!("{IMAGES}/tag");
    let call = Call::with(Method::POST, &path, JSON, &json!({ "name": name, "new": new }));
    let answer = context.client.json(call).await?;
    output::line(&format!("Tagged {}", text(&answer, "/name")))
}

async fn check(context: &Context, repair: bool, deep: bool) -> Result<(), CtlError> {
    let path = format!("{IMAGES}/check?repair={repair}&deep={deep}");
    let call = Call {
        method: Method::POST,
        ..Call::get(&path)
    };
    let answer = context.client.json(call).await?;
    let problems = items(&answer, "/problems");
    for problem in problems {
        output::line(&format!("{} {}", text(problem, "/what"), text(problem, "/why")))?;
    }
    output::line(&format!(
        "Checked {} images, {} blobs, {} layers; {} partial downloads ({}) can be gone on with",
        number(&answer, "/images"),
        number(&answer, "/blobs"),
        number(&answer, "/layers"),
        number(&answer, "/partial/count"),
        size(number(&answer, "/partial/bytes")),
    ))?;
    if problems.is_empty() {
        return output::line("The store is clean");
    }
    let what_now = if repair {
        "what was damaged is removed: pull or import the images again".to_owned()
    } else {
        "--repair removes what is damaged".to_owned()
    };
    Err(CtlError::Refused(format!(
        "{} problems: {what_now}",
        problems.len()
    )))
}

async fn remove(context: &Context, names: &[String]) -> Result<(), CtlError> {
    let mut errors = Vec::new();
    for name in names {
        let path = format!("{IMAGES}{}", query(&[("name", name.clone())]));
        let call = Call {
            method: Method::DELETE,
            ..Call::get(&path)
        };
        match context.client.json(call).await {
            Ok(answer) => {
                for name in items(&answer, "/untagged") {
                    output::line(&format!("Untagged {}", plain(name)))?;
                }
                if let Some(id) = answer["deleted"].as_str() {
                    output::line(&format!(
                        "Deleted {id} ({} freed)",
                        size(number(&answer, "/bytes"))
                    ))?;
                }
            }
            Err(error) => errors.push(error),
        }
    }
    CtlError::all(errors)
}

async fn prune(context: &Context, all: bool) -> Result<(), CtlError> {
    let which = if all { "all" } else { "dangling" };
    let path = format!("{IMAGES}?{which}=true");
    let answer = context
        .client
        .json(Call {
            method: Method::DELETE,
            ..Call::get(&path)
        })
        .await?;
    output::line(&format!(
        "Deleted {} images, {} layers, {} blobs ({} freed)",
        number(&answer, "/images"),
        number(&answer, "/layers"),
        number(&answer, "/blobs"),
        size(number(&answer, "/bytes"))
    ))
}

/// Bytes for people, in powers of 1024.
fn size(bytes: i64) -> String {
    let mut unit = 0;
    let mut tenths = bytes.saturating_mul(10);
    while tenths >= 10_240 && unit < 4 {
        tenths /= 1024;
        unit += 1;
    }
    let name = ["B", "KiB", "MiB", "GiB", "TiB"][unit];
    if unit == 0 {
        format!("{bytes}{name}")
    } else {
        format!("{}.{}{name}", tenths / 10, tenths % 10)
    }
}

/// Whether a folder is an OCI layout.
pub(super) fn is_layout(folder: &Path) -> bool {
    folder.join("oci-layout").is_file() && folder.join("index.json").is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        for (bytes, expected) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.0KiB"),
            (1536, "1.5KiB"),
            (5 << 20, "5.0MiB"),
            (3 << 30, "3.0GiB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }
}
