//! Low-level OCI runtime with runc's command line.

fn main() {
    // Not std::process::ExitCode: the code may be any a container exits with, and nothing is left to unwind.
    std::process::exit(berth::commands::main(std::env::args_os()))
}
