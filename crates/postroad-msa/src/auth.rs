use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use postroad_mail::Address;
use postroad_proto::sasl::Secret;

/// Who has logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user's name, as the directory spells it.
    pub user: String,
    /// Addresses that are the user's besides the name itself.
    pub addresses: Vec<Address>,
}

/// The directory cannot say who that is, now: 454 4.7.0.
#[derive(Clone, Debug, thiserror::Error)]
#[error("looking up a user in {directory}: {detail}")]
pub struct AuthError {
    /// Where.
    pub directory: String,
    /// Why not.
    pub detail: String,
}

/// What a directory knows of a name that VRFY asks for (RFC 5321 section 3.5).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Found {
    /// One user, with this mailbox.
    Mailbox(Address),
    /// More than one.
    Ambiguous,
    /// None, where it would know: 550 5.1.1.
    Unknown,
    /// It cannot say, as of addresses elsewhere: 252.
    CannotSay,
}

/// Says who a user is.
pub trait Authenticator: Send + Sync + 'static {
    /// The identity, if this is the user's password. `None` for a wrong password and for an unknown user,
    /// after the same work.
    ///
    /// # Errors
    /// Where the directory cannot be asked now.
    fn verify(
        &self,
        user: &str,
        secret: &Secret,
    ) -> impl Future<Output = Result<Option<Identity>, AuthError>> + Send;

    /// What is known of a user name, an address or its local part. Users alone ask, and only where
    /// `limits.verify` lets them. By default a directory cannot say.
    ///
    /// # Errors
    /// Where the directory cannot be asked now.
    fn find(&self, whom: &str) -> impl Future<Output = Result<Found, AuthError>> + Send {
        let _ = whom;
        std::future::ready(Ok(Found::CannotSay))
    }
}

type Finding<'a> = Pin<Box<dyn Future<Output = Result<Found, AuthError>> + Send + 'a>>;
type Verifying<'a> = Pin<Box<dyn Future<Output = Result<Option<Identity>, AuthError>> + Send + 'a>>;

trait ErasedAuthenticator: Send + Sync {
    fn verify<'a>(&'a self, user: &'a str, secret: &'a Secret) -> Verifying<'a>;
    fn find<'a>(&'a self, whom: &'a str) -> Finding<'a>;
}

impl<A: Authenticator> ErasedAuthenticator for A {
    fn verify<'a>(&'a self, user: &'a str, secret: &'a Secret) -> Verifying<'a> {
        Box::pin(Authenticator::verify(self, user, secret))
    }

    fn find<'a>(&'a self, whom: &'a str) -> Finding<'a> {
        Box::pin(Authenticator::find(self, whom))
    }
}

/// An authenticator, shared by all sessions.
#[derive(Clone)]
pub struct SharedAuthenticator(Arc<dyn ErasedAuthenticator>);

impl SharedAuthenticator {
    /// Shares one.
    #[must_use]
    pub fn new(authenticator: impl Authenticator) -> Self {
        Self(Arc::new(authenticator))
    }

    pub(crate) async fn verify(
        &self,
        user: &str,
        secret: &Secret,
    ) -> Result<Option<Identity>, AuthError> {
        self.0.verify(user, secret).await
    }

    pub(crate) async fn find(&self, whom: &str) -> Result<Found, AuthError> {
        self.0.find(whom).await
    }
}

impl<A: Authenticator> Authenticator for Arc<A> {
    async fn verify(&self, user: &str, secret: &Secret) -> Result<Option<Identity>, AuthError> {
        A::verify(self, user, secret).await
    }

    async fn find(&self, whom: &str) -> Result<Found, AuthError> {
        A::find(self, whom).await
    }
}

impl std::fmt::Debug for SharedAuthenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedAuthenticator")
    }
}
