//! The CNI protocol: what a plugin is asked (environment and stdin) and what it answers (stdout).
//!
//! Source: CNI specification 1.1, sections 2 (execution protocol) and 5 (result types).

mod dispatch;
mod failure;
mod fields;
mod request;
mod result;
mod version;

pub use dispatch::{Plugin, Reply, run};
pub use failure::{Failure, code};
pub use fields::{Fields, parse_cidr, parse_ip, parse_mac};
pub use request::{Args, Attachment, Command, REPAIR, Request, valid_interface_name, valid_name};
pub use result::{AddResult, Address, Dns, Interface, Route, configured_dns, format_mac};
pub use version::Version;
