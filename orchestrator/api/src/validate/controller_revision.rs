//! Validation of ControllerRevision (upstream `ValidateControllerRevision`).

use serde_json::Value;

use super::field::{Errors, Path};

pub(super) fn validate(object: &Value, errors: &mut Errors) {
    if object.get("data").is_none_or(Value::is_null) {
        errors.required(&Path::root("data"), "data is mandatory");
    }
    errors.not_negative(&Path::root("revision"), object.get("revision"));
}
