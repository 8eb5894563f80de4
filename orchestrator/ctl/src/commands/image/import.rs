//! `image import` and `image load`: archives and root file systems into the store.

use tokio::sync::mpsc;

use super::super::Context;
use super::super::archive::{self, Source};
use super::IMAGES;
use crate::cli::Import;
use crate::error::CtlError;
use crate::output;
use crate::resource::query;
use crate::tree::{list, plain, text};

/// Pieces of an upload that are read ahead.
const PIECES: usize = 8;

pub(super) async fn import(context: &Context, options: &Import) -> Result<(), CtlError> {
    let source = Source::open(&options.source, options.root)?;
    let path = format!("{IMAGES}{}", query(&parameters(options, source.is_root())?));
    upload(context, source, &path).await
}

/// Loads an archive of images under their own names, or its one image under another.
pub(super) async fn load(
    context: &Context,
    source: &std::path::Path,
    name: Option<&String>,
) -> Result<(), CtlError> {
    let source = Source::open(source, false)?;
    if source.is_root() {
        return Err(CtlError::Usage(
            "the folder is no OCI layout: a root file system becomes an image by image import".to_owned(),
        ));
    }
    let mut parameters = vec![("format", "archive".to_owned())];
    parameters.extend(name.map(|name| ("name", name.clone())));
    upload(context, source, &format!("{IMAGES}{}", query(&parameters))).await
}

async fn upload(context: &Context, source: Source, path: &str) -> Result<(), CtlError> {
    let (pieces, upload) = mpsc::channel(PIECES);
    let reading = tokio::task::spawn_blocking(move || archive::send(source, pieces));
    let answer = context.client.upload(path, upload).await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_may_be_a_json_list() {
        let given = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(words(&given(&["/a", "-b"])).unwrap(), ["/a", "-b"]);
        assert_eq!(words(&given(&["[\"/a b\",\"c\"]"])).unwrap(), ["/a b", "c"]);
        assert!(words(&given(&["[1"])).is_err());
    }
}
