//! Operator's command line: images, apply, get, logs, rollout.

fn main() {}
