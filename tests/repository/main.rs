//! Tests of repository.
