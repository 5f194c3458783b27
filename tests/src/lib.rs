//! The test kit: Postroad's programs as processes, real peers, and what they need.

#![expect(
    clippy::expect_used,
    reason = "a test kit stops at the first thing that is not as it must be"
)]

pub mod account;
pub mod certificates;
pub mod crash;
pub mod daemon;
pub mod dialogue;
pub mod disk;
pub mod dns;
pub mod dovecot;
pub mod exim;
pub mod hop;
pub mod http;
pub mod letters;
pub mod load;
pub mod memory;
pub mod orders;
pub mod peers;
pub mod policies;
pub mod postfix;
pub mod postgres;
pub mod process;
pub mod programs;
pub mod signed_dns;
pub mod sink;
pub mod site;
pub mod slapd;
pub mod socketmap;

/// The examples of README.md, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
