//! The same objects in another version or group: what clients send and see, and what is stored.

pub mod autoscaling;
pub mod events;
