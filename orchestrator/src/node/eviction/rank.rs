//! PURE: which pod goes first.
//!
//! Source: kubelet `pkg/kubelet/eviction/helpers.go`: who uses more than was asked for, then the least important, then who
//! uses most beyond what was asked for.

use std::fmt::Write as _;

use super::threshold::{Crossed, Signal, shown};

/// A pod that runs, and what it uses of the resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumer {
    /// Its uid.
    pub uid: String,
    /// `spec.priority`.
    pub priority: i64,
    /// What it asked for.
    pub request: u64,
    /// What it uses.
    pub usage: u64,
    /// Its containers: name, what each uses, and what each asked for.
    pub containers: Vec<(String, u64, u64)>,
}

/// The pods in the order in which they go.
pub fn rank(signal: Signal, mut pods: Vec<Consumer>) -> Vec<Consumer> {
    // Nobody asks for processes or inodes.
    let counts = !matches!(signal, Signal::Pids);
    let exceeds = |pod: &Consumer| counts && pod.usage > pod.request;
    let beyond = |pod: &Consumer| i128::from(pod.usage) - if counts { i128::from(pod.request) } else { 0 };
    pods.sort_by(|a, b| {
        exceeds(b)
            .cmp(&exceeds(a))
            .then_with(|| a.priority.cmp(&b.priority))
            .then_with(|| beyond(b).cmp(&beyond(a)))
            .then_with(|| a.uid.cmp(&b.uid))
    });
    pods
}

/// The text for the pod and its event, in kubelet's words.
pub fn message(crossed: &Crossed, pod: &Consumer) -> String {
    let signal = crossed.signal;
    let mut text = format!(
        "The node was low on resource: {}. Threshold quantity: {}, available: {}. ",
        signal.resource(),
        shown(signal, crossed.bound),
        shown(signal, crossed.available)
    );
    for (name, usage, request) in &pod.containers {
        if usage > request {
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "Container {name} was using {}, request is {}, has larger consumption of {}. ",
                shown(signal, *usage),
                if *request == 0 {
                    "0".to_owned()
                } else {
                    shown(signal, *request)
                },
                signal.resource()
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_goes_first() {
        let pod = |uid: &str, priority, request, usage| Consumer {
            uid: uid.into(),
            priority,
            request,
            usage,
            containers: vec![("c".into(), usage, request)],
        };
        let pods = vec![
            pod("modest", 0, 100, 90),
            pod("important", 10, 0, 500),
            pod("greedy", 0, 100, 300),
            pod("greedier", 0, 0, 250),
        ];
        let order =
            |signal| -> Vec<String> { rank(signal, pods.clone()).into_iter().map(|p| p.uid).collect() };
        assert_eq!(
            order(Signal::Memory),
            ["greedier", "greedy", "important", "modest"]
        );
        assert_eq!(order(Signal::Pids), ["greedy", "greedier", "modest", "important"]);
        let crossed = Crossed {
            signal: Signal::Memory,
            bound: 100 << 20,
            available: 50 << 20,
            hard: true,
        };
        assert_eq!(
            message(&crossed, &pod("p", 0, 0, 2048)),
            "The node was low on resource: memory. Threshold quantity: 102400Ki, available: 51200Ki. Container c was using 2Ki, request is 0, has larger consumption of memory. "
        );
    }
}
