//! Patches: JSON (RFC 6902), merge (RFC 7396), strategic merge.

mod strategic;

use serde_json::Value;

pub use strategic::strategic;

/// Why a patch could not be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is malformed.
    #[error("{0}")]
    Malformed(String),
    /// It does not fit the object.
    #[error("{0}")]
    DoesNotApply(String),
}

/// Operations in one JSON patch, as upstream.
const OPERATIONS_LIMIT: usize = 10_000;

/// Applies a JSON patch.
pub fn json(object: &mut Value, patch: &Value) -> Result<(), PatchError> {
    if patch.as_array().is_some_and(|p| p.len() > OPERATIONS_LIMIT) {
        return Err(PatchError::Malformed(format!(
            "The allowed maximum operations in a JSON patch is {OPERATIONS_LIMIT}"
        )));
    }
    let patch: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|e| PatchError::Malformed(format!("error decoding JSON patch: {e}")))?;
    json_patch::patch(object, &patch).map_err(|e| {
        PatchError::DoesNotApply(format!(
            "the server rejected our request due to an error in our request: {e}"
        ))
    })
}

/// Applies a merge patch.
pub fn merge(object: &mut Value, patch: &Value) -> Result<(), PatchError> {
    if !patch.is_object() {
        return Err(PatchError::Malformed(
            "a merge patch must be a JSON object".into(),
        ));
    }
    json_patch::merge(object, patch);
    Ok(())
}

#[cfg(test)]
mod tests;
