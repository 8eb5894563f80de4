//! What the node writes into a pod's /etc: hosts, hostname and resolv.conf (kubelet's `pkg/kubelet/network/dns` and
//! `kubelet_pods.go`).

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use super::paths::PodPaths;
use super::pod::Pod;
use super::sandbox::{SandboxError, file_error};
use crate::dns::DOMAIN;
use crate::dns::resolv_conf::{FILE, ResolvConf};

/// Longest host name that Linux takes.
const LONGEST_HOSTNAME: usize = 64;
/// What libc reads of a resolv.conf.
const SERVERS: usize = 3;
const SEARCHES: usize = 32;
const SEARCH_LENGTH: usize = 2048;

/// The pod's host name: `hostnameOverride`, else `spec.hostname`, else its name, cut to 63 characters as kubelet does; with its domain where the
/// pod wants that. In the host's network it is the node's.
///
/// # Errors
/// [`SandboxError::Hostname`]: with its domain it is too long.
pub fn hostname(pod: &Pod, node: &str) -> Result<String, SandboxError> {
    if pod.host_network() {
        return Ok(node.to_owned());
    }
    if let Some(given) = pod.spec().hostname_override.as_deref().filter(|h| !h.is_empty()) {
        return Ok(given.to_owned());
    }
    let short = short_hostname(pod);
    match full_hostname(pod, &short) {
        Some(name) if pod.spec().set_hostname_as_fqdn == Some(true) => {
            if name.len() > LONGEST_HOSTNAME {
                return Err(SandboxError::Hostname { name });
            }
            Ok(name)
        }
        _ => Ok(short),
    }
}

fn short_hostname(pod: &Pod) -> String {
    let chosen = pod
        .spec()
        .hostname
        .as_deref()
        .filter(|h| !h.is_empty())
        .unwrap_or(&pod.name);
    let cut: String = chosen.chars().take(63).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// The host name with its domain; only pods with a `subdomain` have one.
fn full_hostname(pod: &Pod, short: &str) -> Option<String> {
    let subdomain = pod.spec().subdomain.as_deref().filter(|s| !s.is_empty())?;
    Some(format!("{short}.{subdomain}.{}.svc.{DOMAIN}", pod.namespace))
}

/// Writes hosts, hostname and resolv.conf for the pod's addresses; they belong to the pod's root, whose id on the host
/// is `root` if the pod has users of its own. `dns` is the address of the cluster's DNS server. Gives what had to be left out, as events.
///
/// # Errors
/// [`SandboxError`].
pub fn write_files(
    pod: &Pod,
    paths: &PodPaths,
    node: &str,
    ips: &[IpAddr],
    dns: Option<Ipv4Addr>,
    root: Option<u32>,
) -> Result<Vec<Warning>, SandboxError> {
    let of_node = if pod.host_network() {
        ResolvConf::parse(&std::fs::read_to_string(FILE).unwrap_or_default())
    } else {
        ResolvConf::of_node()
    };
    let hosts = if pod.host_network() {
        hosts_of_node(pod, &std::fs::read_to_string("/etc/hosts").unwrap_or_default())
    } else {
        hosts(pod, ips)
    };
    let (resolver, warnings) = resolv_conf(pod, dns, &of_node);
    for (name, text) in [
        ("hosts", hosts),
        ("hostname", format!("{}\n", hostname(pod, node)?)),
        ("resolv.conf", resolver),
    ] {
        let path = paths.run.join(name);
        std::fs::write(&path, text).map_err(file_error("write", &path))?;
        if root.is_some() {
            std::os::unix::fs::chown(&path, root, root).map_err(file_error("change the owner of", &path))?;
        }
    }
    Ok(warnings)
}

/// Something of a pod's DNS configuration that had to be left out: reason and message of an event.
pub type Warning = (&'static str, String);

/// /etc/hosts as kubelet writes it.
fn hosts(pod: &Pod, ips: &[IpAddr]) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    let short = short_hostname(pod);
    let full = full_hostname(pod, &short).map(|name| format!("{name}\t"));
    for ip in ips {
        let _ = writeln!(text, "{ip}\t{}{short}", full.as_deref().unwrap_or_default());
    }
    add_aliases(pod, &mut text);
    text
}

/// In the host's network the node's own hosts are the pod's.
fn hosts_of_node(pod: &Pod, node: &str) -> String {
    let mut text = format!(
        "# Kubernetes-managed hosts file (host network).\n{}\n",
        node.trim_end()
    );
    add_aliases(pod, &mut text);
    text
}

fn add_aliases(pod: &Pod, text: &mut String) {
    for alias in pod.spec().host_aliases.iter().flatten() {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        let _ = writeln!(text, "{}\t{names}", alias.ip);
    }
}

/// /etc/resolv.conf by `dnsPolicy` and `dnsConfig`.
fn resolv_conf(pod: &Pod, dns: Option<Ipv4Addr>, node: &ResolvConf) -> (String, Vec<Warning>) {
    let spec = pod.spec();
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let mut warnings = Vec::new();
    let mut found = match (policy, dns) {
        ("None", _) => ResolvConf::default(),
        ("ClusterFirst", _) if pod.host_network() => as_the_node(pod, dns, node),
        ("ClusterFirst" | "ClusterFirstWithHostNet", Some(server)) => cluster_first(pod, server, node),
        ("ClusterFirst" | "ClusterFirstWithHostNet", None) => {
            let message = format!(
                "the node's DNS server does not run: {policy} cannot be done, and the pod has the node's name servers (Default); berthd's log says why"
            );
            warnings.push(("MissingClusterDNS", message));
            as_the_node(pod, dns, node)
        }
        _ => as_the_node(pod, dns, node),
    };
    if let Some(config) = &spec.dns_config {
        found.servers.extend(config.nameservers.iter().flatten().cloned());
        found.searches.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            let text = option
                .value
                .as_ref()
                .map_or(name.clone(), |value| format!("{name}:{value}"));
            let same = |known: &&mut String| known.split(':').next() == Some(&name);
            match found.options.iter_mut().find(same) {
                Some(known) => *known = text,
                None => found.options.push(text),
            }
        }
    }
    bound(&mut found, &mut warnings);
    (render(&found), warnings)
}

/// The cluster's server, which also knows the names of others; names are looked for in the pod's namespace, then in the
/// cluster, then where the node looks.
fn cluster_first(pod: &Pod, server: Ipv4Addr, node: &ResolvConf) -> ResolvConf {
    let mut searches = vec![
        format!("{}.svc.{DOMAIN}", pod.namespace),
        format!("svc.{DOMAIN}"),
        DOMAIN.to_owned(),
    ];
    searches.extend(node.searches.iter().cloned());
    ResolvConf {
        servers: vec![server.to_string()],
        searches,
        options: vec!["ndots:5".to_owned()],
    }
}

/// As the node has it. A server on the node's own loopback address is reached by pods through the cluster's, which asks
/// the same servers.
fn as_the_node(pod: &Pod, dns: Option<Ipv4Addr>, node: &ResolvConf) -> ResolvConf {
    let mut found = node.clone();
    if pod.host_network() {
        return found;
    }
    found
        .servers
        .retain(|server| !server.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()));
    if found.servers.is_empty() {
        found.servers.extend(dns.map(|server| server.to_string()));
    }
    found
}

/// Leaves out what is there twice, and what libc would not read.
fn bound(found: &mut ResolvConf, warnings: &mut Vec<Warning>) {
    for list in [&mut found.servers, &mut found.searches] {
        let mut seen = Vec::new();
        list.retain(|entry| {
            let new = !seen.contains(entry);
            seen.push(entry.clone());
            new
        });
    }
    if found.servers.len() > SERVERS {
        found.servers.truncate(SERVERS);
        let message = format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            found.servers.join(" ")
        );
        warnings.push(("DNSConfigForming", message));
    }
    let given = found.searches.len();
    found.searches.truncate(SEARCHES);
    while found.searches.join(" ").len() > SEARCH_LENGTH {
        found.searches.pop();
    }
    if found.searches.len() < given {
        let message = format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            found.searches.join(" ")
        );
        warnings.push(("DNSConfigForming", message));
    }
}

fn render(found: &ResolvConf) -> String {
    let mut text = String::new();
    if !found.searches.is_empty() {
        let _ = writeln!(text, "search {}", found.searches.join(" "));
    }
    for server in &found.servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !found.options.is_empty() {
        let _ = writeln!(text, "options {}", found.options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::pod::test_pod;
    use serde_json::{Value, json};

    fn pod(spec: &Value) -> Pod {
        let mut whole = json!({"containers": [{"name": "c"}]});
        for (field, value) in spec.as_object().unwrap() {
            whole[field] = value.clone();
        }
        test_pod(json!({"metadata": {"name": "web"}, "spec": whole}))
    }

    fn node() -> ResolvConf {
        ResolvConf::parse(
            "nameserver 192.0.2.53\nnameserver 127.0.0.1\nsearch corp.example\noptions timeout:1 rotate\n",
        )
    }

    fn conf(spec: &Value) -> String {
        resolv_conf(&pod(spec), Some(Ipv4Addr::new(10, 96, 0, 10)), &node()).0
    }

    const CLUSTER: &str = "search default.svc.cluster.local svc.cluster.local cluster.local corp.example\n\
        nameserver 10.96.0.10\noptions ndots:5\n";
    const NODE: &str =
        "search corp.example\nnameserver 192.0.2.53\nnameserver 127.0.0.1\noptions timeout:1 rotate\n";

    #[test]
    fn policies() {
        assert_eq!(conf(&json!({})), CLUSTER);
        assert_eq!(
            conf(&json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true})),
            NODE
        );
        assert_eq!(
            conf(&json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true})),
            CLUSTER
        );
        assert_eq!(conf(&json!({"dnsPolicy": "Default", "hostNetwork": true})), NODE);
        assert_eq!(
            conf(&json!({"dnsPolicy": "Default"})),
            NODE.replace("nameserver 127.0.0.1\n", "")
        );
        assert_eq!(conf(&json!({"dnsPolicy": "None"})), "");
        let local = ResolvConf::parse("nameserver 127.0.0.53\n");
        let (text, _) = resolv_conf(
            &pod(&json!({"dnsPolicy": "Default"})),
            Some(Ipv4Addr::new(10, 96, 0, 10)),
            &local,
        );
        assert_eq!(text, "nameserver 10.96.0.10\n");
        let (text, warnings) = resolv_conf(&pod(&json!({})), None, &node());
        assert_eq!(text, NODE.replace("nameserver 127.0.0.1\n", ""));
        assert_eq!(warnings[0].0, "MissingClusterDNS");
    }

    #[test]
    fn a_pods_own_configuration_is_added_and_replaces_options() {
        let text = conf(&json!({"dnsConfig": {
            "nameservers": ["192.0.2.7", "10.96.0.10"],
            "searches": ["my.example", "svc.cluster.local"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
        }}));
        assert_eq!(
            text,
            "search default.svc.cluster.local svc.cluster.local cluster.local corp.example my.example\n\
             nameserver 10.96.0.10\nnameserver 192.0.2.7\noptions ndots:2 edns0\n"
        );
    }

    #[test]
    fn what_libc_would_not_read_is_left_out_and_said() {
        let long = "a".repeat(60);
        let searches: Vec<String> = (0..40).map(|n| format!("s{n}.{long}.example")).collect();
        let config = json!({"dnsConfig": {"nameservers": ["192.0.2.1", "192.0.2.2", "192.0.2.3"], "searches": searches}});
        let (text, warnings) = resolv_conf(&pod(&config), Some(Ipv4Addr::new(10, 96, 0, 10)), &node());
        assert_eq!(
            text.lines().filter(|line| line.starts_with("nameserver")).count(),
            3
        );
        let line = text.lines().next().unwrap().strip_prefix("search ").unwrap();
        assert!(
            line.len() <= SEARCH_LENGTH && line.split(' ').count() > 20,
            "{line}"
        );
        assert!(
            warnings[0].1.ends_with("10.96.0.10 192.0.2.1 192.0.2.2"),
            "{warnings:?}"
        );
        assert!(warnings[1].1.starts_with("Search Line limits"), "{warnings:?}");
    }

    #[test]
    fn host_names_with_and_without_their_domain() {
        let name = |spec: &Value| hostname(&pod(spec), "n1").map_err(|error| error.to_string());
        assert_eq!(name(&json!({})).unwrap(), "web");
        assert_eq!(name(&json!({"hostNetwork": true})).unwrap(), "n1");
        let spec = json!({"hostname": "db-0", "subdomain": "db"});
        assert_eq!(name(&spec).unwrap(), "db-0");
        let full = json!({"hostname": "db-0", "subdomain": "db", "setHostnameAsFQDN": true});
        assert_eq!(name(&full).unwrap(), "db-0.db.default.svc.cluster.local");
        assert_eq!(name(&json!({"setHostnameAsFQDN": true})).unwrap(), "web");
        let long = json!({"subdomain": "d".repeat(40), "setHostnameAsFQDN": true});
        assert!(name(&long).unwrap_err().contains("64 characters"));
        let ips = ["10.90.0.5".parse().unwrap()];
        let text = hosts(&pod(&full), &ips);
        assert!(
            text.contains("10.90.0.5\tdb-0.db.default.svc.cluster.local\tdb-0\n"),
            "{text}"
        );
        let alias =
            json!({"hostNetwork": true, "hostAliases": [{"ip": "192.0.2.9", "hostnames": ["a", "b"]}]});
        let text = hosts_of_node(&pod(&alias), "127.0.0.1 localhost\n");
        assert!(text.ends_with("127.0.0.1 localhost\n192.0.2.9\ta\tb\n"), "{text}");
    }
}
