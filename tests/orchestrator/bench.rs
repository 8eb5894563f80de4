//! A node and a kubectl that drives it.

use crate::world::World;
use harness::wait_for;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// How long a state of an object may take to come; an autoscaler looks every fifteen seconds.
const PATIENCE: Duration = Duration::from_mins(3);

/// A world and a kubectl. What only one kind of test asks of it is beside these tests.
pub(crate) struct Bench {
    pub(crate) world: World,
    pub(crate) kubectl: PathBuf,
}

impl Bench {
    /// With more arguments for `berthd`.
    pub(crate) fn new(kubectl: PathBuf, arguments: &[&str]) -> Self {
        Self {
            world: World::with(arguments),
            kubectl,
        }
    }

    #[track_caller]
    pub(crate) fn kube(&self, arguments: &[&str]) -> String {
        self.world.node.kubectl(&self.kubectl, arguments).ok()
    }

    /// What kubectl gets, which has to be there.
    #[track_caller]
    pub(crate) fn get(&self, arguments: &[&str]) -> Value {
        let text = self.kube(&[&["get"], arguments, &["-o", "json"]].concat());
        serde_json::from_str(&text).expect("JSON")
    }

    #[track_caller]
    pub(crate) fn items(&self, arguments: &[&str]) -> Vec<Value> {
        self.get(arguments)["items"].as_array().expect("a list").clone()
    }

    /// An object, or why there is none.
    pub(crate) fn look(&self, kind: &str, name: &str) -> Result<Value, String> {
        let arguments = ["get", kind, name, "-o", "json"];
        let outcome = self.world.node.kubectl(&self.kubectl, &arguments);
        if !outcome.status.success() {
            return Err(outcome.stderr);
        }
        serde_json::from_str(&outcome.stdout).map_err(|error| error.to_string())
    }

    /// Waits until an object satisfies the condition.
    #[track_caller]
    pub(crate) fn until(&self, kind: &str, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        wait_for(&format!("{kind} {name}: {what}"), PATIENCE, || {
            let object = self.look(kind, name)?;
            if holds(&object) {
                Ok(object)
            } else {
                Err(object.to_string())
            }
        })
    }

    /// Messages of the events with this reason.
    #[track_caller]
    pub(crate) fn events(&self, reason: &str) -> Vec<String> {
        let events = self.items(&["events", "--field-selector", &format!("reason={reason}")]);
        let text = |event: &Value| event["message"].as_str().unwrap_or_default().to_owned();
        events.iter().map(text).collect()
    }
}

/// A [`Bench`]; skips the test where there is no kubectl.
macro_rules! bench {
    () => {
        $crate::bench::bench!(&[])
    };
    ($arguments:expr) => {{
        harness::need_root!();
        match harness::kubectl() {
            Some(kubectl) => $crate::bench::Bench::new(kubectl, $arguments),
            None => harness::skip!("needs a kubectl"),
        }
    }};
}
pub(crate) use bench;
