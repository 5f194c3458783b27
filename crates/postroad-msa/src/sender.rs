use postroad_mail::ReversePath;

use crate::auth::Identity;

/// Says which reverse-paths a user may use.
pub trait SenderPolicy: Send + Sync + 'static {
    /// Whether this one.
    fn allows(&self, identity: &Identity, from: &ReversePath) -> bool;
}

/// Any.
#[derive(Clone, Copy, Debug, Default)]
pub struct AnyAddress;

impl SenderPolicy for AnyAddress {
    fn allows(&self, _identity: &Identity, _from: &ReversePath) -> bool {
        true
    }
}

/// The null one, the user's name where it is an address, and the addresses that the directory
/// gives. Local parts are compared without regard to case: the directory is our own.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnAddress;

impl SenderPolicy for OwnAddress {
    fn allows(&self, identity: &Identity, from: &ReversePath) -> bool {
        let Some(address) = from.address() else {
            return true;
        };
        let own_name = identity.user.parse().ok();
        identity
            .addresses
            .iter()
            .chain(&own_name)
            .any(|own: &postroad_mail::Address| {
                own.domain() == address.domain()
                    && own
                        .local_part()
                        .as_str()
                        .eq_ignore_ascii_case(address.local_part().as_str())
            })
    }
}
