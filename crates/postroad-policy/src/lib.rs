//! Mail policy standards, on top of the mail-auth crate.
