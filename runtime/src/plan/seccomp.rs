//! `linux.seccomp`: where in the order the filter is loaded.
//!
//! Without no_new_privs only a process with CAP_SYS_ADMIN may load one, so it comes before the capabilities are
//! given up; with it, it is the last thing before execve(2). Either way as little as possible is done under the
//! filter: two or three system calls, where a runtime in a managed language needs dozens.

use crate::seccomp::Program;
use crate::wire::InitStep;

/// The step that loads it.
pub(super) fn step(program: &Program) -> InitStep {
    InitStep::Seccomp {
        program: program.filter.concat(),
        flags: program.flags,
        listener: program.listener.is_some(),
    }
}
