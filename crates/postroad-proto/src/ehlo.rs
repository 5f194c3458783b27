use bytes::BufMut;

use crate::sasl::Mechanism;

/// What an EHLO reply offers, or is to offer (RFC 5321 section 4.1.1.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// PIPELINING (RFC 2920)
    pub pipelining: bool,
    /// SIZE (RFC 1870): `Some(0)` where no limit is named.
    pub size: Option<u64>,
    /// 8BITMIME (RFC 6152)
    pub eight_bit_mime: bool,
    /// SMTPUTF8 (RFC 6531)
    pub smtputf8: bool,
    /// CHUNKING (RFC 3030)
    pub chunking: bool,
    /// BINARYMIME (RFC 3030)
    pub binary_mime: bool,
    /// ENHANCEDSTATUSCODES (RFC 2034)
    pub enhanced_status_codes: bool,
    /// DSN (RFC 3461)
    pub dsn: bool,
    /// STARTTLS (RFC 3207)
    pub starttls: bool,
    /// AUTH (RFC 4954): the mechanisms this crate knows, in the order offered.
    pub auth: Vec<Mechanism>,
    /// REQUIRETLS (RFC 8689): under TLS only.
    pub require_tls: bool,
    /// LIMITS RCPTMAX (RFC 9422)
    pub recipients_max: Option<u64>,
    /// VRFY and EXPN, listed where they give real answers.
    pub verify: bool,
    /// HELP
    pub help: bool,
}

impl Extensions {
    /// Takes in one line of an EHLO reply behind the first: keyword and parameters, without the
    /// reply code and the line end. What is not known is passed over, as RFC 5321 section 4.1.1.1
    /// has it; a line that comes twice changes nothing, or is the newer word.
    ///
    /// ```
    /// use postroad_proto::{Extensions, sasl::Mechanism};
    ///
    /// let mut offered = Extensions::default();
    /// for line in ["PIPELINING", "size 1000", "AUTH GSSAPI PLAIN"] {
    ///     offered.parse_line(line);
    /// }
    /// assert!(offered.pipelining);
    /// assert_eq!(offered.size, Some(1000));
    /// assert_eq!(offered.auth, [Mechanism::Plain]);
    /// ```
    pub fn parse_line(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        let Some(keyword) = words.next() else { return };
        // Old servers also write "AUTH=LOGIN" for old clients.
        if let Some((head, first)) = keyword.split_once('=')
            && head.eq_ignore_ascii_case("AUTH")
        {
            self.add_mechanisms(std::iter::once(first).chain(words));
            return;
        }
        match keyword.to_ascii_uppercase().as_str() {
            "PIPELINING" => self.pipelining = true,
            "SIZE" => self.size = Some(words.next().and_then(|n| n.parse().ok()).unwrap_or(0)),
            "8BITMIME" => self.eight_bit_mime = true,
            "SMTPUTF8" => self.smtputf8 = true,
            "CHUNKING" => self.chunking = true,
            "BINARYMIME" => self.binary_mime = true,
            "ENHANCEDSTATUSCODES" => self.enhanced_status_codes = true,
            "DSN" => self.dsn = true,
            "STARTTLS" => self.starttls = true,
            "AUTH" => self.add_mechanisms(words),
            "REQUIRETLS" => self.require_tls = true,
            "LIMITS" => {
                let recipients = words
                    .filter_map(|limit| limit.split_once('='))
                    .find(|(name, _)| name.eq_ignore_ascii_case("RCPTMAX"))
                    .and_then(|(_, n)| n.parse().ok())
                    .filter(|&n| n > 0);
                self.recipients_max = recipients.or(self.recipients_max);
            }
            "VRFY" | "EXPN" => self.verify = true,
            "HELP" => self.help = true,
            _ => {}
        }
    }

    /// Writes the reply to EHLO: the host's name, then one line for each extension, in one fixed
    /// order.
    pub(crate) fn write_reply(&self, hostname: &str, out: &mut impl BufMut) {
        let mut previous = hostname.to_owned();
        self.each_line(|line| {
            put_line(out, b'-', &previous);
            previous.clear();
            previous.push_str(line);
        });
        put_line(out, b' ', &previous);
    }

    fn each_line(&self, mut put: impl FnMut(&str)) {
        let mut flag = |on: bool, line: &str| {
            if on {
                put(line);
            }
        };
        flag(self.pipelining, "PIPELINING");
        match self.size {
            Some(0) => flag(true, "SIZE"),
            Some(size) => flag(true, &format!("SIZE {size}")),
            None => {}
        }
        flag(self.eight_bit_mime, "8BITMIME");
        flag(self.smtputf8, "SMTPUTF8");
        flag(self.chunking, "CHUNKING");
        flag(self.binary_mime, "BINARYMIME");
        flag(self.enhanced_status_codes, "ENHANCEDSTATUSCODES");
        flag(self.dsn, "DSN");
        flag(self.starttls, "STARTTLS");
        if !self.auth.is_empty() {
            let names: Vec<_> = self.auth.iter().map(|m| m.name()).collect();
            flag(true, &format!("AUTH {}", names.join(" ")));
        }
        flag(self.require_tls, "REQUIRETLS");
        if let Some(recipients) = self.recipients_max {
            flag(true, &format!("LIMITS RCPTMAX={recipients}"));
        }
        flag(self.verify, "VRFY");
        flag(self.verify, "EXPN");
        flag(self.help, "HELP");
    }

    /// A mechanism offered twice counts once, so that the list is bounded.
    fn add_mechanisms<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        for mechanism in names.filter_map(Mechanism::from_name) {
            if !self.auth.contains(&mechanism) {
                self.auth.push(mechanism);
            }
        }
    }
}

fn put_line(out: &mut impl BufMut, separator: u8, line: &str) {
    out.put_slice(b"250");
    out.put_u8(separator);
    out.put_slice(line.as_bytes());
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything() -> Extensions {
        Extensions {
            pipelining: true,
            size: Some(52_428_800),
            eight_bit_mime: true,
            smtputf8: true,
            chunking: true,
            binary_mime: true,
            enhanced_status_codes: true,
            dsn: true,
            starttls: true,
            auth: vec![Mechanism::Plain, Mechanism::Login],
            require_tls: true,
            recipients_max: Some(1000),
            verify: true,
            help: true,
        }
    }

    fn written(extensions: &Extensions) -> String {
        let mut out = Vec::new();
        extensions.write_reply("mx.example", &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_reply_is_in_the_documented_order() {
        assert_eq!(
            written(&everything()),
            "250-mx.example\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n\
             250-SMTPUTF8\r\n250-CHUNKING\r\n250-BINARYMIME\r\n250-ENHANCEDSTATUSCODES\r\n\
             250-DSN\r\n250-STARTTLS\r\n250-AUTH PLAIN LOGIN\r\n250-REQUIRETLS\r\n250-LIMITS RCPTMAX=1000\r\n\
             250-VRFY\r\n250-EXPN\r\n250 HELP\r\n"
        );
        assert_eq!(written(&Extensions::default()), "250 mx.example\r\n");
    }

    #[test]
    fn what_is_written_is_read() {
        let unnamed = Extensions {
            size: Some(0),
            ..Extensions::default()
        };
        for extensions in [everything(), unnamed] {
            let mut read = Extensions::default();
            for line in written(&extensions).lines().skip(1) {
                read.parse_line(&line[4..]);
            }
            assert_eq!(read, extensions);
        }
    }

    #[test]
    fn unusual_lines() {
        for (line, want) in [
            (
                "size",
                Extensions {
                    size: Some(0),
                    ..Extensions::default()
                },
            ),
            (
                "SIZE 99999999999999999999999",
                Extensions {
                    size: Some(0),
                    ..Extensions::default()
                },
            ),
            (
                "AUTH=login plain LOGIN",
                Extensions {
                    auth: vec![Mechanism::Login, Mechanism::Plain],
                    ..Extensions::default()
                },
            ),
            (
                "LIMITS MAILMAX=5 RCPTMAX=20",
                Extensions {
                    recipients_max: Some(20),
                    ..Extensions::default()
                },
            ),
            ("LIMITS RCPTMAX=0", Extensions::default()),
            ("", Extensions::default()),
            ("X-UNHEARD-OF yes", Extensions::default()),
            ("STARTTLSX", Extensions::default()),
        ] {
            let mut read = Extensions::default();
            read.parse_line(line);
            assert_eq!(read, want, "{line}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(line in ".{0,100}") {
            Extensions::default().parse_line(&line);
        }
    }
}
