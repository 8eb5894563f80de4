//! What is asked of systemd over a container's life.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use berth_spec::LinuxResources;
use berth_sys::socket;
use berth_sys::spawn::{self, Request, Spawned};
use nix::errno::Errno;

use super::connection::{Connection, Instance};
use super::error::SystemdError;
use super::message::Value;
use super::properties::{self, LIST, Property};
use super::unit::{Place, Unit};
use super::{annotations, devices};
use crate::devices::effective;
use crate::resources::{Home, parts, unified};
use crate::write::Write;
use crate::{Cgroup, CgroupError, CgroupPath, Layout};

/// crun's annotation for a cgroup below the scope, in which the container then is.
const SUBGROUP: &str = "run.oci.systemd.subgroup";
/// What systemd is told to count, whatever is limited.
const ACCOUNTING: [&str; 4] = [
    "MemoryAccounting",
    "CPUAccounting",
    "IOAccounting",
    "TasksAccounting",
];
/// Versions before this one have none of the properties that are marked with a version.
const OLD: u32 = 239;

/// What a container's scope is to be: its name and slice, and the properties that annotations ask for. Checked.
#[derive(Debug, Clone)]
pub struct Scope {
    place: Place,
    annotated: Vec<Property>,
    subgroup: Option<String>,
}

impl Scope {
    /// Checks the configuration of the container `id`. Without `configured`, the unit is `berth-ID.scope` in
    /// `system.slice`, or in `user.slice` of the user's own manager.
    ///
    /// # Errors
    /// [`SystemdError`] for a path that is not in systemd's form, and for annotations that are none.
    pub fn new(
        configured: Option<&Path>,
        id: &str,
        annotations: &BTreeMap<String, String>,
        instance: Instance,
    ) -> Result<Self, SystemdError> {
        let text = configured.map(Path::to_string_lossy).unwrap_or_default();
        let refused = || SystemdError::Path {
            path: text.clone().into_owned(),
        };
        let path = match text.as_ref() {
            "" => None,
            text => match CgroupPath::parse(text) {
                Ok(CgroupPath::Systemd(path)) => Some(path),
                _ => return Err(refused()),
            },
        };
        let subgroup = annotations.get(SUBGROUP).filter(|name| !name.is_empty()).cloned();
        if let Some(name) = &subgroup
            && (name.contains(['/', '\0', '\n']) || name == "." || name == "..")
        {
            return Err(SystemdError::Annotation {
                key: SUBGROUP.to_owned(),
                reason: format!("{name:?} is not the name of one cgroup"),
            });
        }
        Ok(Self {
            place: Place::new(path.as_ref(), id, instance)?,
            annotated: annotations::properties(annotations)?,
            subgroup,
        })
    }

    /// Its unit.
    pub fn unit(&self) -> &Unit {
        &self.place.unit
    }

    /// Where the system's systemd will make it: `a-b.slice` lies in `a.slice`. What [`Cgroup::create_scope`] makes is
    /// where systemd says it is.
    pub fn paths(&self, layout: &Layout) -> BTreeMap<String, PathBuf> {
        let mut path = PathBuf::from("/");
        let levels = self.place.slice.trim_end_matches(".slice");
        for (at, _) in levels.match_indices('-').filter(|_| levels != "-") {
            path.push(format!("{}.slice", &levels[..at]));
        }
        if levels != "-" {
            path.push(&self.place.slice);
        }
        path.push(&self.place.unit.name);
        let group = Cgroup::located(layout, &path).map(|group| match &self.subgroup {
            Some(name) => group.below(name),
            None => group,
        });
        group.map(|group| group.paths()).unwrap_or_default()
    }
}

/// A process that keeps a new scope alive until the container's own is in it: systemd makes no scope without one, and
/// removes an empty one. It ends with this value.
#[derive(Debug)]
pub struct Placeholder {
    process: Option<Spawned>,
    /// When this is closed, by whatever end of this program, the process ends.
    _held: OwnedFd,
}

impl Placeholder {
    /// A process that waits and does nothing.
    fn new() -> Result<Self, CgroupError> {
        let fail = |source: std::io::Error| {
            CgroupError::io("make a process for a new scope in", "/")(
                source.raw_os_error().map_or(Errno::EIO, Errno::from_raw),
            )
        };
        let (ours, theirs) = socket::pair().map_err(fail)?;
        let request = Request {
            namespaces: 0,
            joins: &[],
            helper_user: false,
            helper_time: false,
            network: None,
            cgroup: None,
            sync: theirs.as_fd(),
            // Never executed.
            program: theirs.as_fd(),
            wait: true,
            become_root: false,
            first_private: 3,
            inherit: &[],
        };
        let made = spawn::spawn(&request, ours.as_fd(), |_, _| Ok(()));
        let spawned = made.map_err(|failure| fail(failure.source))?;
        Ok(Self {
            process: Some(spawned),
            _held: ours,
        })
    }

    fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, |spawned| spawned.pid() as u32)
    }
}

impl Drop for Placeholder {
    fn drop(&mut self) {
        if let Some(spawned) = self.process.take() {
            spawned.abort();
        }
    }
}

fn flag(name: &str, value: bool) -> Property {
    Property::new(name, Value::Bool(value))
}

fn list(properties: &[Property]) -> Value {
    Value::Array(
        LIST.to_owned(),
        properties.iter().map(Property::argument).collect(),
    )
}

/// Whether systemd refused with the error `name` of its own.
fn is(error: &SystemdError, wanted: &str) -> bool {
    matches!(error, SystemdError::Refused { name, .. }
        if name.strip_prefix("org.freedesktop.systemd1.") == Some(wanted))
}

impl Cgroup {
    /// Has systemd make a scope for a container with `resources`, and takes the scope's cgroup, in all hierarchies.
    /// The container's process must be in it before the placeholder is dropped.
    ///
    /// # Errors
    /// [`CgroupError`]; the scope is then gone again.
    pub fn create_scope(
        layout: &Layout,
        scope: &Scope,
        description: &str,
        resources: &LinuxResources,
    ) -> Result<(Self, Placeholder), CgroupError> {
        let place = &scope.place;
        let wanted = scope.properties(resources, layout.is_unified(), description)?;
        let mut connection = Connection::open(place.unit.instance)?;
        let wanted = supported(&mut connection, wanted)?;
        let placeholder = Placeholder::new()?;
        let pids = Value::Array("u".to_owned(), vec![Value::Uint32(placeholder.pid())]);
        let mut all = vec![Property::new("PIDs", pids)];
        all.extend(wanted);
        start(&mut connection, &place.unit, &all)?;
        match Self::adopt(layout, scope, &mut connection, &placeholder) {
            Ok(group) => Ok((group, placeholder)),
            Err(error) => {
                drop(placeholder);
                // Best effort: the error that led here is the one to tell.
                let _ = stop(&mut connection, &place.unit);
                Err(error)
            }
        }
    }

    /// The cgroup of a scope that was just made.
    fn adopt(
        layout: &Layout,
        scope: &Scope,
        connection: &mut Connection,
        placeholder: &Placeholder,
    ) -> Result<Self, CgroupError> {
        let unit = &scope.place.unit;
        let own = control_group(connection, unit)?;
        let missing = |path: &Path| {
            CgroupError::io("find, below the mounted hierarchy, the scope", path)(Errno::ENOENT)
        };
        let own = own.ok_or_else(|| missing(Path::new(&unit.name)))?;
        let mut group = Self::located(layout, &own).ok_or_else(|| missing(&own))?;
        group.unit = Some(unit.clone());
        if let Some(name) = &scope.subgroup {
            // The scope itself must be empty before it can hand its controllers on.
            group = group.below(name);
            group.make_plain(layout)?;
            group.add(placeholder.pid())?;
        }
        group.make_complete(layout)?;
        Ok(group)
    }

    /// Tells systemd the limits of `resources`, for [`Cgroup::update`].
    pub(crate) fn tell_unit(&self, unit: &Unit, resources: &LinuxResources) -> Result<(), CgroupError> {
        let present = self
            .unified
            .as_ref()
            .and_then(|dir| dir.read("cpu.max").ok())
            .unwrap_or_default();
        let mut wanted = limits(resources, self.legacy.is_empty(), &present)?;
        if resources.devices().is_some() {
            wanted.extend(device_properties(resources, unit.instance)?);
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let mut connection = Connection::open(unit.instance)?;
        let wanted = supported(&mut connection, wanted)?;
        let arguments = [
            Value::Text(unit.name.clone()),
            // Until the unit is gone; nothing is written to /etc.
            Value::Bool(true),
            list(&wanted),
        ];
        connection.manager("change", &unit.name, "SetUnitProperties", &arguments)?;
        Ok(())
    }

    /// Has systemd move a process that this user may not move: out of a login session, for example.
    pub(crate) fn attach_to_unit(&self, unit: &Unit, pid: u32) -> Result<(), CgroupError> {
        let below = self
            .unified
            .as_ref()
            .map(|dir| below_unit(dir.path(), &unit.name));
        let arguments = [
            Value::Text(unit.name.clone()),
            Value::Text(below.unwrap_or_default()),
            Value::Array("u".to_owned(), vec![Value::Uint32(pid)]),
        ];
        let mut connection = Connection::open(unit.instance)?;
        connection.manager(
            "move a process to",
            &unit.name,
            "AttachProcessesToUnit",
            &arguments,
        )?;
        Ok(())
    }

    /// The cgroup of a unit that may or may not be there.
    ///
    /// # Errors
    /// [`CgroupError::Systemd`] if systemd cannot be asked.
    pub fn of_unit(layout: &Layout, unit: &Unit) -> Result<Option<Self>, CgroupError> {
        let mut connection = Connection::open(unit.instance)?;
        let found = control_group(&mut connection, unit)?;
        let group = found.and_then(|path| Self::located(layout, &path));
        Ok(group.map(|mut group| {
            group.unit = Some(unit.clone());
            group
        }))
    }
}

impl Unit {
    /// Ends the unit, whose processes are gone. A unit that is gone, too, is no error.
    pub(crate) fn stop(&self) -> Result<(), SystemdError> {
        match Connection::open(self.instance) {
            Ok(mut connection) => stop(&mut connection, self),
            // A user's session ends with all its units.
            Err(SystemdError::NoSession { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Scope {
    fn properties(
        &self,
        resources: &LinuxResources,
        unified: bool,
        description: &str,
    ) -> Result<Vec<Property>, CgroupError> {
        let mut all = vec![
            Property::new("Description", Value::Text(description.to_owned())),
            Property::new("Slice", Value::Text(self.place.slice.clone())),
            flag("Delegate", true),
            flag("DefaultDependencies", false),
        ];
        all.extend(ACCOUNTING.map(|name| flag(name, true)));
        all.extend(device_properties(resources, self.place.unit.instance)?);
        let limits = limits(resources, unified, "")?;
        for property in &self.annotated {
            if limits.iter().any(|limit| limit.name == property.name) {
                return Err(SystemdError::Annotation {
                    key: format!("org.systemd.property.{}", property.name),
                    reason: "linux.resources sets the same limit: remove one of them".to_owned(),
                }
                .into());
            }
            // An annotation may change what is only a default here.
            all.retain(|other| other.name != property.name);
        }
        all.extend(limits);
        all.extend(self.annotated.iter().cloned());
        Ok(all)
    }
}

/// The limits as properties. On hosts with v1 hierarchies, systemd translates v2's values; what v2 cannot express
/// is in the files alone.
fn limits(resources: &LinuxResources, pure: bool, cpu_max: &str) -> Result<Vec<Property>, CgroupError> {
    let mut writes: Vec<Write> = Vec::new();
    let computed = parts(resources, |_, v2| Ok(home(v2)), &mut Vec::new());
    match computed {
        Ok(parts) => writes.extend(parts.into_iter().flat_map(|part| part.writes)),
        Err(error) if pure => return Err(error),
        Err(_) => {}
    }
    writes.extend(unified(resources)?.into_iter().map(|(_, write)| write));
    let mut list = properties::of(&writes, cpu_max)?;
    let shares = resources.cpu().as_ref().and_then(berth_spec::LinuxCpu::shares);
    if let (false, Some(shares @ 1..)) = (pure, shares) {
        // Its own way from weight to shares is another one than the way here from shares to weight.
        list.retain(|property| property.name != "CPUWeight");
        list.push(Property::new("CPUShares", Value::Uint64(shares)));
    }
    Ok(list)
}

/// For the computation of values every controller is in v2; those it has not are not systemd's either.
fn home(v2: &str) -> Home {
    if v2.is_empty() { Home::V1 } else { Home::V2 }
}

/// A user's own systemd may load no device filter.
fn device_properties(resources: &LinuxResources, instance: Instance) -> Result<Vec<Property>, CgroupError> {
    if instance == Instance::User {
        return Ok(Vec::new());
    }
    let rules = effective(resources.devices().as_deref().unwrap_or_default())?;
    let known = fs::read_to_string("/proc/devices").unwrap_or_default();
    Ok(devices::properties(&rules, &known))
}

/// Leaves out what this systemd does not know yet: the files have it nevertheless.
fn supported(connection: &mut Connection, wanted: Vec<Property>) -> Result<Vec<Property>, CgroupError> {
    if wanted.iter().all(|property| property.since <= OLD) {
        return Ok(wanted);
    }
    let version = connection.version()?;
    Ok(wanted
        .into_iter()
        .filter(|property| property.since <= version)
        .collect())
}

fn start(connection: &mut Connection, unit: &Unit, all: &[Property]) -> Result<(), SystemdError> {
    let arguments = [
        Value::Text(unit.name.clone()),
        Value::Text("replace".to_owned()),
        list(all),
        Value::Array("(sa(sv))".to_owned(), Vec::new()),
    ];
    let mut start = || connection.job("start", &unit.name, "StartTransientUnit", &arguments);
    match start() {
        // A container of the same name that failed, and was not deleted: its unit is only a memory.
        Err(error) if is(&error, "UnitExists") => {}
        other => return other,
    }
    let name = [Value::Text(unit.name.clone())];
    let reset = connection.manager("reset", &unit.name, "ResetFailedUnit", &name);
    match reset {
        Ok(_) => {}
        Err(error) if is(&error, "NoSuchUnit") => {}
        Err(error) => return Err(error),
    }
    connection.job("start", &unit.name, "StartTransientUnit", &arguments)
}

fn stop(connection: &mut Connection, unit: &Unit) -> Result<(), SystemdError> {
    let arguments = [Value::Text(unit.name.clone()), Value::Text("replace".to_owned())];
    let stopped = match connection.job("stop", &unit.name, "StopUnit", &arguments) {
        Err(error) if is(&error, "NoSuchUnit") => return Ok(()),
        other => other,
    };
    // A unit that failed (its processes were killed for memory, say) would be kept to be looked at.
    match connection.manager("reset", &unit.name, "ResetFailedUnit", &arguments[..1]) {
        Err(error) if !is(&error, "NoSuchUnit") => stopped.and(Err(error)),
        _ => stopped,
    }
}

/// Where the unit's cgroup is, below the hierarchies' root.
fn control_group(connection: &mut Connection, unit: &Unit) -> Result<Option<PathBuf>, SystemdError> {
    let interface = "org.freedesktop.systemd1.Scope";
    let path = connection.text_property(&unit.name, &unit.object(), interface, "ControlGroup")?;
    Ok((!path.is_empty()).then(|| PathBuf::from(path)))
}

/// The part of a cgroup's path below the unit's own, as AttachProcessesToUnit takes it: "" or "/a/b".
fn below_unit(path: &Path, unit: &str) -> String {
    let mut parts = path.components();
    if !parts.any(|part| part.as_os_str() == unit) {
        return String::new();
    }
    parts.fold(String::new(), |below, part| {
        format!("{below}/{}", part.as_os_str().to_string_lossy())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_spec::LinuxMemory;

    fn scope(path: &str, annotations: &[(&str, &str)]) -> Result<Scope, SystemdError> {
        let annotations = annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Scope::new(Some(Path::new(path)), "web", &annotations, Instance::System)
    }

    #[test]
    fn only_systemds_form_of_a_path() {
        for path in ["/a/b", "a", "a:b", "a:b:c:d", "a/b:c:d"] {
            let error = scope(path, &[]).unwrap_err().to_string();
            assert!(
                error.starts_with("expected cgroupsPath to be of format \"slice:prefix:name\""),
                "{error}"
            );
        }
        assert_eq!(scope("", &[]).unwrap().unit().name, "berth-web.scope");
    }

    #[test]
    fn subgroups_are_one_name() {
        let named = |name| scope("", &[(SUBGROUP, name)]);
        assert_eq!(named("container").unwrap().subgroup.as_deref(), Some("container"));
        assert_eq!(named("").unwrap().subgroup, None);
        for bad in ["a/b", "..", ".", "a\nb"] {
            let error = named(bad).unwrap_err().to_string();
            assert!(error.contains("not the name of one cgroup"), "{error}");
        }
    }

    #[test]
    fn an_annotation_changes_defaults_but_no_limit() {
        let memory = LinuxMemory {
            limit: Some(1 << 20),
            ..LinuxMemory::default()
        };
        let resources = LinuxResources {
            memory: Some(memory),
            ..LinuxResources::default()
        };
        let ask = |key: &str, value: &str| {
            let scope = scope("", &[(&format!("org.systemd.property.{key}"), value)]).unwrap();
            scope
                .properties(&resources, true, "text")
                .map_err(|error| error.to_string())
        };
        let count = |list: &[Property], name: &str| list.iter().filter(|one| one.name == name).count();
        let list = ask("DefaultDependencies", "true").unwrap();
        assert_eq!(count(&list, "DefaultDependencies"), 1);
        assert!(list.contains(&flag("DefaultDependencies", true)));
        assert_eq!(count(&list, "MemoryMax"), 1);
        assert!(ask("CollectMode", "'inactive-or-failed'").is_ok());
        let error = ask("MemoryMax", "uint64 5").unwrap_err();
        assert!(error.contains("linux.resources sets the same limit"), "{error}");
    }

    #[test]
    fn processes_are_attached_below_the_unit() {
        let below = |path: &str| below_unit(Path::new(path), "a.scope");
        assert_eq!(below("/sys/fs/cgroup/s.slice/a.scope"), "");
        assert_eq!(below("/sys/fs/cgroup/s.slice/a.scope/x/y"), "/x/y");
        assert_eq!(below("/elsewhere"), "");
    }
}
