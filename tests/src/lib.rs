//! The test kit: Postroad's programs as processes, real peers, and what they need.

#![expect(
    clippy::expect_used,
    reason = "a test kit stops at the first thing that is not as it must be"
)]

pub mod certificates;
pub mod dialogue;
pub mod dns;
pub mod http;
pub mod memory;
pub mod peers;
pub mod postfix;
pub mod process;
pub mod programs;
pub mod sink;
pub mod site;

/// The examples of README.md, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
