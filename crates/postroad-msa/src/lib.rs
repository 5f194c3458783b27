//! The submission role (RFC 6409): it takes mail from users who have proved who they are.
//!
//! [`Submission`] is served by `postroad_net::server::Server`. Who a user is, an
//! [`Authenticator`] says ([`UsersFile`] is one); which reverse-paths a user may use, a
//! [`SenderPolicy`] says.
//!
//! ```
//! use postroad_msa::{OwnAddress, SenderPolicy, Identity};
//!
//! let alice = Identity { user: "alice@example.org".to_owned(), addresses: vec!["info@example.org".parse()?] };
//! let may = |from: &str| OwnAddress.allows(&alice, &from.parse().unwrap());
//! assert!(may("<alice@example.org>") && may("<info@example.org>") && may("<>"));
//! assert!(!may("<bob@example.org>"));
//! # Ok::<(), postroad_mail::PathError>(())
//! ```

mod auth;
mod checker;
mod hashing;
mod sender;
mod submission;
mod users_edit;
mod users_file;

pub use auth::{AuthError, Authenticator, Found, Identity, SharedAuthenticator};
pub use hashing::{HashError, HashFault, hash_password};
pub use sender::{AnyAddress, OwnAddress, SenderPolicy};
pub use submission::{Config, Submission};
pub use users_edit::{add_user, remove_user, set_password};
pub use users_file::{User, UsersFile, UsersFileError, list_users};
