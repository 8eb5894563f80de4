//! Policies and entrances of the network: kept for those who bring them along, and not enforced.

use super::{Kind, status_of};

/// networking.k8s.io/v1 Ingress.
pub const INGRESS: &Kind = &Kind {
    group: "networking.k8s.io",
    version: "v1",
    kind: "Ingress",
    plural: "ingresses",
    singular: "ingress",
    short: &["ing"],
    namespaced: true,
    categories: &[],
    subresources: &[status_of("networking.k8s.io", "Ingress")],
    writable: true,
    generations: true,
};

/// networking.k8s.io/v1 NetworkPolicy.
pub const NETWORK_POLICY: &Kind = &Kind {
    group: "networking.k8s.io",
    version: "v1",
    kind: "NetworkPolicy",
    plural: "networkpolicies",
    singular: "networkpolicy",
    short: &["netpol"],
    namespaced: true,
    categories: &[],
    subresources: &[],
    writable: true,
    generations: true,
};

impl Kind {
    /// What a user has to know who thinks that an object of this kind does something.
    pub fn caution(&self) -> Option<&'static str> {
        match self.kind {
            "NetworkPolicy" => Some(
                "NetworkPolicy is stored but not enforced by this node: the pods it selects can be reached, and reach others, as without it",
            ),
            "Ingress" => Some(
                "Ingress is stored but not enforced by this node: nothing serves its hosts and paths unless an ingress controller is deployed; a Service of type LoadBalancer or NodePort is reached from outside",
            ),
            _ => None,
        }
    }
}
