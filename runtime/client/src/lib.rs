//! Drives any runc-compatible runtime binary.
