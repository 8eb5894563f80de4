//! Defaults of Secret.

use serde_json::{Value, json};

use super::default;

pub(super) fn secret(object: &mut Value) {
    default(object, "type", "Opaque");
    fold_string_data(object);
}

/// `stringData` is write-only: it is folded into `data`, over what is there.
fn fold_string_data(object: &mut Value) {
    let Some(Value::Object(text)) = object.as_object_mut().and_then(|o| o.remove("stringData")) else {
        return;
    };
    if text.is_empty() {
        return;
    }
    default(object, "data", json!({}));
    for (name, value) in text {
        object["data"][name] = Value::String(crate::base64::encode(value.as_str().unwrap_or_default()));
    }
}
