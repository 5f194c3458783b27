use std::fmt;
use std::str::FromStr;

use postroad_mail::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The name of a queued message: a UUIDv7, minted by the store, printed as 26 base32 characters
/// (Crockford's alphabet in lower case, so that names sort by age).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId([u8; 16]); // octets: a number would be aligned to 16 in every table

/// Makes ids: UUIDv7 (RFC 9562 section 5.7) that never come twice from one mint, and come in
/// order, also within a millisecond and where the clock goes back.
#[derive(Debug)]
pub struct Mint {
    millis: u64,
    within: u128,
    noise: u64,
}

impl Mint {
    /// A mint; the seed makes its ids differ from those of others.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            millis: 0,
            within: 0,
            noise: seed,
        }
    }

    /// The next id.
    pub fn next(&mut self, now: Timestamp) -> QueueId {
        // 74 bits after the time: 18 count within the millisecond, 56 are noise.
        const COUNT_MAX: u128 = (1 << 18) - 1;
        if now.as_millis() > self.millis {
            self.millis = now.as_millis();
            self.within = 0;
        } else if self.within == COUNT_MAX {
            self.millis += 1;
            self.within = 0;
        } else {
            self.within += 1;
        }
        self.noise = self.noise.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut noise = self.noise;
        noise = (noise ^ (noise >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        noise = (noise ^ (noise >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        noise ^= noise >> 31;
        let rest = self.within << 56 | u128::from(noise >> 8);
        let millis = u128::from(self.millis) & 0xffff_ffff_ffff;
        let (high, low) = (rest >> 62, rest & ((1 << 62) - 1));
        QueueId::of(millis << 80 | 7 << 76 | high << 64 | 2 << 62 | low)
    }
}

const ALPHABET: [u8; 32] = *b"0123456789abcdefghjkmnpqrstvwxyz";

impl QueueId {
    /// The id with these octets.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its octets, in the order in which ids sort.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    const fn of(number: u128) -> Self {
        Self(number.to_be_bytes())
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0_u8; 26];
        let mut rest = u128::from_be_bytes(self.0);
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
        Ok(Self::of(value))
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
    use uuid::Uuid;

    #[test]
    fn minted_in_order_and_once() {
        let mut mint = Mint::new(7);
        let mut last = mint.next(Timestamp::from_millis(1_000_000));
        for millis in [1_000_000_u64, 1_000_001, 999_999].repeat(100_000) {
            let id = mint.next(Timestamp::from_millis(millis));
            assert!(id > last);
            last = id;
        }
        let uuid = Uuid::from_bytes(last.to_bytes());
        assert_eq!(uuid.get_version_num(), 7);
        assert_eq!(uuid.get_variant(), uuid::Variant::RFC4122);
    }

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
