//! Tests of cni.
