//! Mail policy standards, on top of the mail-auth crate.
//!
//! TLS reports (RFC 8460): where a domain wants them ([`ReportTo`]), and how one is written
//! ([`TlsReport`]).

mod tlsrpt;
mod tlsrpt_record;

pub use tlsrpt::{
    FailureDetail, PolicyCounts, PolicyType, ReportError, ReportedPolicy, TlsReport, Written,
};
pub use tlsrpt_record::{REPORT_ADDRESSES_MAX, ReportTo, fuzz_tlsrpt_record};
