//! OCI image store: import, layers, root file systems.
