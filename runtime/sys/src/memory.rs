//! Giving memory back to the kernel (madvise(2)).

/// Unmaps the pages of this program's own code and constants; what is needed again comes back from the
/// page cache by a minor fault. The kernel maps code in windows of 16 pages around each fault, also of
/// functions that are never called: for a small resident process that is most of its memory.
///
/// Does nothing where `/proc/self/maps` cannot be read. Returns the number of bytes that were advised.
pub fn drop_code_pages() -> usize {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else {
        return 0;
    };
    let Ok(program) = std::fs::read_link("/proc/self/exe") else {
        return 0;
    };
    let Some(program) = program.to_str() else { return 0 };
    let mut bytes = 0;
    for line in maps.lines().filter(|line| line.ends_with(program)) {
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some(permissions), Some(offset)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        // The other read-only segment of the file was written by the relocation: those pages are not in the file.
        let pristine =
            permissions == "r-xp" || (permissions == "r--p" && offset.trim_start_matches('0').is_empty());
        let Some((start, end)) = range.split_once('-') else {
            continue;
        };
        let (Ok(start), Ok(end)) = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16)) else {
            continue;
        };
        if pristine && end > start {
            let address = std::ptr::with_exposed_provenance_mut(start);
            // SAFETY: the range is a private, never written mapping of our own program file, which the kernel
            // keeps from being modified while it runs (ETXTBSY): a dropped page comes back with the same bytes.
            if unsafe { libc::madvise(address, end - start, libc::MADV_DONTNEED) } == 0 {
                bytes += end - start;
            }
        }
    }
    bytes
}

/// Gives the free part of the heap back (malloc_trim(3), glibc).
pub fn trim_heap() {
    // SAFETY: the call takes a number and changes only the allocator's own state.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_program_goes_on_without_its_pages() {
        assert!(super::drop_code_pages() > 0);
        assert_eq!("1,2,3".split(',').count(), 3);
    }
}
