//! Where a container's cgroup goes, and who makes it: Berth itself, below a path, or systemd, as a scope.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use berth_cgroups::systemd::{Instance, Placeholder, Scope};
use berth_cgroups::{Cgroup, CgroupError, CgroupPath, Layout};
use berth_spec::{LinuxResources, Spec};

use crate::error::Error;
use crate::host::HostFacts;

/// What the command line says about cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Driver {
    /// `--systemd-cgroup`: systemd makes them.
    pub systemd: bool,
    /// `--rootless`: whether the caller is taken for somebody who may lack the right to make cgroups; found out where
    /// it is not said.
    pub rootless: Option<bool>,
}

impl Driver {
    /// Whether rights that are missing are to be expected. As with runc, of everybody but root of the initial user
    /// namespace.
    pub fn is_rootless(self, host: &HostFacts) -> bool {
        self.rootless.unwrap_or_else(|| host.rootless())
    }
}

/// Where a container's cgroup is to be. Checked; nothing was made.
#[derive(Debug)]
pub enum Placement {
    /// A path in every hierarchy.
    Path {
        /// The path.
        path: CgroupPath,
        /// It was not asked for, and this user may not be allowed to have it: then there is none, as long as no
        /// limit needs it.
        optional: bool,
    },
    /// A scope of systemd's.
    Scope(Box<Scope>),
}

impl Placement {
    /// Reads `linux.cgroupsPath` and the annotations of `spec`.
    pub fn new(spec: &Spec, id: &str, driver: Driver, host: &HostFacts) -> Result<Self, Error> {
        let rootless = driver.is_rootless(host);
        let linux = spec.linux().as_ref();
        let configured = linux.and_then(|linux| linux.cgroups_path().as_deref());
        if driver.systemd {
            let annotations: BTreeMap<String, String> = spec
                .annotations()
                .iter()
                .flatten()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            let instance = if rootless {
                Instance::User
            } else {
                Instance::System
            };
            let scope = Scope::new(configured, id, &annotations, instance).map_err(CgroupError::from)?;
            return Ok(Self::Scope(Box::new(scope)));
        }
        Ok(Self::Path {
            path: CgroupPath::for_container(configured, id)?,
            optional: rootless && configured.is_none_or(|path| path == Path::new("")),
        })
    }

    /// Makes the cgroup. A placeholder must live until the container's process is in it.
    pub fn make(
        &self,
        layout: &Layout,
        id: &str,
        resources: &LinuxResources,
    ) -> Result<(Cgroup, Option<Placeholder>), Error> {
        match self {
            Self::Path { path, optional } => {
                let cgroup = if *optional {
                    Cgroup::create_if_allowed(layout, path)?
                } else {
                    Cgroup::create(layout, path)?
                };
                Ok((cgroup, None))
            }
            Self::Scope(scope) => {
                let description = format!("berth container {id}");
                let (cgroup, placeholder) = Cgroup::create_scope(layout, scope, &description, resources)?;
                Ok((cgroup, Some(placeholder)))
            }
        }
    }

    /// The directories it would have in each hierarchy, as far as that can be known before it is made.
    pub fn paths(&self, layout: &Layout) -> Result<BTreeMap<String, PathBuf>, Error> {
        match self {
            Self::Path { path, .. } => Ok(Cgroup::open(layout, path)?.paths()),
            Self::Scope(scope) => Ok(scope.paths(layout)),
        }
    }

    /// The cgroup that a create which did not come to its end may have left; `None` if there is none.
    pub fn find(&self, layout: &Layout) -> Result<Option<Cgroup>, Error> {
        match self {
            Self::Path { path, optional } => match Cgroup::open(layout, path) {
                Ok(cgroup) => Ok(Some(cgroup)),
                // There never was one that could be seen.
                Err(_) if *optional => Ok(None),
                Err(error) => Err(error.into()),
            },
            Self::Scope(scope) => Ok(Cgroup::of_unit(layout, scope.unit())?),
        }
    }
}
