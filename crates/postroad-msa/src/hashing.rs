//! Password hashes: Argon2id within bounds.

use std::cell::RefCell;
use std::collections::BTreeMap;

use argon2::password_hash::PasswordHasher as _;
use argon2::password_hash::phc::{Output, PasswordHash};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use postroad_proto::sasl::Secret;

/// Memory of one check, at most, in KiB: as many as there are processors run at a time.
const M_MAX: u32 = 256 << 10;
/// Passes over it, at most.
const T_MAX: u32 = 10;
/// Lanes, at most.
const P_MAX: u32 = 16;

/// A password cannot be hashed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("hashing a password: {0}")]
pub struct HashError(String);

/// The Argon2id hash of a password, with a salt of its own, as a PHC string.
///
/// # Errors
/// Where the system gives no randomness, or the password is longer than Argon2 takes.
pub fn hash_password(password: &str) -> Result<String, HashError> {
    let hash = Argon2::default()
        .hash_password(password.as_bytes())
        .map_err(|e| HashError(e.to_string()))?;
    Ok(hash.to_string())
}

/// A hash that is not to be checked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashFault {
    /// Not in the form of a PHC string with salt and hash.
    #[error("is no Argon2id hash")]
    Form,
    /// Of another algorithm.
    #[error("is a hash of {0}; only argon2id is taken")]
    Algorithm(String),
    /// Of parameters with which each login would cost too much.
    #[error("has {parameter}={value}; at most {parameter}={most} is taken")]
    Costs {
        /// `m`, `t` or `p`.
        parameter: char,
        /// What it is.
        value: u32,
        /// What it may be.
        most: u32,
    },
}

/// What a check costs: memory in KiB, passes, lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Cost {
    m: u32,
    t: u32,
    p: u32,
}

impl Cost {
    /// That of a hash, if it may be checked at all: whoever can write the users' file must not be
    /// able to stop the service with it.
    pub(crate) fn of(text: &str) -> Result<Self, HashFault> {
        let hash = PasswordHash::new(text).map_err(|_| HashFault::Form)?;
        if hash.algorithm.as_str() != "argon2id" {
            return Err(HashFault::Algorithm(hash.algorithm.as_str().to_owned()));
        }
        if hash.salt.is_none() || hash.hash.is_none() {
            return Err(HashFault::Form);
        }
        let params = Params::try_from(&hash).map_err(|_| HashFault::Form)?;
        let cost = Self {
            m: params.m_cost(),
            t: params.t_cost(),
            p: params.p_cost(),
        };
        for (parameter, value, most) in [
            ('m', cost.m, M_MAX),
            ('t', cost.t, T_MAX),
            ('p', cost.p, P_MAX),
        ] {
            if value > most {
                return Err(HashFault::Costs {
                    parameter,
                    value,
                    most,
                });
            }
        }
        Ok(cost)
    }

    /// What most of these hashes cost; that of a new one, where there are none.
    pub(crate) fn usual<'a>(hashes: impl Iterator<Item = &'a str>) -> Self {
        let mut counts = BTreeMap::<Self, usize>::new();
        for cost in hashes.filter_map(|hash| Self::of(hash).ok()) {
            *counts.entry(cost).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        most.map_or(
            Self {
                m: Params::DEFAULT_M_COST,
                t: Params::DEFAULT_T_COST,
                p: Params::DEFAULT_P_COST,
            },
            |(cost, _)| cost,
        )
    }

    /// A hash that costs this, of nobody's password.
    pub(crate) fn nobody(self) -> Result<String, HashError> {
        let params =
            Params::new(self.m, self.t, self.p, None).map_err(|e| HashError(e.to_string()))?;
        let hash = Argon2::from(params)
            .hash_password(b"nobody")
            .map_err(|e| HashError(e.to_string()))?;
        Ok(hash.to_string())
    }
}

thread_local! {
    /// What checks on this thread compute in. It is kept for the next one: memory of this size,
    /// taken and given back each time, is soon in pieces of which the allocator reuses none.
    static MEMORY: RefCell<Vec<Block>> = const { RefCell::new(Vec::new()) };
}

/// Whether a hash is that of a password: as slow as the hash has it.
pub(crate) fn is_password(hash: &str, secret: &Secret) -> bool {
    MEMORY.with_borrow_mut(|memory| is_password_in(memory, hash, secret).unwrap_or(false))
}

fn is_password_in(memory: &mut Vec<Block>, hash: &str, secret: &Secret) -> Option<bool> {
    let hash = PasswordHash::new(hash).ok()?;
    let (salt, expected) = (hash.salt.as_ref()?, hash.hash.as_ref()?);
    let algorithm = Algorithm::try_from(hash.algorithm.as_str()).ok()?;
    let version = hash
        .version
        .map_or(Ok(Version::default()), Version::try_from);
    let params = Params::try_from(&hash).ok()?;
    let blocks = params.block_count();
    if memory.len() < blocks {
        // Not both at the same time, as while one grows into the other.
        *memory = Vec::new();
        *memory = vec![Block::new(); blocks];
    }
    let mut computed = vec![0; expected.as_bytes().len()];
    Argon2::new(algorithm, version.ok()?, params)
        .hash_password_into_with_memory(
            secret.expose().as_bytes(),
            salt,
            &mut computed,
            memory.get_mut(..blocks)?,
        )
        .ok()?;
    // Compared in the same time, wherever they differ.
    Some(Output::new(&computed).is_ok_and(|computed| computed == *expected))
}

/// A hash of the password "nobody" that is checked in no time.
#[cfg(test)]
pub(crate) fn cheap_hash() -> String {
    let cost = Cost { m: 8, t: 1, p: 1 };
    cost.nobody().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: &str = "c29tZXNhbHRzb21lc2FsdA$hX2B5sYw9aWq2Yb0iM1h0m6Jx0dC9ZQ7zB0s4uK1c2E";

    #[test]
    fn which_hashes_are_taken() {
        let fault = |text: &str| Cost::of(text).unwrap_err().to_string();
        assert_eq!(
            Cost::of(&format!("$argon2id$v=19$m=19456,t=2,p=1${END}")),
            Ok(Cost {
                m: 19456,
                t: 2,
                p: 1
            })
        );
        assert!(Cost::of(&hash_password("x").unwrap()).is_ok());
        for (text, said) in [
            ("$argon2i$v=19$m=64,t=2,p=1$END", "of argon2i;"),
            ("$argon2d$v=19$m=64,t=2,p=1$END", "of argon2d;"),
            ("$scrypt$ln=15,r=8,p=1$END", "of scrypt;"),
            (
                "$argon2id$v=19$m=4194304,t=2,p=1$END",
                "has m=4194304; at most m=262144",
            ),
            ("$argon2id$v=19$m=64,t=11,p=1$END", "has t=11; at most t=10"),
            (
                "$argon2id$v=19$m=512,t=1,p=17$END",
                "has p=17; at most p=16",
            ),
            ("$argon2id$v=19$m=64,t=2,p=1", "no Argon2id hash"),
            ("secret", "no Argon2id hash"),
            ("", "no Argon2id hash"),
        ] {
            let text = text.replace("END", END);
            assert!(fault(&text).contains(said), "{text}: {}", fault(&text));
        }
    }

    #[test]
    fn nobody_costs_what_most_users_do() {
        let hash = |m: u32| format!("$argon2id$v=19$m={m},t=1,p=1${END}");
        let (rare, usual) = (hash(16), hash(32));
        let cost = Cost::usual([rare.as_str(), &usual, &usual, "no hash"].into_iter());
        assert_eq!(cost, Cost { m: 32, t: 1, p: 1 });
        assert_eq!(Cost::of(&cost.nobody().unwrap()), Ok(cost));
        let none = Cost::usual(std::iter::empty());
        assert_eq!(Cost::of(&hash_password("x").unwrap()), Ok(none));
    }
}
