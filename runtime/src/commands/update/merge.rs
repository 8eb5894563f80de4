//! What a container's resources are after an update, and what of them has to be written.

use serde_json::{Map, Value};

/// Lists of the resources whose elements have a name: those of an update replace or join the present ones.
const KEYED: [(&str, &[&str]); 8] = [
    ("weightDevice", &["major", "minor"]),
    ("throttleReadBpsDevice", &["major", "minor"]),
    ("throttleWriteBpsDevice", &["major", "minor"]),
    ("throttleReadIOPSDevice", &["major", "minor"]),
    ("throttleWriteIOPSDevice", &["major", "minor"]),
    ("hugepageLimits", &["pageSize"]),
    ("priorities", &["name"]),
    // A device list is one text whose order matters: a new one replaces the old.
    ("devices", &[]),
];

/// Puts the values of an update over the present ones; what it does not name stays.
pub(super) fn merge(present: &mut Value, given: &Value) {
    let (Value::Object(present), Value::Object(given)) = (&mut *present, given) else {
        if !given.is_null() {
            *present = given.clone();
        }
        return;
    };
    for (key, value) in given {
        if value.is_null() {
            continue;
        }
        let slot = present.entry(key).or_insert(Value::Null);
        let names = KEYED
            .iter()
            .find(|(list, _)| list == key)
            .map(|(_, names)| *names);
        match (names, &mut *slot, value) {
            (Some(names), Value::Array(old), Value::Array(new)) if !names.is_empty() => {
                upsert(old, new, names);
            }
            (Some(_), ..) => *slot = value.clone(),
            (None, ..) => merge(slot, value),
        }
    }
}

fn upsert(old: &mut Vec<Value>, new: &[Value], names: &[&str]) {
    for element in new {
        let same = |known: &&mut Value| names.iter().all(|name| known.get(name) == element.get(name));
        // From the back: of duplicates the last one is in force.
        match old.iter_mut().rev().find(same) {
            Some(known) => merge(known, element),
            None => old.push(element.clone()),
        }
    }
}

/// Makes an update explicit where it means more than it says, as runc does.
pub(super) fn complete(given: &mut Map<String, Value>, merged: &mut Value) {
    // A member without its only value asks for nothing.
    if given
        .get("pids")
        .is_some_and(|pids| pids.get("limit").is_none_or(Value::is_null))
    {
        given.remove("pids");
    }
    let Some(memory) = given.get_mut("memory").and_then(Value::as_object_mut) else {
        return;
    };
    let set = |memory: &Map<String, Value>, key: &str| {
        memory
            .get(key)
            .and_then(Value::as_i64)
            .filter(|value| *value != 0)
    };
    let (limit, swap) = (set(memory, "limit"), set(memory, "swap"));
    if limit == Some(-1) && swap.is_none() {
        // Without a limit on memory there is none on both together.
        if let Some(merged) = merged["memory"].as_object_mut() {
            merged.remove("swap");
        }
        return;
    }
    // The two check each other, and v2 computes the one from the other.
    for (asked, other) in [(limit, "swap"), (swap, "limit")] {
        if asked.is_some()
            && set(memory, other).is_none()
            && let Some(value) = merged["memory"].get(other)
        {
            memory.insert(other.to_owned(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn merged(present: Value, given: &Value) -> Value {
        let mut present = present;
        merge(&mut present, given);
        present
    }

    #[test]
    fn other_values_stay() {
        let present =
            json!({"memory": {"limit": 5, "swap": 7}, "pids": {"limit": 3}, "devices": [{"allow": false}]});
        assert_eq!(
            merged(
                present.clone(),
                &json!({"memory": {"limit": 6, "reservation": null}, "cpu": {"shares": 2}})
            ),
            json!({"memory": {"limit": 6, "swap": 7}, "pids": {"limit": 3}, "devices": [{"allow": false}],
                "cpu": {"shares": 2}})
        );
        assert_eq!(merged(present.clone(), &json!({})), present);
        assert_eq!(
            merged(present, &json!({"devices": [{"allow": true}]}))["devices"],
            json!([{"allow": true}])
        );
        assert_eq!(
            merged(
                json!({"unified": {"a": "1", "b": "2"}}),
                &json!({"unified": {"b": "3"}})
            ),
            json!({"unified": {"a": "1", "b": "3"}})
        );
    }

    #[test]
    fn elements_are_found_by_their_names() {
        let rate = |major, rate| json!({"major": major, "minor": 0, "rate": rate});
        let io = |list: &[Value]| json!({"blockIO": {"throttleReadBpsDevice": list}});
        assert_eq!(
            merged(io(&[rate(8, 1), rate(9, 2)]), &io(&[rate(8, 5), rate(7, 6)])),
            io(&[rate(8, 5), rate(9, 2), rate(7, 6)])
        );
        let pages = |size: &str, limit: u64| json!({"pageSize": size, "limit": limit});
        assert_eq!(
            merged(
                json!({"hugepageLimits": [pages("2MB", 1)]}),
                &json!({"hugepageLimits": [pages("1GB", 2), pages("2MB", 3)]})
            ),
            json!({"hugepageLimits": [pages("2MB", 3), pages("1GB", 2)]})
        );
    }

    #[test]
    fn memory_and_swap_belong_together() {
        let complete = |present: Value, given: Value| {
            let mut all = present;
            merge(&mut all, &given);
            let mut given = given.as_object().unwrap().clone();
            super::complete(&mut given, &mut all);
            (Value::Object(given), all)
        };
        let both = json!({"memory": {"limit": 5, "swap": 9}});
        let (write, _) = complete(both.clone(), json!({"memory": {"limit": 6}}));
        assert_eq!(write, json!({"memory": {"limit": 6, "swap": 9}}));
        let (write, _) = complete(both.clone(), json!({"memory": {"swap": 8}}));
        assert_eq!(write, json!({"memory": {"limit": 5, "swap": 8}}));
        let (write, all) = complete(both.clone(), json!({"memory": {"limit": -1}}));
        assert_eq!(write, json!({"memory": {"limit": -1}}));
        assert_eq!(all, write);
        let (write, _) = complete(both, json!({"memory": {"reservation": 3}, "pids": {}}));
        assert_eq!(write, json!({"memory": {"reservation": 3}}));
    }
}
