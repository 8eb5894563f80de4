//! Which runtime a pod's containers run by.
//!
//! It is found when the pod is set up, and kept in its state: a RuntimeClass that is deleted, or a `berthd` that is
//! configured in another way, changes nothing of a pod that is there.

use std::path::PathBuf;

use berth_api::kinds;
use serde::{Deserialize, Serialize};

use super::Node;
use super::pod::Pod;
use crate::store::{Key, StoreError};

/// A runtime that a RuntimeClass has chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handler {
    /// Its name.
    pub name: String,
    /// The program.
    pub program: PathBuf,
}

/// Why a pod's runtime is not known.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The class has been deleted since the pod was made.
    #[error("RuntimeClass {class:?} not found: create it again")]
    Class {
        /// Its name.
        class: String,
    },
    /// Nobody has configured it.
    #[error(
        "RuntimeClass {class:?}: no runtime for handler {handler:?} is configured: start berthd with --runtime-handler {handler}=PROGRAM (configured: {})",
        if known.is_empty() { "none" } else { known.as_str() }
    )]
    Handler {
        /// Name of the class.
        class: String,
        /// The handler that it names.
        handler: String,
        /// The handlers that there are.
        known: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The handler of a pod's RuntimeClass; None for the node's own runtime.
///
/// # Errors
/// [`RuntimeError`].
pub(super) fn find(node: &Node, pod: &Pod) -> Result<Option<Handler>, RuntimeError> {
    let class = pod.spec().runtime_class_name.clone().unwrap_or_default();
    if class.is_empty() {
        return Ok(None);
    }
    let Some(stored) = node
        .store
        .get(&Key::new(kinds::RUNTIME_CLASS, "", class.as_str()))?
    else {
        return Err(RuntimeError::Class { class });
    };
    let value = stored.value();
    let handler = value["handler"].as_str().unwrap_or_default().to_owned();
    if let Some(program) = node.config.handlers.get(&handler) {
        return Ok(Some(Handler {
            name: handler,
            program: program.clone(),
        }));
    }
    let known: Vec<&str> = node.config.handlers.keys().map(String::as_str).collect();
    Err(RuntimeError::Handler {
        class,
        handler,
        known: known.join(", "),
    })
}

/// The program, and the directory of its state: each runtime has its own.
pub(super) fn program_and_root(node: &Node, handler: Option<&Handler>) -> (PathBuf, PathBuf) {
    let run = &node.config.run_dir;
    match handler {
        None => (node.config.runtime.clone(), run.join("runtime")),
        Some(handler) => (handler.program.clone(), run.join("runtimes").join(&handler.name)),
    }
}
