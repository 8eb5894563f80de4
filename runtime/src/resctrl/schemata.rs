//! Lines of a schemata file: `L3:0=7f0;1=1f`, `MB:0=20;1=70`.

use berth_spec::LinuxIntelRdt;

/// What is to be written, in order, each with the field that says so (config-linux.md).
pub(super) fn lines(asked: &LinuxIntelRdt) -> Vec<(&'static str, &str)> {
    let single = [
        ("linux.intelRdt.l3CacheSchema", asked.l3_cache_schema().as_deref()),
        ("linux.intelRdt.memBwSchema", asked.mem_bw_schema().as_deref()),
    ];
    let more = asked.schemata().iter().flatten();
    single
        .into_iter()
        .filter_map(|(field, line)| Some((field, line?)))
        .chain(more.map(|line| ("linux.intelRdt.schemata", line.as_str())))
        .filter(|(_, line)| !line.is_empty())
        .collect()
}

/// Whether a group's schemata have the shares of `line`. The kernel pads names, orders caches, and writes numbers its
/// own way, so the meanings are compared.
pub(super) fn holds(present: &str, line: &str) -> bool {
    let Some((name, wanted)) = parse(line) else {
        return false;
    };
    let found = present
        .lines()
        .filter_map(parse)
        .find(|(found, _)| *found == name);
    found.is_some_and(|(_, found)| wanted.iter().all(|share| found.contains(share)))
}

/// The resource's name, and (cache id, share).
fn parse(line: &str) -> Option<(&str, Vec<(u64, u64)>)> {
    let (name, shares) = line.trim().split_once(':')?;
    // Shares of a cache are bit masks, of bandwidth decimal numbers.
    let radix = if name.starts_with('L') { 16 } else { 10 };
    let share = |part: &str| {
        let (cache, share) = part.trim().split_once('=')?;
        let share = share.trim().trim_start_matches("0x");
        Some((
            cache.trim().parse().ok()?,
            u64::from_str_radix(share, radix).ok()?,
        ))
    };
    let shares = shares.split(';').map(share).collect::<Option<Vec<_>>>()?;
    Some((name, shares))
}
