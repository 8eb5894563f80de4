//! Container engines with their real daemons.
