use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// The name of a queued message: a UUIDv7, minted by the store, printed as 26 base32 characters
/// (Crockford's alphabet in lower case, so that names sort by age).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(u128);

const ALPHABET: [u8; 32] = *b"0123456789abcdefghjkmnpqrstvwxyz";

impl QueueId {
    /// The id with these octets.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// Its octets, in the order in which ids sort.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl From<Uuid> for QueueId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid.as_u128())
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0_u8; 26];
        let mut rest = self.0;
        for place in text.iter_mut().rev() {
            let digit = usize::try_from(rest & 31).unwrap_or(0);
            *place = ALPHABET.get(digit).copied().unwrap_or(b'0');
            rest >>= 5;
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Not 26 base32 characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a queue id is 26 characters of 0-9 and a-z without i, l, o, u")]
pub struct QueueIdError;

impl FromStr for QueueId {
    type Err = QueueIdError;

    fn from_str(s: &str) -> Result<Self, QueueIdError> {
        if s.len() != 26 {
            return Err(QueueIdError);
        }
        let mut value = 0_u128;
        for (place, byte) in s.bytes().enumerate() {
            let digit = ALPHABET
                .iter()
                .position(|&a| a == byte.to_ascii_lowercase())
                .ok_or(QueueIdError)?;
            if place == 0 && digit > 7 {
                return Err(QueueIdError);
            }
            value = value << 5 | u128::try_from(digit).map_err(|_| QueueIdError)?;
        }
        Ok(Self(value))
    }
}

impl Serialize for QueueId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for QueueId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let s = String::deserialize(deserializer)?;
        s.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn both_ways_and_in_order(a: [u8; 16], b: [u8; 16]) {
            let (a, b) = (QueueId::from_bytes(a), QueueId::from_bytes(b));
            proptest::prop_assert_eq!(a.to_string().parse::<QueueId>().unwrap(), a);
            proptest::prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }

        #[test]
        fn never_panics(s in ".{0,30}") {
            let _ = s.parse::<QueueId>();
        }
    }
}
