//! What /proc tells about one process.

use std::io;
use std::path::Path;

use berth_sys::files::read_all;

/// Whether a process still runs anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessState {
    /// Running, sleeping, stopped, traced: it has not exited.
    Alive,
    /// A zombie, or being removed.
    Dead,
}

/// The two fields of `/proc/PID/stat` (proc_pid_stat(5)) that tell one process from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessStat {
    /// From field 3.
    pub state: ProcessState,
    /// Field 22: start time in clock ticks after boot.
    pub start_time: u64,
}

/// Looks at a process; `Ok(None)` when there is none with this id.
pub fn stat(pid: i32) -> io::Result<Option<ProcessStat>> {
    match read_all(Path::new(&format!("/proc/{pid}/stat"))) {
        Ok(text) => parse(&String::from_utf8_lossy(&text))
            .map(Some)
            .ok_or_else(|| io::ErrorKind::InvalidData.into()),
        // ESRCH: it exited between open and read.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn parse(line: &str) -> Option<ProcessStat> {
    // The command's name may hold anything, also blanks and parentheses: the last parenthesis ends it.
    let mut fields = line.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = match fields.next()? {
        "Z" | "X" | "x" => ProcessState::Dead,
        _ => ProcessState::Alive,
    };
    // The state was field 3.
    let start_time = fields.nth(22 - 4)?.parse().ok()?;
    Some(ProcessStat { state, start_time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_confuse() {
        let line = "12 (a) Z 1 (b) S 1 12 12 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        let stat = parse(line).unwrap();
        assert_eq!(
            stat,
            ProcessStat {
                state: ProcessState::Alive,
                start_time: 4711
            }
        );
        assert_eq!(parse("12 (a) Z"), None);
    }

    #[test]
    fn this_process_is_alive_and_none_has_id_minus_one() {
        let stat = stat(std::process::id() as i32).unwrap().unwrap();
        assert_eq!(stat.state, ProcessState::Alive);
        assert!(stat.start_time > 0);
        assert_eq!(super::stat(-1).unwrap(), None);
    }
}
