//! CNI plugins over netlink, and the runtime side of CNI.

fn main() {}
