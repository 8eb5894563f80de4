//! Quality-of-service class of a pod.
//!
//! Source: Kubernetes documentation "Pod Quality of Service Classes".

use serde_json::Value;

use crate::quantity::Quantity;

/// `Guaranteed`, `Burstable` or `BestEffort`, from the CPU and memory of all containers.
pub fn class(pod: &Value) -> &'static str {
    let spec = pod.get("spec");
    let containers: Vec<&Value> = ["initContainers", "containers"]
        .iter()
        .filter_map(|list| spec?.get(list)?.as_array())
        .flatten()
        .collect();
    let amount = |container: &Value, which: &str, name: &str| -> Option<Quantity> {
        let text = container.get("resources")?.get(which)?.get(name)?.as_str()?;
        text.parse().ok().filter(|q: &Quantity| q.milli() > 0)
    };
    let mut any = false;
    let mut guaranteed = !containers.is_empty();
    for container in containers {
        for name in ["cpu", "memory"] {
            let limit = amount(container, "limits", name);
            let request = amount(container, "requests", name).or(limit);
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && request == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes() {
        let cases = [
            (json!([{}]), "BestEffort"),
            (json!([{"resources": {"requests": {"cpu": "1"}}}]), "Burstable"),
            (
                json!([{"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]),
                "Guaranteed",
            ),
            (
                json!([{"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}, {}]),
                "Burstable",
            ),
            (
                json!([{"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}}]),
                "Burstable",
            ),
        ];
        for (containers, expected) in cases {
            assert_eq!(class(&json!({"spec": {"containers": containers}})), expected);
        }
    }
}
