//! Container engines with their real daemons: Berth in runc's place, seen by the engine's user and from inside.

mod containerd;
mod cri;
mod crio;
mod docker;
mod podman;
mod table;
