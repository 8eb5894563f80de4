//! hugetlb.SIZE.limit_in_bytes and hugetlb.SIZE.rsvd.limit_in_bytes.

use berth_spec::LinuxResources;

use crate::CgroupError;
use crate::resources::Ignored;
use crate::v2::hugetlb::limits;
use crate::write::Write;

pub(crate) fn writes(resources: &LinuxResources, _: &mut Vec<Ignored>) -> Result<Vec<Write>, CgroupError> {
    limits(resources, "limit_in_bytes", "-1")
}
