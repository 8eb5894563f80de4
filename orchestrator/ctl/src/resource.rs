//! Which objects a command line means, and where they are on the node.

use berth_api::kinds::{self, Kind};
use std::fmt::Write as _;

use crate::cli::Selection;
use crate::client::{Call, Client};
use crate::error::CtlError;
use crate::manifest;
use crate::tree::{list, name, namespace};
use serde_json::Value;

/// One object, or all of a kind that the selectors pick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) kind: &'static Kind,
    /// Empty for cluster-wide kinds, and for all namespaces.
    pub(crate) namespace: String,
    pub(crate) name: Option<String>,
}

/// The kind that a word means: plural, singular, short name or kind, perhaps with `.group`.
pub(crate) fn kind(text: &str) -> Result<&'static Kind, CtlError> {
    let lower = text.to_lowercase();
    let (word, group) = lower
        .split_once('.')
        .map_or((lower.as_str(), None), |(word, group)| (word, Some(group)));
    let group = group.map(|group| group.strip_prefix("v1.").unwrap_or(group));
    kinds::ALL
        .iter()
        .copied()
        .find(|kind| {
            let named = kind.plural == word
                || kind.singular == word
                || kind.short.contains(&word)
                || kind.kind.to_lowercase() == word;
            named && group.is_none_or(|group| kind.group == group)
        })
        .ok_or_else(|| CtlError::ResourceType {
            text: text.to_owned(),
        })
}

/// The kinds of `pods,deploy` or `all`.
fn kind_list(text: &str) -> Result<Vec<&'static Kind>, CtlError> {
    let mut found: Vec<&'static Kind> = Vec::new();
    for word in text.split(',').filter(|word| !word.is_empty()) {
        let category: Vec<&'static Kind> = kinds::ALL
            .iter()
            .copied()
            .filter(|kind| kind.categories.contains(&word))
            .collect();
        let these = if category.is_empty() {
            vec![kind(word)?]
        } else {
            category
        };
        for kind in these {
            if !found.contains(&kind) {
                found.push(kind);
            }
        }
    }
    if found.is_empty() {
        Err(CtlError::ResourceType {
            text: text.to_owned(),
        })
    } else {
        Ok(found)
    }
}

impl Target {
    pub(crate) fn new(kind: &'static Kind, namespace: &str, name: Option<&str>) -> Self {
        let namespace = if kind.namespaced {
            namespace.to_owned()
        } else {
            String::new()
        };
        Self {
            kind,
            namespace,
            name: name.map(str::to_owned),
        }
    }

    /// The target an object is.
    pub(crate) fn of(kind: &'static Kind, object: &Value) -> Self {
        Self::new(kind, namespace(object), Some(name(object)))
    }

    /// `/apis/apps/v1/namespaces/x/deployments/web`
    pub(crate) fn path(&self) -> String {
        let root = if self.kind.group.is_empty() {
            "/api".to_owned()
        } else {
            format!("/apis/{}", self.kind.group)
        };
        let mut path = format!("{root}/{}", self.kind.version);
        if !self.namespace.is_empty() {
            path = format!("{path}/namespaces/{}", escaped(&self.namespace));
        }
        path = format!("{path}/{}", self.kind.plural);
        if let Some(name) = &self.name {
            path = format!("{path}/{}", escaped(name));
        }
        path
    }

    /// `deployment.apps/web`
    pub(crate) fn title(&self) -> String {
        format!(
            "{}/{}",
            type_title(self.kind),
            self.name.as_deref().unwrap_or_default()
        )
    }

    /// `deployment.apps "web"`
    pub(crate) fn quoted(&self) -> String {
        format!(
            "{} {:?}",
            type_title(self.kind),
            self.name.as_deref().unwrap_or_default()
        )
    }
}

/// `deployment.apps`
pub(crate) fn type_title(kind: &Kind) -> String {
    if kind.group.is_empty() {
        kind.singular.to_owned()
    } else {
        format!("{}.{}", kind.singular, kind.group)
    }
}

/// Escapes what would end or change a part of a path or query.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b':') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// `?a=b&c=d`, empty without parameters.
pub(crate) fn query(parameters: &[(&str, String)]) -> String {
    let pairs: Vec<String> = parameters
        .iter()
        .map(|(key, value)| format!("{key}={}", escaped(value)))
        .collect();
    if pairs.is_empty() {
        String::new()
    } else {
        format!("?{}", pairs.join("&"))
    }
}

/// What a selection means, in its order. Lists are left as such: see [`expand`].
pub(crate) fn targets(selection: &Selection, default_namespace: &str) -> Result<Vec<Target>, CtlError> {
    let space = if selection.all_namespaces {
        ""
    } else {
        default_namespace
    };
    if !selection.files.is_empty() {
        if !selection.resources.is_empty() {
            return Err(CtlError::Usage(
                "give either files or resources, not both".to_owned(),
            ));
        }
        let manifests = manifest::read(&selection.files)?;
        return manifests
            .iter()
            .map(|manifest| {
                let kind = manifest.kind()?;
                Ok(Target::new(
                    kind,
                    manifest.namespace(space),
                    Some(manifest.name()?),
                ))
            })
            .collect();
    }
    let Some(first) = selection.resources.first() else {
        return Err(CtlError::Usage(
            "give a resource, such as pods, deployment/web, or -f FILE".to_owned(),
        ));
    };
    if first.contains('/') {
        return selection
            .resources
            .iter()
            .map(|word| slashed(word, space))
            .collect();
    }
    let kinds = kind_list(first)?;
    let names = &selection.resources[1..];
    if let Some(word) = names.iter().find(|word| word.contains('/')) {
        return Err(CtlError::Usage(format!(
            "{word:?}: names with a type cannot follow a type"
        )));
    }
    if names.is_empty() {
        return Ok(kinds
            .into_iter()
            .map(|kind| Target::new(kind, space, None))
            .collect());
    }
    if selection.selector.is_some() {
        return Err(CtlError::Usage(
            "give either names or a label selector, not both".to_owned(),
        ));
    }
    if selection.all_namespaces {
        return Err(CtlError::Usage(
            "an object cannot be named across all namespaces: give -n".to_owned(),
        ));
    }
    Ok(kinds
        .into_iter()
        .flat_map(|kind| names.iter().map(move |name| Target::new(kind, space, Some(name))))
        .collect())
}

fn slashed(word: &str, space: &str) -> Result<Target, CtlError> {
    match word.split_once('/') {
        Some((type_word, name)) if !name.is_empty() && !name.contains('/') => {
            Ok(Target::new(kind(type_word)?, space, Some(name)))
        }
        _ => Err(CtlError::Usage(format!("{word:?}: expected TYPE/NAME"))),
    }
}

/// Replaces lists by the objects in them.
pub(crate) async fn expand(
    client: &Client,
    targets: Vec<Target>,
    selector: Option<&str>,
) -> Result<Vec<Target>, CtlError> {
    let mut found = Vec::new();
    for target in targets {
        if target.name.is_some() {
            found.push(target);
            continue;
        }
        let parameters: Vec<(&str, String)> = selector
            .map(|selector| ("labelSelector", selector.to_owned()))
            .into_iter()
            .collect();
        let path = format!("{}{}", target.path(), query(&parameters));
        let answer = client.json(Call::get(&path)).await?;
        found.extend(
            list(&answer, "/items")
                .iter()
                .map(|object| Target::of(target.kind, object)),
        );
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(words: &[&str]) -> Selection {
        Selection {
            resources: words.iter().map(|word| (*word).to_owned()).collect(),
            files: Vec::new(),
            selector: None,
            all_namespaces: false,
        }
    }

    fn titles(words: &[&str]) -> Vec<String> {
        targets(&selection(words), "ns")
            .unwrap()
            .iter()
            .map(Target::title)
            .collect()
    }

    #[test]
    fn words_are_read_as_kubectl_reads_them() {
        for word in [
            "deploy",
            "deployment",
            "Deployments",
            "deployments.apps",
            "deployment.v1.apps",
        ] {
            assert_eq!(kind(word).unwrap(), kinds::DEPLOYMENT, "{word}");
        }
        assert!(kind("deployments.batch").is_err());
        assert_eq!(titles(&["deploy/a", "pod/b"]), ["deployment.apps/a", "pod/b"]);
        assert_eq!(titles(&["po,rs", "x"]), ["pod/x", "replicaset.apps/x"]);
        let all = kinds::ALL.iter().filter(|kind| kind.categories.contains(&"all"));
        assert_eq!(titles(&["all"]).len(), all.count());
        for wrong in [
            &["pods", "deploy/x"][..],
            &["deploy/"],
            &["deploy/a/b"],
            &["nonsense"],
            &[],
        ] {
            assert!(targets(&selection(wrong), "ns").is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn paths_cannot_be_left_by_a_name() {
        let path = |word: &str| targets(&selection(&["pod", word]), "ns").unwrap()[0].path();
        assert_eq!(path("web"), "/api/v1/namespaces/ns/pods/web");
        assert_eq!(path("a?b#c d"), "/api/v1/namespaces/ns/pods/a%3Fb%23c%20d");
        let node = targets(&selection(&["node/n"]), "ns").unwrap();
        assert_eq!(node[0].path(), "/api/v1/nodes/n");
        let deployments = targets(&selection(&["deploy"]), "ns").unwrap();
        assert_eq!(deployments[0].path(), "/apis/apps/v1/namespaces/ns/deployments");
        assert_eq!(
            query(&[("labelSelector", "a=b,c in (d)".to_owned())]),
            "?labelSelector=a%3Db%2Cc%20in%20%28d%29"
        );
    }
}
