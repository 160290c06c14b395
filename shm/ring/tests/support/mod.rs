//! What the ring's tests, benchmarks and fuzz target share.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

pub mod heap;
pub mod operation;
