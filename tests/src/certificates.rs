//! Certificates for tests, made on the spot.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// A certificate and its key as PEM files.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate, self-signed: also its own root.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Makes a self-signed certificate for `names` in `directory`.
///
/// # Errors
/// Where it cannot be written.
pub fn make(directory: &Path, names: &[&str]) -> anyhow::Result<Certificate> {
    let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names)?;
    let (certificate, key) = (directory.join("certificate.pem"), directory.join("key.pem"));
    fs::write(&certificate, made.cert.pem())?;
    fs::write(&key, made.signing_key.serialize_pem())?;
    fs::set_permissions(&key, Permissions::from_mode(0o600))?;
    Ok(Certificate { certificate, key })
}
