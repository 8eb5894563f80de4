//! `state`: prints what a container is, in runc's JSON.

use std::collections::BTreeMap;
use std::path::Path;

use clap::Args;
use serde::Serialize;

use super::{Context, ExitCode};
use crate::container::Container;
use crate::error::Error;
use crate::state::Status;

/// Output the state of a container
#[derive(Debug, Args)]
pub(super) struct StateArgs {
    /// The container's id
    #[arg(value_name = "CONTAINER-ID")]
    ids: Vec<String>,
}

/// The document of `state` and an element of `list --format json`: runc's fields in runc's order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document<'a> {
    pub(super) oci_version: &'a str,
    pub(super) id: &'a str,
    pub(super) pid: i32,
    pub(super) status: Status,
    pub(super) bundle: &'a Path,
    pub(super) rootfs: &'a Path,
    pub(super) created: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: &'a BTreeMap<String, String>,
    pub(super) owner: &'a str,
}

impl<'a> Document<'a> {
    /// Describes a container now. runc fills in the owner in lists only.
    pub(super) fn of(container: &'a Container, owner: &'a str) -> Result<Self, Error> {
        let status = container.status()?;
        let record = &container.record;
        Ok(Self {
            oci_version: &record.oci_version,
            id: &record.id,
            pid: if status == Status::Stopped { 0 } else { record.pid },
            status,
            bundle: &record.bundle,
            rootfs: &record.rootfs,
            created: &record.created,
            annotations: &record.annotations,
            owner,
        })
    }
}

pub(super) fn run(context: &Context, args: &StateArgs) -> Result<ExitCode, Error> {
    let container = Container::load(&context.root, &super::one_id("state", &args.ids)?)?;
    let json = serde_json::to_string_pretty(&Document::of(&container, "")?)
        .map_err(|source| Error::Json { source })?;
    super::print(super::go_json(&json).as_bytes())
}
