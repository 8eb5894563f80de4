//! Kinds of the group `autoscaling`.

use super::{Alias, Kind, Subresource};
use crate::convert;

const fn hpa(version: &'static str, subresources: &'static [Subresource]) -> Kind {
    Kind {
        group: "autoscaling",
        version,
        kind: "HorizontalPodAutoscaler",
        plural: "horizontalpodautoscalers",
        singular: "horizontalpodautoscaler",
        short: &["hpa"],
        namespaced: true,
        categories: &["all"],
        subresources,
        writable: true,
        generations: true,
    }
}

const fn status(version: &'static str) -> Subresource {
    Subresource {
        name: "status",
        group: "autoscaling",
        version,
        kind: "HorizontalPodAutoscaler",
        verbs: &["get", "patch", "update"],
    }
}

/// autoscaling/v2 HorizontalPodAutoscaler.
pub const HORIZONTAL_POD_AUTOSCALER: &Kind = &hpa("v2", &[status("v2")]);

const HORIZONTAL_POD_AUTOSCALER_V1: &Kind = &hpa("v1", &[status("v1")]);

/// autoscaling/v1: processor time only, of the same objects.
pub(super) const V1: &Alias = &Alias {
    kind: HORIZONTAL_POD_AUTOSCALER_V1,
    stored: HORIZONTAL_POD_AUTOSCALER,
    schema: "HorizontalPodAutoscalerV1",
    to_stored: convert::autoscaling::to_v2,
    from_stored: convert::autoscaling::to_v1,
    selectable: &[],
    check: |_, _| Vec::new(),
};
