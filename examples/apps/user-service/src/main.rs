//! A small HTTP server with /healthz, /env and /crash, run by the examples.

fn main() {}
