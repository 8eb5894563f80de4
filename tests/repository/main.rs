//! Tests of the repository itself: who depends on whom, that documents name what exists, that the benchmark runs.

mod bench;
mod documents;
mod edges;
