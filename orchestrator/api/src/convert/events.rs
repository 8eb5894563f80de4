//! events.k8s.io/v1 and core/v1 of an Event (upstream `pkg/apis/events/v1/conversion.go`): only names differ.

use serde_json::{Value, json};

/// Name in events.k8s.io/v1, name in core/v1.
const NAMES: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn rename(object: &mut Value, names: impl Iterator<Item = (&'static str, &'static str)>) {
    let Some(members) = object.as_object_mut() else {
        return;
    };
    for (from, to) in names {
        if let Some(value) = members.remove(from) {
            members.insert(to.to_owned(), value);
        }
    }
}

/// An events.k8s.io/v1 object as core/v1.
pub fn to_core(mut object: Value) -> Value {
    object["apiVersion"] = json!("v1");
    rename(&mut object, NAMES.into_iter());
    object
}

/// A stored object as events.k8s.io/v1.
pub fn from_core(mut object: Value) -> Value {
    object["apiVersion"] = json!("events.k8s.io/v1");
    rename(&mut object, NAMES.into_iter().map(|(new, old)| (old, new)));
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Type;

    #[test]
    fn there_and_back() {
        let new = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e", "namespace": "d"},
            "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal", "reason": "Done", "action": "Doing",
            "note": "it is done", "regarding": {"kind": "Pod", "name": "p"}, "reportingController": "c",
            "reportingInstance": "i", "series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"},
            "deprecatedCount": 2, "deprecatedSource": {"component": "c"},
            "deprecatedFirstTimestamp": null, "deprecatedLastTimestamp": "2026-01-01T00:00:01Z",
        });
        let stored = to_core(new.clone());
        assert_eq!(stored["apiVersion"], "v1");
        assert_eq!(stored["message"], "it is done");
        assert_eq!(stored["involvedObject"]["name"], "p");
        assert_eq!(from_core(stored), new);
    }

    /// What is not renamed has the same name in both, and nothing is left over.
    #[test]
    fn every_field_has_its_name_in_both() {
        let (new, core) = (Type::named("EventsEvent").unwrap(), Type::named("Event").unwrap());
        for field in new.fields() {
            let named = NAMES.iter().find(|(n, _)| *n == field.name);
            let name = named.map_or(field.name, |(_, core)| core);
            assert!(core.field(name).is_some(), "{name}");
        }
        assert_eq!(new.fields().count(), core.fields().count());
    }
}
