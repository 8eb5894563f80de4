//! Docker (Debian's docker.io): a daemon of the lab's own on a bridge in the lab's network namespace.

use crate::table::{self, PROBE, Row};
use harness::{Lab, Outcome, need_program, need_root, repository_root};
use serde_json::{Value, json};
use std::process::Child;

struct Docker {
    lab: Lab,
    daemon: Child,
}

impl Docker {
    /// The daemon with the configuration of examples/engines, which only gets folders of the lab's own.
    fn new(change: impl FnOnce(&mut Value)) -> Self {
        let lab = Lab::new();
        table::prepare(&lab);
        let dir = lab.path().display().to_string();
        let example = repository_root().join("examples/engines/docker-daemon.json");
        let text = std::fs::read_to_string(example).expect("read the example");
        let mut config: Value =
            serde_json::from_str(&text.replace("/usr/local/bin", &format!("{dir}/bin"))).expect("JSON");
        config["data-root"] = json!(format!("{dir}/data"));
        config["exec-root"] = json!(format!("{dir}/exec"));
        config["pidfile"] = json!(format!("{dir}/docker.pid"));
        config["hosts"] = json!([format!("unix://{dir}/d.sock")]);
        config["cgroup-parent"] = json!(format!("/{}", lab.name()));
        config["storage-driver"] = json!("overlay2");
        change(&mut config);
        std::fs::write(lab.path().join("daemon.json"), config.to_string()).expect("write");
        // Ids for remapped users; the host's lists stay as they are.
        lab.sh(r#"
for file in subuid subgid; do
    [ -e /etc/$file ] || touch /etc/$file
    { cat /etc/$file; echo nobody:700000:65536; echo nogroup:700000:65536; } >etc-$file
    mount --bind etc-$file /etc/$file
done
"#)
            .ok();
        let daemon = lab.daemon("dockerd", "dockerd --config-file daemon.json");
        let docker = Self { lab, daemon };
        docker
            .sh("wait_until quietly docker version; docker import image.tar busybox >/dev/null")
            .ok();
        docker
    }

    fn sh(&self, script: &str) -> Outcome {
        self.lab
            .sh(&format!("export DOCKER_HOST=unix://$LAB/d.sock\n{script}"))
    }

    /// Stops the daemon as its service manager would, and asserts that nothing of it is left.
    fn stop(mut self) {
        self.sh("docker rm -f $(docker ps -aq) >/dev/null 2>&1; kill $(cat docker.pid)")
            .ok();
        let _ = self.daemon.wait();
        self.lab
            .sh("wait_until eval '! pgrep -f [c]ontainerd >/dev/null' || { ps -ef; exit 1; }")
            .ok();
        assert_eq!(self.lab.processes(), Vec::<String>::new(), "processes are left");
        let ours: Vec<String> = self
            .lab
            .mounts()
            .into_iter()
            .filter(|m| m.contains("/containers/") || m.contains("merged"))
            .collect();
        assert_eq!(ours, Vec::<String>::new(), "mounts are left");
        let cgroups: Vec<_> = self
            .lab
            .cgroups()
            .into_iter()
            .filter(|dir| !dir.ends_with(self.lab.name()))
            .collect();
        assert!(cgroups.is_empty(), "cgroups are left: {cgroups:#?}");
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

const ROWS: &[Row] = &[
    ("", PROBE),
    ("--memory 64m", PROBE),
    ("--memory 64m --memory-swap 128m --memory-reservation 32m", PROBE),
    ("--cpus 0.5", PROBE),
    ("--cpu-shares 512 --cpuset-cpus 0", PROBE),
    ("--pids-limit 33", PROBE),
    ("--ulimit nofile=99:100 --ulimit core=0", PROBE),
    ("--cap-add NET_ADMIN --cap-add SYS_TIME", PROBE),
    ("--cap-drop ALL", PROBE),
    ("--cap-drop ALL --cap-add CHOWN --user 1000", PROBE),
    ("--security-opt seccomp=unconfined", PROBE),
    (
        "--security-opt seccomp=$LAB/seccomp.json",
        "sh -c 'mkdir /tmp/x; echo $?'",
    ),
    ("--security-opt no-new-privileges", PROBE),
    ("--security-opt systempaths=unconfined", PROBE),
    ("--read-only --tmpfs /tmp", PROBE),
    ("--tmpfs /scratch:size=1m,mode=1770,noexec", PROBE),
    ("--device /dev/fuse", PROBE),
    (
        "--device /dev/zero:/dev/other:r",
        "sh -c 'head -c 3 /dev/other | wc -c; echo x >/dev/other; echo $?'",
    ),
    ("--user 1000:2000 --group-add 3000", PROBE),
    ("--user nobody", PROBE),
    ("--init", "sh -c 'tr \"\\0\" \" \" </proc/1/cmdline'"),
    (
        "--sysctl net.ipv4.ip_forward=0 --sysctl kernel.shmmax=123456",
        PROBE,
    ),
    ("--shm-size 10m", PROBE),
    ("--privileged", PROBE),
    (
        "--hostname abc --add-host x:1.2.3.4",
        "sh -c 'hostname; grep 1.2.3.4 /etc/hosts'",
    ),
    ("--network none", "sh -c 'ls /sys/class/net'"),
    ("--network host", "sh -c 'ls /sys/class/net | grep -c docker0'"),
    (
        "--pid host --ipc host --uts host",
        "sh -c 'test -e /proc/1/cmdline && echo seen'",
    ),
    ("--cgroupns private", PROBE),
    ("-e A=b -w /tmp", PROBE),
    ("--entrypoint /bin/echo", "by the entrypoint"),
    ("-v named:/data", "sh -c 'echo kept >/data/file; cat /data/file'"),
    (
        "-v $LAB/share:/share:ro",
        "sh -c 'cat /share/file; touch /share/x; echo $?'",
    ),
    (
        "--mount type=bind,src=$LAB/share,dst=/share,bind-propagation=rslave",
        PROBE,
    ),
    ("--mount type=tmpfs,dst=/t,tmpfs-size=65536", PROBE),
    ("--oom-score-adj 300", PROBE),
    ("--cpu-period 50000 --cpu-quota 20000", PROBE),
    ("--memory-swappiness 10 --oom-kill-disable --memory 64m", PROBE),
    ("--device-read-bps /dev/loop0:1mb --blkio-weight 0", PROBE),
    ("--device-cgroup-rule 'c 10:229 rm' --group-add audio", PROBE),
    ("--ulimit nproc=50 --ulimit memlock=65536", PROBE),
    ("--ipc private --shm-size 2m --tmpfs /run:rw,nosuid", PROBE),
    (
        "--stop-signal USR1 --label a=b --log-driver none",
        "sh -c 'exit 3'",
    ),
    (
        "--dns 9.9.9.9 --dns-search example --domainname example",
        "sh -c 'grep -v ^# /etc/resolv.conf; cat /proc/sys/kernel/domainname'",
    ),
    (
        "--mac-address 02:42:ac:11:00:77",
        "sh -c 'cat /sys/class/net/eth0/address'",
    ),
    (
        "--security-opt label=disable --security-opt apparmor=unconfined",
        PROBE,
    ),
    ("-t", "sh -c 'tty; test -t 1 && echo terminal'"),
    ("", "sh -c 'exit 42'"),
    ("", "sh -c 'kill -9 $$'"),
    ("", "/nosuch"),
    ("", "nosuch"),
    ("", "/etc/passwd"),
    (
        "--memory 20m --memory-swap 20m",
        "sh -c 'dd if=/dev/zero of=/dev/null bs=100M; echo $?'",
    ),
];

/// `.State.OOMKilled` is not among what is compared here: containerd's notice of it races with the end of the container, with
/// either runtime. [`WORK`] has it of a container that lives on.
#[test]
fn docker_shows_the_same_with_both_runtimes() {
    need_root!();
    need_program!("dockerd");
    need_program!("runc");
    let docker = Docker::new(|_| ());
    let text = table::differences(&docker.lab, ROWS, |runtime, number, (options, command)| {
        format!(
            "export DOCKER_HOST=unix://$LAB/d.sock; docker run --name {runtime}{number} --runtime {runtime} {options} busybox \
             {command} 2>&1; echo \"code $?\"; docker inspect -f '{{{{.State.Status}}}} {{{{.State.ExitCode}}}} \
             {{{{.State.Error}}}}' {runtime}{number}; docker rm -v {runtime}{number} >/dev/null"
        )
    });
    assert_eq!(text, "", "runc and berth differ:\n{text}");
    docker.stop();
}

/// The daily work of a user.
const WORK: &str = r#"
code() { docker inspect -f '{{.State.Status}} {{.State.ExitCode}}' $1; }
docker run -d --name web -p 127.0.0.1:8089:80 -v site:/www busybox sh -c 'echo page >/www/index.html; echo serving; exec httpd -f -p 80 -h /www' >/dev/null
wait_until quietly curl -sf http://127.0.0.1:8089/
curl -s http://127.0.0.1:8089/
docker logs web
docker exec web sh -c 'echo in the container; exit 7'; echo "exec: $?"
script -qec "docker exec -it web sh -c 'tty; exit 6'" /dev/null </dev/null | tr -d '\r' | sed 's/^\^@//'; echo "terminal: ${PIPESTATUS[0]}"
docker exec -i web cat </etc/hostname | cmp - /etc/hostname && echo "input: whole"
docker update --memory 96m --memory-swap 96m web >/dev/null; echo "update: $?"
docker exec web sh -c 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null'
docker pause web >/dev/null; docker inspect -f '{{.State.Status}}' web; docker unpause web >/dev/null; docker inspect -f '{{.State.Status}}' web
docker top web | grep -c httpd
docker stats --no-stream --format '{{.MemUsage}} {{.PIDs}}' web | sed 's/.*\//of/'
docker kill -s USR1 web >/dev/null; echo "kill: $?"
docker stop -t 1 web >/dev/null; docker inspect -f '{{.State.Status}}' web
docker start web >/dev/null; wait_until quietly curl -sf http://127.0.0.1:8089/ && echo "started again"
docker rm -f web >/dev/null
docker run -d --name again --restart on-failure:2 busybox sh -c 'exit 3' >/dev/null
wait_until eval '[ "$(docker inspect -f "{{.RestartCount}} {{.State.Status}}" again)" = "2 exited" ]'; code again
docker rm again >/dev/null
for policy in always unless-stopped; do
    docker run -d --name again --restart $policy busybox sh -c 'exit 3' >/dev/null
    wait_until eval '[ "$(docker inspect -f "{{.RestartCount}}" again)" -ge 2 ]' && echo "restarted: $policy"
    docker update --restart no again >/dev/null
    wait_until eval '[ "$(docker inspect -f "{{.State.Status}}" again)" = exited ]'; code again
    docker rm -f again >/dev/null
done
docker run -d --name polite busybox sh -c 'trap "exit 12" TERM; trap "echo reloaded" HUP; echo ready; while :; do sleep 0.05; done' >/dev/null
wait_until eval 'docker logs polite | grep -q ready'
docker kill -s HUP polite >/dev/null; wait_until eval 'docker logs polite | grep -q reloaded' && echo "hang-up: seen"
docker update --cpus 0.5 --pids-limit 44 --cpu-shares 300 polite >/dev/null; echo "update: $?"
docker exec polite sh -c 'cd /sys/fs/cgroup; cat pids/pids.max cpu/cpu.shares cpu/cpu.cfs_quota_us pids.max cpu.weight cpu.max 2>/dev/null'
docker exec -u 1000:2000 -w /tmp -e A=b polite sh -c 'id; pwd; echo $A'
docker exec -d polite sh -c 'echo in the background >/background'; wait_until quietly docker exec polite test -s /background && echo "in the background"
docker stop -t 20 polite >/dev/null; code polite
docker rm polite >/dev/null
docker run -d --name sick --health-cmd 'exit 1' --health-interval 100ms --health-retries 2 busybox sleep 1000 >/dev/null
wait_until eval '[ "$(docker inspect -f "{{.State.Health.Status}}" sick)" = unhealthy ]' && echo unhealthy
docker rm -f sick >/dev/null
docker run -d --name first --ipc shareable busybox sleep 1000 >/dev/null
docker run --rm --pid container:first --ipc container:first --network container:first busybox sh -c 'tr "\0" " " </proc/1/cmdline; ls /sys/class/net | grep -c eth0'
docker run --rm --volumes-from first --link first:neighbour busybox sh -c 'ping -c 1 -W 5 neighbour' | grep -o '1 packets received'
docker rm -f first >/dev/null
docker run -d --name healthy --health-cmd 'test -e /tmp/well' --health-interval 1s busybox sh -c 'touch /tmp/well; exec sleep 1000' >/dev/null
wait_until eval '[ "$(docker inspect -f "{{.State.Health.Status}}" healthy)" = healthy ]' && echo healthy
docker rm -f healthy >/dev/null
docker network create --subnet 10.88.7.0/24 net >/dev/null
docker run -d --name one --network net busybox sleep 1000 >/dev/null
docker run --rm --network net busybox ping -c 1 -W 5 one | grep -o '1 packets received'
docker rm -f one >/dev/null; docker network rm net >/dev/null
docker run -d --name attached busybox sh -c 'sleep 1; echo late; exit 5' >/dev/null; docker attach attached; echo "attach: $?"
docker wait attached; docker rm attached >/dev/null
docker run -d --name hungry --memory 20m --memory-swap 20m busybox sh -c 'dd if=/dev/zero of=/dev/null bs=100M; exec sleep 1000' >/dev/null
wait_until eval '[ -n "$(docker events --since 0 --until $(date +%s) --filter event=oom --filter container=hungry)" ]'
docker kill hungry >/dev/null; docker wait hungry
docker inspect -f '{{.State.Status}} {{.State.ExitCode}}, lack of memory: {{.State.OOMKilled}}' hungry
docker rm hungry >/dev/null
"#;

#[test]
fn the_daily_work_with_docker_is_the_same() {
    need_root!();
    need_program!("dockerd");
    need_program!("curl");
    let docker = Docker::new(|_| ());
    let ours = docker.sh(WORK).ok();
    docker.stop();
    let docker = Docker::new(|config| config["default-runtime"] = json!("runc"));
    let theirs = docker.sh(WORK).ok();
    docker.stop();
    for seen in [
        "page",
        "exec: 7",
        "terminal: 6",
        "100663296",
        "paused\nrunning",
        "exited 3",
        "healthy",
        "unhealthy",
        "restarted: always",
        "restarted: unless-stopped",
        "hang-up: seen",
        "exited 12",
        "gid=2000",
        "1 packets received",
        "attach: 5",
        "exited 137, lack of memory: true",
    ] {
        assert!(
            theirs.contains(seen),
            "docker with runc does not show `{seen}`:\n{theirs}"
        );
    }
    assert_eq!(ours, theirs);
}

#[test]
fn docker_remaps_users_restores_live_and_runs_services_and_compositions() {
    need_root!();
    need_program!("dockerd");
    need_program!("docker-compose");
    let mut docker = Docker::new(|config| config["live-restore"] = json!(true));
    docker.sh("docker run -d --name kept busybox sh -c 'while [ ! -e /go ]; do sleep 0.1; done; exit 8' >/dev/null").ok();
    docker.lab.sh("kill -9 $(cat docker.pid)").ok();
    let _ = docker.daemon.wait();
    docker.daemon = docker.lab.daemon("dockerd", "dockerd --config-file daemon.json");
    let text = docker
        .sh(r#"
wait_until quietly docker version
docker inspect -f '{{.State.Status}}' kept
docker exec kept touch /go
docker wait kept; docker rm kept >/dev/null
mkdir comp; cat >comp/docker-compose.yml <<'X'
version: "2.4"
services:
  server: {image: busybox, command: sh -c 'mkdir /w; echo composed >/w/index.html; exec httpd -f -p 80 -h /w'}
  client: {image: busybox, depends_on: [server], command: sh -c 'until wget -qO- http://server/; do sleep 0.2; done'}
X
cd comp; docker-compose up --exit-code-from client 2>&1 | grep -o 'composed' | head -1; docker-compose down >/dev/null 2>&1; cd ..
docker ps -aq | wc -l
"#)
        .ok();
    assert_eq!(text, "running\n8\ncomposed\n0\n");
    docker.stop();

    let docker = Docker::new(|config| config["userns-remap"] = json!("nobody:nogroup"));
    let text = docker
        .sh("docker run --rm busybox sh -c 'cat /proc/self/uid_map; id -u; touch /x && stat -c %u /x'")
        .ok();
    let words: Vec<&str> = text.split_whitespace().collect();
    assert!(
        words.len() == 5 && words[0] == "0" && words[1] == "700000" && words[3] == "0" && words[4] == "0",
        "{text}"
    );
    docker.stop();

    let docker = Docker::new(|_| ());
    let text = docker
        .sh(r#"
docker swarm init --advertise-addr 127.0.0.1 >/dev/null
docker service create --detach --name s --replicas 2 --restart-condition any busybox sleep 1000 >/dev/null
wait_until eval '[ "$(docker ps -q --filter name=s. | wc -l)" = 2 ]'
docker inspect -f '{{.HostConfig.Runtime}}' $(docker ps -q --filter name=s.) | sort -u
docker kill $(docker ps -q --filter name=s.1) >/dev/null
wait_until eval '[ "$(docker service ps --filter desired-state=running s -q | wc -l)" = 2 -a "$(docker ps -q --filter name=s. | wc -l)" = 2 ]' && echo replaced
docker service rm s >/dev/null
wait_until eval '[ -z "$(docker ps -q)" ]'
docker swarm leave --force >/dev/null
"#)
        .ok();
    assert_eq!(text, "berth\nreplaced\n");
    docker.stop();
}
