//! The phases of `run`, in order; each measures, and fails the demo when something is not so.

use crate::node::{Node, import_images, kubeconfig, wait};
use crate::report::Report;
use crate::traffic::{Count, Endpoints, Traffic};
use crate::{DemoError, Place, http, memory};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const REPLICAS: u64 = 3;
const LIMIT: Duration = Duration::from_mins(2);

/// Goes through all phases and prints the table.
pub fn run(place: &Place) -> Result<(), DemoError> {
    let mut report = Report::default();
    say("starting berthd in its own network, mount and PID namespaces");
    let begin = Instant::now();
    let mut node = Node::start(place)?;
    report.time("berthd, start to API ready", begin.elapsed());
    let result = all(place, &mut node, &mut report);
    if result.is_err() {
        eprintln!("--- the last lines of berthd's log ---\n{}", node.log_tail());
    }
    result?;
    println!("\n{}", report.render());
    Ok(())
}

fn all(place: &Place, node: &mut Node, report: &mut Report) -> Result<(), DemoError> {
    say("importing user-service:v1.0.0 and user-service:v2.0.0");
    import_images(place, &kubeconfig(&place.dir))?;
    let manifest = read(place, "user-service.yaml")?;
    let secret = read(place, "db-secret.yaml")?;
    apply(node, report, &secret, &manifest)?;
    let view = View::start(node)?;
    ask_every_pod(node, report)?;
    let app = place.app.get(..15).unwrap_or(&place.app).to_owned();
    recover(node, report, &view, &app)?;
    let next = manifest.replace("user-service:v1.0.0", "user-service:v2.0.0");
    roll(node, report, &view, "roll v1.0.0 to v2.0.0", "v2.0.0", |node| {
        node.ctl(&["apply", "-f", "-"], &next)
    })?;
    roll(node, report, &view, "roll back to v1.0.0", "v1.0.0", |node| {
        node.ctl(&["rollout", "undo", "deployment/user-service"], "")
    })?;
    survive(node, report, &view, &app)?;
    weigh(node, report);
    take_away(node, report, view)
}

fn say(what: &str) {
    println!("==> {what}");
}

fn read(place: &Place, name: &str) -> Result<String, DemoError> {
    let path = place.manifests.join(name);
    std::fs::read_to_string(&path).map_err(DemoError::io(format!("read {}", path.display())))
}

fn apply(node: &Node, report: &mut Report, secret: &str, manifest: &str) -> Result<(), DemoError> {
    say("applying the Deployment and its Secret");
    let begin = Instant::now();
    node.ctl(&["apply", "-f", "-"], secret)?;
    node.ctl(&["apply", "-f", "-"], manifest)?;
    wait_available(node, "")?;
    report.time("apply to Available, 3 replicas", begin.elapsed());
    Ok(())
}

/// Waits until the Deployment has rolled out: as `rollout status` reads it, and Available.
fn wait_available(node: &Node, image_suffix: &str) -> Result<(), DemoError> {
    wait("Deployment user-service to be Available", LIMIT, || {
        let deployment = node
            .get(&["deployment", "user-service"])
            .map_err(|e| e.to_string())?;
        let (spec, status) = (&deployment["spec"], &deployment["status"]);
        let image = spec["template"]["spec"]["containers"][0]["image"]
            .as_str()
            .unwrap_or_default();
        let available = status["conditions"].as_array().is_some_and(|list| {
            list.iter()
                .any(|c| c["type"] == "Available" && c["status"] == "True")
        });
        let done = status["observedGeneration"] == deployment["metadata"]["generation"]
            && image.ends_with(image_suffix)
            && ["replicas", "updatedReplicas", "availableReplicas"]
                .iter()
                .all(|f| status[f] == REPLICAS);
        if available && done {
            Ok(())
        } else {
            Err(status.to_string())
        }
    })
}

fn ask_every_pod(node: &Node, report: &mut Report) -> Result<(), DemoError> {
    say("asking every pod over the network");
    let pods = node.get(&["pods", "-l", "app=user-service"])?;
    let addresses: Vec<SocketAddr> = pods["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(address)
        .collect();
    if addresses.len() != 3 {
        return Err(DemoError::Wrong(format!(
            "3 pods with an address were expected, there are {addresses:?}"
        )));
    }
    for address in &addresses {
        let body = wait("a pod to answer", Duration::from_secs(10), || {
            http::get(*address, "/env", Duration::from_secs(2)).map_err(|e| format!("{address}: {e}"))
        })?;
        if !body.contains("DATABASE_URL=postgres://") {
            return Err(DemoError::Wrong(format!(
                "{address} does not have DATABASE_URL from the Secret: {body}"
            )));
        }
    }
    report.add(
        "pods that answered with the Secret's value",
        format!("{} of {REPLICAS}", addresses.len()),
    );
    Ok(())
}

/// Kills one container's process and waits until its pod answers again.
fn recover(node: &Node, report: &mut Report, view: &View, app: &str) -> Result<(), DemoError> {
    say("killing one container with SIGKILL");
    let restarts = |node: &Node| -> Result<u64, String> {
        let pods = node
            .get(&["pods", "-l", "app=user-service"])
            .map_err(|e| e.to_string())?;
        let items = pods["items"].as_array().cloned().unwrap_or_default();
        let ready = items.iter().filter(|pod| address(pod).is_some()).count();
        let total = items
            .iter()
            .filter_map(|pod| pod["status"]["containerStatuses"][0]["restartCount"].as_u64())
            .sum();
        if ready == 3 {
            Ok(total)
        } else {
            Err(format!("{ready} of 3 pods are ready"))
        }
    };
    let before = wait("3 ready pods", LIMIT, || restarts(node))?;
    let processes = memory::processes(app);
    let &(victim, _) = processes
        .first()
        .ok_or_else(|| DemoError::Wrong("no container process is there".to_owned()))?;
    let traffic = Traffic::start(Arc::clone(&view.endpoints), "/");
    let begin = Instant::now();
    let pid = nix::unistd::Pid::from_raw(victim.cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)
        .map_err(DemoError::io("kill the container"))?;
    let recovered = wait("the container to be back", LIMIT, || match restarts(node)? {
        count if count > before => Ok(begin.elapsed()),
        _ => Err("not restarted yet".to_owned()),
    });
    let count = traffic.stop();
    report.time("container killed to pod Ready again", recovered?);
    // The client sends one request at a time: the killed process may have been answering it.
    add_count(report, "container killed", count, 1)
}

/// Changes the Deployment under continuous requests and waits until it has rolled out.
fn roll(
    node: &Node,
    report: &mut Report,
    view: &View,
    name: &str,
    version: &str,
    change: impl FnOnce(&Node) -> Result<String, DemoError>,
) -> Result<(), DemoError> {
    say(&format!("{name}, under continuous requests"));
    let traffic = Traffic::start(Arc::clone(&view.endpoints), "/");
    let begin = Instant::now();
    let rolled = change(node).and_then(|_| wait_available(node, version));
    let took = begin.elapsed();
    let answers = rolled.and_then(|()| {
        wait("every pod to answer with the new version", LIMIT, || {
            let addresses = view
                .endpoints
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            let bodies: Result<Vec<String>, _> = addresses
                .iter()
                .map(|a| http::get(*a, "/", Duration::from_secs(2)))
                .collect();
            let bodies = bodies.map_err(|e| e.to_string())?;
            if bodies.len() == 3 && bodies.iter().all(|b| b.contains(version)) {
                Ok(())
            } else {
                Err(bodies.join("; "))
            }
        })
    });
    let count = traffic.stop();
    answers?;
    report.time(name, took);
    add_count(report, name, count, 0)
}

/// Kills `berthd`, starts it again; no container may restart, requests go on.
fn survive(node: &mut Node, report: &mut Report, view: &View, app: &str) -> Result<(), DemoError> {
    say("killing berthd with SIGKILL and starting it again, under continuous requests");
    wait("the old pods to be gone", LIMIT, || {
        match memory::processes(app).len() {
            3 => Ok(()),
            other => Err(format!("{other} container processes")),
        }
    })?;
    let before = memory::processes(app);
    let traffic = Traffic::start(Arc::clone(&view.endpoints), "/");
    let begin = Instant::now();
    let back = node.kill().and_then(|()| node.spawn());
    let took = begin.elapsed();
    let settled = back.and_then(|()| wait_available(node, "v1.0.0"));
    let count = traffic.stop();
    settled?;
    report.time("berthd killed to API ready again", took);
    let after = memory::processes(app);
    if before != after {
        return Err(DemoError::Wrong(format!(
            "containers restarted with berthd: {before:?} became {after:?}"
        )));
    }
    report.add("containers restarted by that", "0 of 3");
    add_count(report, "berthd killed", count, 0)
}

/// Reports a phase's requests; more failures than could not be avoided end the demo.
fn add_count(report: &mut Report, phase: &str, count: Count, unavoidable: u64) -> Result<(), DemoError> {
    report.add(
        format!("requests, {phase}"),
        format!(
            "{} sent, {} failed, {} retried",
            count.sent, count.failed, count.retried
        ),
    );
    if count.sent == 0 {
        return Err(DemoError::Wrong(format!("no request was sent during: {phase}")));
    }
    if count.failed > unavoidable {
        return Err(DemoError::Wrong(format!(
            "{} of {} requests failed during: {phase}",
            count.failed, count.sent
        )));
    }
    Ok(())
}

fn weigh(node: &Node, report: &mut Report) {
    let kib = |pid| memory::pss_kib(pid).map_or_else(|| "gone".to_owned(), |k| format!("{k} KiB"));
    if let Some(pid) = node.pid() {
        report.add("berthd, PSS", kib(pid));
    }
    for (number, (pid, _)) in memory::processes("berth-monitor").into_iter().enumerate() {
        report.add(format!("berth-monitor {}, PSS", number + 1), kib(pid));
    }
}

/// Deletes everything and shows that nothing is left in the node.
fn take_away(node: &mut Node, report: &mut Report, view: View) -> Result<(), DemoError> {
    say("deleting the Deployment");
    drop(view);
    let begin = Instant::now();
    node.ctl(&["delete", "deployment", "user-service"], "")?;
    node.ctl(&["delete", "secret", "db-secret"], "")?;
    wait("all pods and their processes to be gone", LIMIT, || {
        let pods = node.get(&["pods"]).map_err(|e| e.to_string())?;
        let pods = pods["items"].as_array().map_or(0, Vec::len);
        let monitors = memory::processes("berth-monitor").len();
        if pods + monitors == 0 {
            Ok(())
        } else {
            Err(format!("{pods} pods, {monitors} monitors"))
        }
    })?;
    report.time("delete to nothing left", begin.elapsed());
    node.terminate()
}

/// Where a pod that is ready and not being deleted can be asked.
fn address(pod: &Value) -> Option<SocketAddr> {
    let ready = pod["status"]["conditions"]
        .as_array()?
        .iter()
        .any(|c| c["type"] == "Ready" && c["status"] == "True");
    let leaving = !pod["metadata"]["deletionTimestamp"].is_null();
    let address = pod["status"]["podIP"].as_str()?;
    (ready && !leaving).then(|| Some(SocketAddr::new(address.parse().ok()?, 8080)))?
}

/// The ready pods, kept up to date by a watch, as a load balancer would.
struct View {
    endpoints: Endpoints,
    watch: Arc<Mutex<Option<Child>>>,
}

impl View {
    fn start(node: &Node) -> Result<Self, DemoError> {
        let endpoints = Endpoints::default();
        let watch = Arc::new(Mutex::new(None));
        let mut command =
            node.ctl_command(&["get", "pods", "-l", "app=user-service", "-o", "json", "--watch"]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command
            .spawn()
            .map_err(DemoError::io("start berthctl get --watch"))?;
        let mut output = child.stdout.take();
        *watch.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        let (shared, holder) = (Arc::clone(&endpoints), Arc::clone(&watch));
        std::thread::spawn(move || {
            // The watch breaks when berthd is killed: the last view stays, and a new watch begins.
            while let Some(stream) = output.take() {
                follow(stream, &shared);
                let mut held = holder.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(mut old) = held.take() else { return };
                drop(old.wait());
                std::thread::sleep(Duration::from_millis(20));
                if let Ok(mut child) = command.spawn() {
                    output = child.stdout.take();
                    *held = Some(child);
                }
            }
        });
        Ok(Self { endpoints, watch })
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Some(mut child) = self.watch.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Reads pods, or lists of them, until the stream ends.
fn follow(stream: impl std::io::Read, endpoints: &Endpoints) {
    let mut pods: BTreeMap<String, Value> = BTreeMap::new();
    for document in
        serde_json::Deserializer::from_reader(std::io::BufReader::new(stream)).into_iter::<Value>()
    {
        let Ok(document) = document else { return };
        let items = document["items"]
            .as_array()
            .cloned()
            .unwrap_or_else(|| vec![document.clone()]);
        for pod in items {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            pods.insert(name, pod);
        }
        let ready: Vec<SocketAddr> = pods.values().filter_map(address).collect();
        *endpoints.lock().unwrap_or_else(PoisonError::into_inner) = ready;
    }
}
