//! Who may do what: RBAC's kinds, and the questions that are asked and answered, never stored.

use super::{Kind, Subresource};

const RBAC: &str = "rbac.authorization.k8s.io";

const fn rbac(kind: &'static str, plural: &'static str, singular: &'static str, namespaced: bool) -> Kind {
    Kind {
        group: RBAC,
        version: "v1",
        kind,
        plural,
        singular,
        short: &[],
        namespaced,
        categories: &[],
        subresources: &[],
        writable: true,
        generations: false,
    }
}

/// rbac.authorization.k8s.io/v1 ClusterRole.
pub const CLUSTER_ROLE: &Kind = &rbac("ClusterRole", "clusterroles", "clusterrole", false);
/// rbac.authorization.k8s.io/v1 ClusterRoleBinding.
pub const CLUSTER_ROLE_BINDING: &Kind = &rbac(
    "ClusterRoleBinding",
    "clusterrolebindings",
    "clusterrolebinding",
    false,
);
/// rbac.authorization.k8s.io/v1 Role.
pub const ROLE: &Kind = &rbac("Role", "roles", "role", true);
/// rbac.authorization.k8s.io/v1 RoleBinding.
pub const ROLE_BINDING: &Kind = &rbac("RoleBinding", "rolebindings", "rolebinding", true);

/// The token of a ServiceAccount.
pub(super) const TOKEN: Subresource = Subresource {
    name: "token",
    group: "authentication.k8s.io",
    version: "v1",
    kind: "TokenRequest",
    verbs: &["create"],
};

const fn review(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    namespaced: bool,
) -> Kind {
    Kind {
        group,
        version: "v1",
        kind,
        plural,
        singular,
        short: &[],
        namespaced,
        categories: &[],
        subresources: &[],
        writable: false,
        generations: false,
    }
}

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

/// Kinds that are created to be answered, in the order of discovery.
pub static REVIEWS: &[&Kind] = &[
    &review(
        AUTHENTICATION,
        "SelfSubjectReview",
        "selfsubjectreviews",
        "selfsubjectreview",
        false,
    ),
    &review(
        AUTHENTICATION,
        "TokenReview",
        "tokenreviews",
        "tokenreview",
        false,
    ),
    &review(
        AUTHORIZATION,
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        "localsubjectaccessreview",
        true,
    ),
    &review(
        AUTHORIZATION,
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        "selfsubjectaccessreview",
        false,
    ),
    &review(
        AUTHORIZATION,
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        "selfsubjectrulesreview",
        false,
    ),
    &review(
        AUTHORIZATION,
        "SubjectAccessReview",
        "subjectaccessreviews",
        "subjectaccessreview",
        false,
    ),
];
