//! Validation of Namespace.

use serde_json::Value;

use super::field::{Errors, Path, each};
use super::names;

pub(super) fn validate(object: &Value, errors: &mut Errors) {
    let Some(spec) = object.get("spec") else { return };
    for (index, finalizer) in each(spec, "finalizers") {
        let finalizer = finalizer.as_str().unwrap_or_default();
        let at = Path::root("spec").child("finalizers").index(index);
        if finalizer != "kubernetes" && !finalizer.contains('/') {
            errors.invalid_text(
                &at,
                finalizer,
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
        for wrong in names::qualified_name(finalizer) {
            errors.invalid_text(&at, finalizer, &wrong);
        }
    }
}
