//! Search filters with a key in them (RFC 4515).

use ldap3::ldap_escape;

/// A filter with the parts of a key in it, and whether it has any: `None` where it is not well
/// written; no filter where the key has no such part.
pub(crate) fn filled(filter: &str, key: &str) -> Option<(Option<String>, bool)> {
    let (user, domain) = match key.rsplit_once('@') {
        Some((user, domain)) => (user, Some(domain)),
        None => (key, None),
    };
    let user = (!user.is_empty()).then_some(user);
    // slapd compares some values without a NUL at their end, and no key of ours has one.
    let mut missing = key.contains(char::is_control);
    let (mut output, mut keyed) = (String::new(), false);
    let mut rest = filter;
    while let Some((before, behind)) = rest.split_once('%') {
        output.push_str(before);
        let part = match behind.chars().next()? {
            's' => Some(key),
            'u' => user,
            'd' => domain,
            '%' => Some("%"),
            _ => return None,
        };
        keyed |= !behind.starts_with('%');
        match part {
            Some(part) => output.push_str(&ldap_escape(part)),
            None => missing = true,
        }
        rest = behind.get(1..)?;
    }
    output.push_str(rest);
    Some(((!missing).then_some(output), keyed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(filter: &str, key: &str) -> Option<String> {
        filled(filter, key).unwrap().0
    }

    #[test]
    fn filters() {
        for (pattern, key, expected) in [
            ("(mail=%s)", "a@b", Some("(mail=a@b)")),
            ("(&(uid=%u)(dc=%d))", "a@b", Some("(&(uid=a)(dc=b))")),
            ("(uid=%u)", "a", Some("(uid=a)")),
            ("(dc=%d)", "a", None),
            ("(uid=%u)", "@b", None),
            ("(x=5%%%s)", "a", Some("(x=5%a)")),
            ("(mail=%s)", "*@b", Some("(mail=\\2a@b)")),
            ("(mail=%s)", "a)(uid=*", Some("(mail=a\\29\\28uid=\\2a)")),
            ("(mail=%s)", "a\\b", Some("(mail=a\\5cb)")),
            ("(mail=%s)", "a\0", None),
            // What the key brings is not looked into again.
            ("(&(a=%u)(b=%d))", "%d@%u", Some("(&(a=%d)(b=%u))")),
        ] {
            assert_eq!(filter(pattern, key).as_deref(), expected, "{pattern} {key}");
        }
        assert!(filled("(a=%x)", "k").is_none());
        assert!(filled("(a=%", "k").is_none());
    }

    proptest::proptest! {
        /// Whatever the key: the filter stays the one comparison that was written.
        #[test]
        fn no_key_gets_out_of_its_place(key in ".{0,30}|[()*\\\\&|=!\0a]{0,20}") {
            let Some(plain) = filter("(mail=%s)", &key) else {
                proptest::prop_assert!(key.contains(char::is_control));
                return Ok(());
            };
            let value = plain.strip_prefix("(mail=").unwrap().strip_suffix(')').unwrap();
            proptest::prop_assert!(!value.contains(['(', ')', '*', '\0']));
            proptest::prop_assert!(ldap3::parse_filter(&plain).is_ok(), "{}", plain);
        }
    }
}
