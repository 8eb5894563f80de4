//! Kinds of the group `batch`.

use super::{Kind, status_of};

/// batch/v1 CronJob.
pub const CRON_JOB: &Kind = &Kind {
    group: "batch",
    version: "v1",
    kind: "CronJob",
    plural: "cronjobs",
    singular: "cronjob",
    short: &["cj"],
    namespaced: true,
    categories: &["all"],
    subresources: &[status_of("batch", "CronJob")],
    writable: true,
    generations: true,
};

/// batch/v1 Job.
pub const JOB: &Kind = &Kind {
    group: "batch",
    version: "v1",
    kind: "Job",
    plural: "jobs",
    singular: "job",
    short: &[],
    namespaced: true,
    categories: &["all"],
    subresources: &[status_of("batch", "Job")],
    writable: true,
    generations: true,
};
