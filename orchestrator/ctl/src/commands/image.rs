//! `image`: importing, listing, removing.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use http::Method;
use serde_json::Value;
use tokio::sync::mpsc;

use super::Context;
use super::archive::{self, Source};
use crate::cli::{Format, Image, ImageList, Import};
use crate::client::Call;
use crate::error::CtlError;
use crate::output;
use crate::resource::query;
use crate::tree::{list, number, plain, text};

const IMAGES: &str = "/apis/node.berth.dev/v1/images";
/// Pieces of an upload that are read ahead.
const PIECES: usize = 8;

/// Does what the command line says.
pub(super) async fn run(context: &Context, command: Image) -> Result<(), CtlError> {
    match command {
        Image::Import(options) => import(context, &options).await,
        Image::Ls(options) => show(context, &options).await,
        Image::Rm { names } => remove(context, &names).await,
        Image::Prune => prune(context).await,
    }
}

async fn import(context: &Context, options: &Import) -> Result<(), CtlError> {
    let source = Source::open(&options.source, options.root)?;
    let path = format!("{IMAGES}{}", query(&parameters(options, source.is_root())?));
    let (pieces, upload) = mpsc::channel(PIECES);
    let reading = tokio::task::spawn_blocking(move || archive::send(source, pieces));
    let answer = context.client.upload(&path, upload).await;
    // What the node says comes first; but if the upload broke off here, the reason is here, too.
    if matches!(&answer, Err(error) if !matches!(error, CtlError::Api { .. }))
        && let Ok(Err(error)) = reading.await
    {
        return Err(error);
    }
    for image in list(&answer?, "/items") {
        for name in list(image, "/names") {
            output::line(&format!("Imported {} ({})", plain(name), text(image, "/id")))?;
        }
    }
    Ok(())
}

fn parameters(options: &Import, root: bool) -> Result<Vec<(&'static str, String)>, CtlError> {
    let mut parameters = vec![("format", if root { "root" } else { "archive" }.to_owned())];
    parameters.extend(options.name.clone().map(|name| ("name", name)));
    let described = parameters.len();
    for (key, words) in [
        ("entrypoint", words(&options.entrypoint)?),
        ("cmd", words(&options.cmd)?),
    ] {
        parameters.extend(words.into_iter().map(|word| (key, word)));
    }
    for (key, values) in [
        ("env", &options.env),
        ("port", &options.port),
        ("label", &options.label),
    ] {
        parameters.extend(values.iter().map(|value| (key, value.clone())));
    }
    for (key, value) in [
        ("workdir", &options.workdir),
        ("user", &options.user),
        ("stopSignal", &options.stop_signal),
    ] {
        parameters.extend(value.clone().map(|value| (key, value)));
    }
    if !root && parameters.len() > described {
        return Err(CtlError::Usage(format!(
            "{} is an archive with a configuration of its own: --{} and the like are for root file systems",
            options.source.display(),
            parameters[described].0
        )));
    }
    if root && options.name.is_none() {
        return Err(CtlError::Usage(
            "a root file system has no name: give one with --name".to_owned(),
        ));
    }
    Ok(parameters)
}

/// The words as given, or those of a JSON list.
fn words(given: &[String]) -> Result<Vec<String>, CtlError> {
    match given {
        [only] if only.starts_with('[') => serde_json::from_str(only)
            .map_err(|error| CtlError::Usage(format!("{only:?} is no JSON list of words: {error}"))),
        words => Ok(words.to_vec()),
    }
}

async fn show(context: &Context, options: &ImageList) -> Result<(), CtlError> {
    let answer = context.client.json(Call::get(IMAGES)).await?;
    let items = list(&answer, "/items");
    match options.output {
        Some(Format::Json) => return output::line(&output::json_text(&answer)),
        Some(Format::Yaml) => return output::raw(output::yaml_text(&answer).as_bytes()),
        _ => {}
    }
    if options.quiet {
        return items
            .iter()
            .try_for_each(|image| output::line(text(image, "/id")));
    }
    let wide = options.output == Some(Format::Wide);
    let titles = ["NAME", "ID", "SIZE", "UNIQUE", "IMPORTED", "IN USE", "MANIFEST"];
    let shown = if wide { titles.len() } else { titles.len() - 1 };
    let mut rows = vec![
        titles[..shown]
            .iter()
            .map(|title| (*title).to_owned())
            .collect::<Vec<_>>(),
    ];
    for image in items {
        let names: Vec<String> = list(image, "/names").iter().map(plain).collect();
        let names = if names.is_empty() {
            vec!["<none>".to_owned()]
        } else {
            names
        };
        for name in names {
            if options.output == Some(Format::Name) {
                output::line(&name)?;
            }
            rows.push(row(image, name, shown));
        }
    }
    if options.output == Some(Format::Name) {
        Ok(())
    } else {
        output::raw(output::table(&rows).as_bytes())
    }
}

fn row(image: &Value, name: String, shown: usize) -> Vec<String> {
    let id = text(image, "/id").trim_start_matches("sha256:");
    let used = image["inUse"] == true;
    let mut row = vec![
        name,
        id.chars().take(12).collect(),
        size(number(image, "/size")),
        size(number(image, "/uniqueSize")),
        age(number(image, "/imported")),
        if used { "yes" } else { "no" }.to_owned(),
        text(image, "/manifest").to_owned(),
    ];
    row.truncate(shown);
    row
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

fn age(imported: i64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() as i64);
    format!("{} ago", berth_api::table::human((now - imported).max(0)))
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
                for name in list(&answer, "/untagged") {
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

async fn prune(context: &Context) -> Result<(), CtlError> {
    let path = format!("{IMAGES}?dangling=true");
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

    #[test]
    fn words_may_be_a_json_list() {
        let given = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(words(&given(&["/a", "-b"])).unwrap(), ["/a", "-b"]);
        assert_eq!(words(&given(&["[\"/a b\",\"c\"]"])).unwrap(), ["/a b", "c"]);
        assert!(words(&given(&["[1"])).is_err());
    }
}
