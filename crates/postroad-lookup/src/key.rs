//! The form in which tables are asked.

use postroad_mail::{Address, Domain};

/// An address as a key: in lower case as far as it is ASCII, the domain in A-labels.
#[must_use]
pub fn address_key(address: &Address) -> String {
    let local = address.local_part().to_string().to_ascii_lowercase();
    format!("{local}@{}", address.domain().ascii())
}

/// A key that a person wrote, in the form in which it is asked for: a domain in A-labels, ASCII in
/// lower case. Whatever is no address and no domain stays what it is but for the case.
pub(crate) fn canonical(key: &str) -> String {
    if let Ok(address) = key.parse::<Address>() {
        return address_key(&address);
    }
    let (before, domain) = match key.rfind(['@', '*']) {
        Some(at) => key.split_at(at + 1),
        None => ("", key),
    };
    let (dot, domain) = match domain.strip_prefix('.') {
        Some(domain) => (".", domain),
        None => ("", domain),
    };
    domain.parse::<Domain>().map_or_else(
        |_| key.to_ascii_lowercase(),
        |domain| format!("{}{dot}{}", before.to_ascii_lowercase(), domain.ascii()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mean_what_was_meant() {
        for (written, asked) in [
            ("Bob@Example.ORG", "bob@example.org"),
            ("\"A b\"@example.org", "\"a b\"@example.org"),
            ("@B\u{fc}cher.example", "@xn--bcher-kva.example"),
            ("b\u{fc}cher.example", "xn--bcher-kva.example"),
            ("*.B\u{fc}cher.example", "*.xn--bcher-kva.example"),
            ("*@*.Example.org", "*@*.example.org"),
            (".Example.org", ".example.org"),
            ("*", "*"),
            ("Root", "root"),
            ("a=B c", "a=b c"),
            ("", ""),
        ] {
            assert_eq!(canonical(written), asked, "{written}");
        }
    }

    proptest::proptest! {
        #[test]
        fn once_is_enough(key in "[a-zA-Z@*.\u{fc}\u{df} \"\\\\-]{0,20}|.{0,20}") {
            let once = canonical(&key);
            proptest::prop_assert_eq!(canonical(&once), once);
        }
    }
}
