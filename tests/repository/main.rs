//! Tests of the repository itself: who depends on whom, and that documents name what exists.

mod documents;
mod edges;
