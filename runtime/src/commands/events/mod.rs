//! `events`: what a container uses, again and again, and when it runs out of memory.

mod document;

use std::io::{self, Write};
use std::time::Instant;

use berth_cgroups::Announced;
use clap::Args;
use serde::Serialize;

use super::{Context, ExitCode, duration};
use crate::container::{Container, ContainerError};
use crate::error::{ArgumentError, Error};
use crate::log;
use crate::state::Status;
use document::Document;

/// Display container events such as OOM notifications, cpu, memory, and IO usage statistics
///
/// The events command displays information about the container. By default the information is displayed once every
/// 5 seconds. It ends when the container has stopped.
#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// Set the stats collection interval
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    interval: String,
    /// Display the container's stats then exit
    #[arg(long)]
    stats: bool,
    /// The container's id
    #[arg(value_name = "CONTAINER-ID")]
    ids: Vec<String>,
}

/// One line of output.
#[derive(Debug, Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Document>,
}

pub(super) fn run(context: &Context, args: &EventsArgs) -> Result<ExitCode, Error> {
    let id = super::one_id("events", &args.ids)?;
    let container = Container::load(&context.root, &id)?;
    let interval = duration::parse(&args.interval).ok_or_else(|| ArgumentError::Interval {
        text: args.interval.clone(),
    })?;
    if interval.is_zero() {
        return Err(ArgumentError::NoInterval.into());
    }
    if container.status()? == Status::Stopped {
        return Err(ContainerError::Stopped { id: id.to_string() }.into());
    }
    if args.stats {
        write(&stats(&container)?)?;
        return Ok(0);
    }
    let mut watch = container.cgroup().watch_oom()?;
    if !watch.sees_memory() {
        log::warn("this host has no memory controller: a lack of memory will not be reported");
    }
    let mut next = Instant::now() + interval;
    loop {
        let announced = watch
            .wait(next)
            .map_err(|errno| ContainerError::Watch { source: errno.into() })?;
        let event = match announced {
            Announced::Ended => return Ok(0),
            Announced::OutOfMemory => Event {
                kind: "oom",
                id: &container.record.id,
                data: None,
            },
            Announced::Nothing => {
                // Late ticks are not caught up with.
                next = (next + interval).max(Instant::now());
                match stats(&container) {
                    Ok(event) => event,
                    // It may be ending: then the next look at it will say so.
                    Err(error) => {
                        log::error(&error.chain());
                        continue;
                    }
                }
            }
        };
        if !write(&event)? {
            return Ok(0);
        }
    }
}

fn stats(container: &Container) -> Result<Event<'_>, Error> {
    let counters = container
        .cgroup()
        .stats()
        .map_err(|source| ContainerError::Stats { source })?;
    let shares = match &container.record.intel_rdt {
        Some(group) => group.stats()?,
        None => crate::resctrl::Stats::default(),
    };
    Ok(Event {
        kind: "stats",
        id: &container.record.id,
        data: Some(Document::new(counters, shares)),
    })
}

/// Writes a line at once; false when nobody reads any more.
fn write(event: &Event<'_>) -> Result<bool, Error> {
    let json = serde_json::to_string(event).map_err(|source| Error::Json { source })?;
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(format!("{json}\n").as_bytes())
        .and_then(|()| stdout.flush())
    {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(source) => Err(Error::Output { source }),
    }
}
