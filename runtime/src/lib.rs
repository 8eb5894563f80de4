//! Low-level OCI runtime with runc's command line.
