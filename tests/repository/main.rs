//! Tests of the repository itself: who depends on whom, that documents name what exists, that the benchmark runs,
//! that what is installed is complete.

mod bench;
mod conformance;
mod documents;
mod edges;
mod install;
mod readme;
