//! The replies of a server, as far as a load generator has to know them.

use std::str;

use anyhow::bail;

/// Octets of one reply, at most.
pub(crate) const REPLY_MAX: usize = 64 << 10;

/// A whole reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reply<'a> {
    /// Its code.
    pub(crate) code: u16,
    /// All its lines, with their codes and line ends.
    pub(crate) text: &'a str,
}

impl<'a> Reply<'a> {
    /// The reply that these octets begin with; none where it is not whole yet.
    ///
    /// # Errors
    /// Where no reply begins like that.
    pub(crate) fn first(input: &'a [u8]) -> anyhow::Result<Option<Self>> {
        let mut end = 0;
        loop {
            let rest = input.get(end..).unwrap_or_default();
            let Some(length) = memchr::memchr(b'\n', rest) else {
                if input.len() > REPLY_MAX {
                    bail!("a reply is longer than {REPLY_MAX} octets");
                }
                return Ok(None);
            };
            let line = rest.get(..length).unwrap_or_default();
            end += length + 1;
            let last = match line.get(3) {
                None | Some(b' ' | b'\r') => true,
                Some(b'-') => false,
                Some(_) => bail!("not a reply: {}", String::from_utf8_lossy(line)),
            };
            let code = line.get(..3).and_then(|code| str::from_utf8(code).ok());
            let Some(code) = code.and_then(|code| code.parse().ok()) else {
                bail!("not a reply: {}", String::from_utf8_lossy(line));
            };
            if last {
                let text = str::from_utf8(input.get(..end).unwrap_or_default())?;
                return Ok(Some(Self { code, text }));
            }
        }
    }

    /// Whether a reply to EHLO offers this extension.
    pub(crate) fn offers(&self, extension: &str) -> bool {
        self.text.lines().skip(1).any(|line| {
            let keyword = line.get(4..).unwrap_or_default();
            let keyword = keyword.split([' ', '=']).next().unwrap_or_default();
            keyword.eq_ignore_ascii_case(extension)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies() {
        for (input, want) in [
            ("", None),
            ("250 2.0.0 Ok", None),
            ("250-one\r\n", None),
            ("250-one\r\n250 tw", None),
            ("250 Ok\r\n", Some((250, 8))),
            ("250\r\n", Some((250, 5))),
            ("250-one\r\n250 two\r\n354 go\r\n", Some((250, 18))),
        ] {
            let found = Reply::first(input.as_bytes()).unwrap();
            assert_eq!(found.map(|r| (r.code, r.text.len())), want, "{input:?}");
        }
        for input in ["hello\r\n", "25\r\n", "abc def\r\n", "250+Ok\r\n"] {
            assert!(Reply::first(input.as_bytes()).is_err(), "{input:?}");
        }
        assert!(Reply::first(&[b'2'; REPLY_MAX + 1]).is_err());
    }

    #[test]
    fn extensions() {
        let text = b"250-PIPELINING.test\r\n250-pipelining\r\n250-SIZE 100\r\n250 AUTH=PLAIN\r\n";
        let reply = Reply::first(text).unwrap().unwrap();
        assert!(reply.offers("PIPELINING"));
        assert!(reply.offers("SIZE"));
        assert!(reply.offers("AUTH"));
        assert!(!reply.offers("CHUNKING"));
        let name_only = Reply::first(b"250 PIPELINING\r\n").unwrap().unwrap();
        assert!(!name_only.offers("PIPELINING"));
    }
}
