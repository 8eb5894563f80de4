//! Manifests: YAML and JSON, one or many documents, files, folders, standard input.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use berth_api::kinds::{self, Kind};
use serde::Deserialize;
use serde_json::Value;

use crate::error::CtlError;
use crate::tree::{list, name, namespace, text};

/// One object of a manifest, and where it stood.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    pub(crate) object: Value,
    origin: String,
    number: usize,
}

impl Manifest {
    fn wrong(&self, why: impl Into<String>) -> CtlError {
        CtlError::Manifest {
            origin: self.origin.clone(),
            number: self.number,
            why: why.into(),
        }
    }

    pub(crate) fn kind(&self) -> Result<&'static Kind, CtlError> {
        let (version, kind) = (text(&self.object, "/apiVersion"), text(&self.object, "/kind"));
        if version.is_empty() || kind.is_empty() {
            return Err(self.wrong("apiVersion or kind not set"));
        }
        kinds::written(version, kind)
            .ok_or_else(|| self.wrong(format!("no matches for kind {kind:?} in version {version:?}")))
    }

    pub(crate) fn name(&self) -> Result<&str, CtlError> {
        match name(&self.object) {
            "" => Err(self.wrong("metadata.name is not set")),
            name => Ok(name),
        }
    }

    /// The object's own namespace, or the one given.
    pub(crate) fn namespace<'a>(&'a self, default: &'a str) -> &'a str {
        match namespace(&self.object) {
            "" => default,
            own => own,
        }
    }

    /// Fails if the command line asks for another namespace than the object.
    pub(crate) fn check_namespace(&self, asked: Option<&str>) -> Result<(), CtlError> {
        let own = namespace(&self.object);
        match asked {
            Some(asked) if !own.is_empty() && own != asked => Err(self.wrong(format!(
                "the namespace from the provided object {own:?} does not match the namespace {asked:?}. \
                 You must pass '--namespace={own}' to perform this operation."
            ))),
            _ => Ok(()),
        }
    }
}

/// Reads all manifests, in order; an empty result is an error.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Vec<Manifest>, CtlError> {
    let mut manifests = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            let mut input = Vec::new();
            std::io::stdin()
                .read_to_end(&mut input)
                .map_err(|source| CtlError::File {
                    path: path.clone(),
                    source,
                })?;
            parse("standard input", &input, &mut manifests)?;
        } else {
            for file in files(path)? {
                let input = fs::read(&file).map_err(|source| CtlError::File {
                    path: file.clone(),
                    source,
                })?;
                parse(&file.display().to_string(), &input, &mut manifests)?;
            }
        }
    }
    if manifests.is_empty() {
        return Err(CtlError::Usage(
            "no objects passed to apply: the files hold no manifest".to_owned(),
        ));
    }
    Ok(manifests)
}

/// The file itself, or a folder's manifests in the order of their names.
fn files(path: &Path) -> Result<Vec<PathBuf>, CtlError> {
    let failed = |source| CtlError::File {
        path: path.to_owned(),
        source,
    };
    if !fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let known = file.extension().and_then(|extension| extension.to_str());
        if file.is_file() && matches!(known, Some("yaml" | "yml" | "json")) {
            found.push(file);
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(CtlError::Usage(format!(
            "{} has no .yaml, .yml or .json file",
            path.display()
        )));
    }
    Ok(found)
}

fn parse(origin: &str, input: &[u8], manifests: &mut Vec<Manifest>) -> Result<(), CtlError> {
    for (index, document) in serde_yaml_ng::Deserializer::from_slice(input).enumerate() {
        let number = index + 1;
        let object = Value::deserialize(document).map_err(|source| CtlError::Syntax {
            origin: origin.to_owned(),
            number,
            source,
        })?;
        add(object, origin, number, manifests)?;
    }
    Ok(())
}

/// A document may be empty (between two `---`), one object, or a list of objects.
fn add(object: Value, origin: &str, number: usize, manifests: &mut Vec<Manifest>) -> Result<(), CtlError> {
    if object.is_null() {
        return Ok(());
    }
    let manifest = Manifest {
        object,
        origin: origin.to_owned(),
        number,
    };
    if !manifest.object.is_object() {
        return Err(manifest.wrong("expected an object with apiVersion, kind and metadata"));
    }
    if text(&manifest.object, "/kind").ends_with("List") && manifest.object.get("items").is_some() {
        for item in list(&manifest.object, "/items") {
            add(item.clone(), origin, number, manifests)?;
        }
        return Ok(());
    }
    manifests.push(manifest);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<Manifest>, CtlError> {
        let mut manifests = Vec::new();
        parse("file", text.as_bytes(), &mut manifests).map(|()| manifests)
    }

    #[test]
    fn documents_lists_and_json_are_read() {
        let text = "---\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: a}\n---\n# nothing\n---\n{\"apiVersion\":\"v1\",\"kind\":\"List\",\"items\":[{\"apiVersion\":\"apps/v1\",\"kind\":\"Deployment\",\"metadata\":{\"name\":\"b\",\"namespace\":\"x\"}}]}";
        let manifests = parsed(text).unwrap();
        let found: Vec<_> = manifests
            .iter()
            .map(|manifest| {
                (
                    manifest.kind().unwrap().kind,
                    manifest.name().unwrap(),
                    manifest.namespace("d"),
                )
            })
            .collect();
        assert_eq!(found, [("Secret", "a", "d"), ("Deployment", "b", "x")]);
        assert!(manifests[1].check_namespace(Some("y")).is_err());
        assert!(
            manifests[1].check_namespace(Some("x")).is_ok()
                && manifests[0].check_namespace(Some("y")).is_ok()
        );
    }

    #[test]
    fn what_is_no_manifest_is_named() {
        assert!(
            parsed("a: [")
                .unwrap_err()
                .rendered()
                .starts_with("error: file, document 1: not a manifest")
        );
        assert!(
            parsed("a: 1\n---\n- b")
                .unwrap_err()
                .to_string()
                .contains("document 2")
        );
        let manifests = parsed("kind: Pod\n---\napiVersion: v1\nkind: Nonsense").unwrap();
        assert!(
            manifests[0]
                .kind()
                .unwrap_err()
                .to_string()
                .contains("apiVersion or kind")
        );
        assert!(
            manifests[1]
                .kind()
                .unwrap_err()
                .to_string()
                .contains("no matches for kind \"Nonsense\"")
        );
        assert!(
            manifests[1]
                .name()
                .unwrap_err()
                .to_string()
                .contains("metadata.name")
        );
    }
}
