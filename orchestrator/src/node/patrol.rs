//! Looks at the pods' attachments from time to time, so that rules that somebody else has flushed come back.
//!
//! Each look costs three or four short processes and no write, whatever the number of pods.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::network::Finding;
use super::{Node, blocking};
use crate::events::ObjectRef;

/// Verifies and repairs until shutdown.
pub(super) async fn run(node: Arc<Node>, every: Duration, mut shutdown: watch::Receiver<bool>) {
    // What could not be repaired is said once, not at each look.
    let mut broken: BTreeMap<String, String> = BTreeMap::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
        let shared = Arc::clone(&node);
        let findings = blocking(move || shared.network.patrol())
            .await
            .unwrap_or_default();
        for finding in findings {
            report(&node, &mut broken, finding);
        }
    }
}

fn report(node: &Node, broken: &mut BTreeMap<String, String>, finding: Finding) {
    let about = ObjectRef {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        namespace: finding.namespace,
        name: finding.name,
        uid: finding.uid,
        resource_version: String::new(),
        field_path: String::new(),
    };
    match finding.repaired {
        Ok(()) => {
            broken.remove(&about.uid);
            tracing::info!(
                pod = about.name,
                namespace = about.namespace,
                "repaired the pod's network"
            );
            let message = "Parts of the pod's network on the host were missing, and were put back";
            node.event(about, false, "NetworkRepaired", message);
        }
        Err(problem) => {
            if broken.get(&about.uid) == Some(&problem) {
                return;
            }
            tracing::warn!(
                pod = about.name,
                namespace = about.namespace,
                problem,
                "the pod's network is broken and cannot be repaired in place"
            );
            let message = format!("{problem}; `berthctl net repair --reattach` or a new pod makes it anew");
            broken.insert(about.uid.clone(), problem);
            node.event(about, true, "NetworkBroken", &message);
        }
    }
}
