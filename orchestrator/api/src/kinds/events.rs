//! The group `events.k8s.io`.

use super::{Alias, EVENT, Kind};
use crate::{convert, validate};

/// events.k8s.io/v1: the same events with newer names of their fields.
pub(super) const V1: &Alias = &Alias {
    kind: &Kind {
        group: "events.k8s.io",
        version: "v1",
        kind: "Event",
        plural: "events",
        singular: "event",
        short: &["ev"],
        namespaced: true,
        categories: &[],
        subresources: &[],
        writable: true,
        generations: false,
    },
    stored: EVENT,
    schema: "EventsEvent",
    to_stored: convert::events::to_core,
    from_stored: convert::events::from_core,
    // Upstream `pkg/apis/events/v1` AddFieldLabelConversionsForEvent.
    selectable: &[
        ("reason", "reason"),
        ("regarding.kind", "involvedObject.kind"),
        ("regarding.namespace", "involvedObject.namespace"),
        ("regarding.name", "involvedObject.name"),
        ("regarding.uid", "involvedObject.uid"),
        ("regarding.apiVersion", "involvedObject.apiVersion"),
        ("regarding.resourceVersion", "involvedObject.resourceVersion"),
        ("regarding.fieldPath", "involvedObject.fieldPath"),
        ("reportingController", "reportingComponent"),
        ("type", "type"),
    ],
    check: validate::strict_event,
};
