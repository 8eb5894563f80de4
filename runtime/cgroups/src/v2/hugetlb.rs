//! hugetlb.SIZE.max and hugetlb.SIZE.rsvd.max.

use berth_spec::LinuxResources;

use crate::CgroupError;
use crate::resources::Ignored;
use crate::write::Write;

pub(crate) fn writes(resources: &LinuxResources, _: &mut Vec<Ignored>) -> Result<Vec<Write>, CgroupError> {
    limits(resources, "max", "max")
}

/// A write for usage and one for reservations a page size, with `suffix` as the files' last part and
/// `unlimited` for a negative limit.
pub(crate) fn limits(
    resources: &LinuxResources,
    suffix: &str,
    unlimited: &str,
) -> Result<Vec<Write>, CgroupError> {
    let mut writes = Vec::new();
    for (index, limit) in resources.hugepage_limits().iter().flatten().enumerate() {
        let size = limit.page_size();
        let number = size.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
        let unit = &size[number.len()..];
        if number.is_empty()
            || !number.bytes().all(|byte| byte.is_ascii_digit())
            || !matches!(unit, "KB" | "MB" | "GB")
        {
            return Err(CgroupError::invalid(
                format!("linux.resources.hugepageLimits[{index}].pageSize"),
                format!("{size:?} is not a page size such as 2MB or 1GB"),
            ));
        }
        let field = format!("linux.resources.hugepageLimits[{index}].limit");
        let value = if limit.limit() < 0 {
            unlimited.to_owned()
        } else {
            limit.limit().to_string()
        };
        writes.push(Write::named(
            format!("hugetlb.{size}.{suffix}"),
            &value,
            field.clone(),
        ));
        // Since Linux 5.7; the limit on usage alone is what older kernels can do.
        writes.push(Write::named(format!("hugetlb.{size}.rsvd.{suffix}"), &value, field).optional());
    }
    Ok(writes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_spec::LinuxHugepageLimit;

    #[test]
    fn page_sizes() {
        let of = |size: &str, limit: i64| {
            let one = LinuxHugepageLimit {
                page_size: size.to_owned(),
                limit,
            };
            let resources = LinuxResources {
                hugepage_limits: Some(vec![one]),
                ..LinuxResources::default()
            };
            writes(&resources, &mut Vec::new()).map_err(|error| error.to_string())
        };
        let found = of("2MB", 4_194_304).unwrap();
        assert_eq!(
            (found[0].file.as_ref(), found[0].value.as_str()),
            ("hugetlb.2MB.max", "4194304")
        );
        assert_eq!(
            (found[1].file.as_ref(), found[1].optional),
            ("hugetlb.2MB.rsvd.max", true)
        );
        for bad in ["", "2M", "../2MB", "MB", "2MBMB"] {
            assert!(of(bad, 1).unwrap_err().contains("pageSize"), "{bad}");
        }
    }
}
