//! Limits of the process itself.

use berth_spec::Spec;

use super::{Invalid, process};
use crate::host::HostFacts;

/// config.md "POSIX process": each type once, and soft within hard (setrlimit(2)).
pub(super) fn rlimits(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    let Some(rlimits) = process(spec).and_then(|process| process.rlimits().as_ref()) else {
        return Ok(());
    };
    for (index, limit) in rlimits.iter().enumerate() {
        let field = |name: &str| format!("process.rlimits[{index}].{name}");
        if rlimits[..index]
            .iter()
            .any(|earlier| earlier.typ() == limit.typ())
        {
            let problem = format_args!("{} is given twice: keep one", limit.typ()).to_string();
            return Err(Invalid::new(field("type"), problem));
        }
        if limit.soft() > limit.hard() {
            let problem = format!(
                "{} is above the hard limit {}: lower it",
                limit.soft(),
                limit.hard()
            );
            return Err(Invalid::new(field("soft"), problem));
        }
    }
    Ok(())
}

/// proc_pid_oom_score_adj(5).
pub(super) fn oom_score(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    match process(spec).and_then(berth_spec::Process::oom_score_adj) {
        Some(score) if !(-1000..=1000).contains(&score) => Err(Invalid::new(
            "process.oomScoreAdj",
            format_args!("{score} is out of range: use -1000 to 1000"),
        )),
        _ => Ok(()),
    }
}
