//! Validation of `dnsPolicy` and `dnsConfig` (`k8s.io/kubernetes/pkg/apis/core/validation`, `validatePodDNSConfig`).

use std::net::IpAddr;

use serde_json::Value;

use super::field::{Errors, Path, each, text};
use super::names;

/// What libc reads.
const SERVERS: usize = 3;
const SEARCHES: usize = 32;
const SEARCH_LENGTH: usize = 2048;

pub(super) fn validate(at: &Path, spec: &Value, errors: &mut Errors) {
    errors.one_of(
        &at.child("dnsPolicy"),
        spec.get("dnsPolicy"),
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    let config = spec.get("dnsConfig").filter(|config| !config.is_null());
    let at = at.child("dnsConfig");
    let none = text(spec, "dnsPolicy") == "None";
    let Some(config) = config else {
        if none {
            errors.required(&at, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        return;
    };
    let servers = at.child("nameservers");
    let count = each(config, "nameservers").count();
    if none && count == 0 {
        errors.required(
            &servers,
            "must provide at least one DNS nameserver when `dnsPolicy` is None",
        );
    }
    if count > SERVERS {
        let detail = format!("must not have more than {SERVERS} nameservers");
        errors.invalid(&servers, &config["nameservers"], &detail);
    }
    for (index, server) in each(config, "nameservers") {
        if server.as_str().is_none_or(|text| text.parse::<IpAddr>().is_err()) {
            errors.invalid(&servers.index(index), server, "must be a valid IP address");
        }
    }
    searches(&at.child("searches"), config, errors);
    for (index, option) in each(config, "options") {
        if text(option, "name").is_empty() {
            errors.required(&at.child("options").index(index), "must not be empty");
        }
    }
}

fn searches(at: &Path, config: &Value, errors: &mut Errors) {
    let all: Vec<&str> = each(config, "searches")
        .map(|(_, search)| search.as_str().unwrap_or_default())
        .collect();
    if all.len() > SEARCHES {
        let detail = format!("must not have more than {SEARCHES} search paths");
        errors.invalid(at, &config["searches"], &detail);
    }
    if all.join(" ").len() > SEARCH_LENGTH {
        let detail = format!(
            "must not have more than {SEARCH_LENGTH} characters (including spaces) in the search list"
        );
        errors.invalid(at, &config["searches"], &detail);
    }
    for (index, search) in all.iter().enumerate() {
        if *search == "." {
            continue;
        }
        // Underscores are in names of SRV records, and in search paths of people who look for those.
        let checked = search.trim_end_matches('.').replace('_', "-");
        let checked = checked.trim_start_matches('-');
        for wrong in names::dns_subdomain(checked) {
            errors.invalid_text(&at.index(index), search, &wrong);
        }
    }
}
