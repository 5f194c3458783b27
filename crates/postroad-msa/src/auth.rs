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
}

type Verifying<'a> = Pin<Box<dyn Future<Output = Result<Option<Identity>, AuthError>> + Send + 'a>>;

trait ErasedAuthenticator: Send + Sync {
    fn verify<'a>(&'a self, user: &'a str, secret: &'a Secret) -> Verifying<'a>;
}

impl<A: Authenticator> ErasedAuthenticator for A {
    fn verify<'a>(&'a self, user: &'a str, secret: &'a Secret) -> Verifying<'a> {
        Box::pin(Authenticator::verify(self, user, secret))
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
}

impl<A: Authenticator> Authenticator for Arc<A> {
    async fn verify(&self, user: &str, secret: &Secret) -> Result<Option<Identity>, AuthError> {
        A::verify(self, user, secret).await
    }
}

impl std::fmt::Debug for SharedAuthenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedAuthenticator")
    }
}
