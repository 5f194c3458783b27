//! What MTA-STS says (RFC 8461): the TXT record, the policy, and which hosts it allows. No I/O.

use std::fmt::Write as _;
use std::time::Duration;

use postroad_mail::Domain;

/// Octets of a policy that are read, at most (RFC 8461 section 3.3 suggests 64 kilobytes).
pub const STS_POLICY_MAX: usize = 64 << 10;
/// Octets of a TXT record that are read, at most.
const RECORD_MAX: usize = 4096;
/// Patterns of a policy that are kept, at most: no domain has so many kinds of hosts.
pub const STS_PATTERNS_MAX: usize = 100;
/// How long a policy may be in force, at most (RFC 8461 section 3.2: about a year).
pub const STS_MAX_AGE_MAX: Duration = Duration::from_secs(31_557_600);

/// The `_mta-sts` TXT record: that there is a policy, and which (RFC 8461 section 3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StsRecord {
    /// Changes whenever the policy does: 1 to 32 letters and digits.
    pub id: String,
}

/// Why a policy cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StsPolicyError {
    /// It is larger than [`STS_POLICY_MAX`].
    #[error("the policy is larger than {STS_POLICY_MAX} octets")]
    TooLarge,
    /// It is no text.
    #[error("the policy is not UTF-8")]
    NotText,
    /// A line has no colon, or no proper name before it.
    #[error("line {0} of the policy is no field")]
    Line(usize),
    /// The version is missing, or is not `STSv1`.
    #[error("the policy has no `version: STSv1`")]
    Version,
    /// The mode is missing, or none that is known.
    #[error("the policy has no mode of `enforce`, `testing` and `none`")]
    Mode,
    /// The lifetime is missing, or no number of at most 10 digits.
    #[error("the policy has no usable `max_age`")]
    MaxAge,
    /// A pattern is no domain name, with or without `*.` before it.
    #[error("line {0} of the policy has no usable pattern of hosts")]
    Pattern(usize),
    /// There is no pattern, though the mode needs one, or there are more than
    /// [`STS_PATTERNS_MAX`].
    #[error("the policy has no hosts, or more than {STS_PATTERNS_MAX}")]
    Hosts,
}

/// How a policy wants to be taken (RFC 8461 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StsMode {
    /// Hosts that fail it get no mail.
    Enforce,
    /// Failures are reported only.
    Testing,
    /// There is no policy any more.
    None,
}

impl StsMode {
    /// As a policy has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Testing => "testing",
            Self::None => "none",
        }
    }
}

/// A policy (RFC 8461 section 3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StsPolicy {
    /// How it wants to be taken.
    pub mode: StsMode,
    /// Which hosts may take the domain's mail, in A-labels: names, or `*.` and a name.
    pub mx: Vec<String>,
    /// For how long it holds from when it was fetched, at most [`STS_MAX_AGE_MAX`].
    pub max_age: Duration,
}

impl StsRecord {
    /// Finds the record among the TXT records of `_mta-sts.<domain>`: there must be exactly one
    /// of version `STSv1`, and it must be valid; anything else counts as none (RFC 8461 section
    /// 3.1).
    #[must_use]
    pub fn find(records: &[String]) -> Option<Self> {
        let mut ours = records.iter().filter(|text| is_version_1(text));
        let only = ours.next()?;
        if ours.next().is_some() {
            return None;
        }
        Self::parse(only)
    }

    fn parse(text: &str) -> Option<Self> {
        if text.len() > RECORD_MAX {
            return None;
        }
        let mut fields = text.split(';').map(trim);
        if fields.next()? != "v=STSv1" {
            return None;
        }
        let mut fields: Vec<_> = fields.collect();
        // One delimiter may end the record.
        if fields.last().is_some_and(|last| last.is_empty()) {
            fields.pop();
        }
        let mut id = None;
        for field in fields {
            let (name, value) = field.split_once('=')?;
            if !is_name(name) || !is_record_value(value) {
                return None;
            }
            if name == "id" && id.is_none() {
                let valid = value.len() <= 32 && value.bytes().all(|b| b.is_ascii_alphanumeric());
                id = Some(valid.then(|| value.to_owned())?);
            }
        }
        Some(Self { id: id? })
    }
}

/// Whether a TXT record says of itself that it is one of version 1 (records that do not are
/// ignored, whatever else they are).
fn is_version_1(text: &str) -> bool {
    text.strip_prefix("v=STSv1")
        .is_some_and(|rest| rest.trim_start_matches([' ', '\t']).starts_with(';'))
}

fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

fn is_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

fn is_record_value(value: &str) -> bool {
    !value.is_empty()
        && value
            .bytes()
            .all(|b| b.is_ascii_graphic() && b != b'=' && b != b';')
}

impl StsPolicy {
    /// Reads a policy as it came over HTTPS: lines that end in CRLF or LF, of which unknown ones
    /// are ignored, and of repeated ones but `mx` the first counts (RFC 8461 section 3.2).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(octets: &[u8]) -> Result<Self, StsPolicyError> {
        if octets.len() > STS_POLICY_MAX {
            return Err(StsPolicyError::TooLarge);
        }
        let text = std::str::from_utf8(octets).map_err(|_| StsPolicyError::NotText)?;
        let (mut version, mut mode, mut max_age) = (None, None, None);
        let mut mx = Vec::new();
        for (number, line) in (1..).zip(text.split('\n')) {
            let line = trim(line.strip_suffix('\r').unwrap_or(line));
            if line.is_empty() {
                continue;
            }
            let (name, value) = line.split_once(':').ok_or(StsPolicyError::Line(number))?;
            let value = trim(value);
            if !is_name(name) || value.is_empty() || value.chars().any(char::is_control) {
                return Err(StsPolicyError::Line(number));
            }
            match name {
                "version" => version = version.or(Some(value)),
                "mode" => mode = mode.or(Some(value)),
                "max_age" => max_age = max_age.or(Some(value)),
                "mx" if mx.len() == STS_PATTERNS_MAX => return Err(StsPolicyError::Hosts),
                "mx" => mx.push(pattern(value).ok_or(StsPolicyError::Pattern(number))?),
                _ => {}
            }
        }
        if version != Some("STSv1") {
            return Err(StsPolicyError::Version);
        }
        let mode = match mode {
            Some("enforce") => StsMode::Enforce,
            Some("testing") => StsMode::Testing,
            Some("none") => StsMode::None,
            _ => return Err(StsPolicyError::Mode),
        };
        let max_age = max_age.and_then(seconds).ok_or(StsPolicyError::MaxAge)?;
        if mx.is_empty() && mode != StsMode::None {
            return Err(StsPolicyError::Hosts);
        }
        Ok(Self { mode, mx, max_age })
    }

    /// Whether the policy allows a host, by its name in A-labels: `*.` stands for exactly one
    /// label (RFC 8461 section 4.1).
    #[must_use]
    pub fn allows(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.');
        self.mx
            .iter()
            .any(|pattern| match pattern.strip_prefix("*.") {
                Some(parent) => host
                    .split_once('.')
                    .is_some_and(|(label, rest)| !label.is_empty() && is_same(rest, parent)),
                None => is_same(host, pattern),
            })
    }

    /// The lines of the policy, as TLS reports quote it (RFC 8460 section 4.3.1).
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            "version: STSv1".to_owned(),
            format!("mode: {}", self.mode.name()),
        ];
        lines.extend(self.mx.iter().map(|pattern| format!("mx: {pattern}")));
        lines.push(format!("max_age: {}", self.max_age.as_secs()));
        lines
    }

    /// The policy as [`StsPolicy::parse`] reads it.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for line in self.lines() {
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

fn is_same(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// A domain name, or `*.` and one, in A-labels.
fn pattern(value: &str) -> Option<String> {
    let (wild, name) = match value.strip_prefix("*.") {
        Some(name) => ("*.", name),
        None => ("", value),
    };
    let domain: Domain = name.parse().ok()?;
    (!domain.is_literal()).then(|| format!("{wild}{}", domain.ascii()))
}

fn seconds(value: &str) -> Option<Duration> {
    let valid = (1..=10).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_digit());
    let seconds: u64 = valid.then(|| value.parse().ok()).flatten()?;
    Some(Duration::from_secs(seconds).min(STS_MAX_AGE_MAX))
}

/// For fuzzing: whatever the octets are, parsing ends, what is taken is within its bounds, and
/// what a policy is written as is the policy.
///
/// # Panics
/// Where that does not hold.
pub fn fuzz_sts(octets: &[u8]) {
    if let Ok(policy) = StsPolicy::parse(octets) {
        assert!(policy.max_age <= STS_MAX_AGE_MAX, "the lifetime is bounded");
        assert!(policy.mx.len() <= STS_PATTERNS_MAX, "so are the hosts");
        assert_eq!(
            StsPolicy::parse(policy.to_text().as_bytes()).as_ref(),
            Ok(&policy),
            "it is read as it was written"
        );
        for pattern in &policy.mx {
            assert!(
                policy.allows(&pattern.replace('*', "any")),
                "what a pattern says is allowed"
            );
        }
    }
    let text = String::from_utf8_lossy(octets).into_owned();
    if let Some(record) = StsRecord::find(std::slice::from_ref(&text)) {
        assert!((1..=32).contains(&record.id.len()), "the id is bounded");
        assert_eq!(
            StsRecord::find(&[text.clone(), text]),
            None,
            "two are as good as none"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(records: &[&str]) -> Option<String> {
        let records: Vec<_> = records.iter().map(|&r| r.to_owned()).collect();
        StsRecord::find(&records).map(|record| record.id)
    }

    #[test]
    fn records() {
        for (records, id) in [
            (
                &["v=STSv1; id=20160831085700Z;"][..],
                Some("20160831085700Z"),
            ),
            (&["v=STSv1;id=1"], Some("1")),
            (&["v=STSv1 ;\tid=1 ; "], Some("1")),
            (&["v=STSv1; x-y.z=abc; id=a; id=b"], Some("a")),
            (&["v=spf1 -all", "v=STSv1; id=1"], Some("1")),
            (&["v=STSv2; id=2", "v=STSv1; id=1"], Some("1")),
            (&["v=STSv1x; id=2", "v=STSv1; id=1"], Some("1")),
            (&["v=STSv1; id=1", "v=STSv1; id=1"], None),
            (&["v=STSv1; id=1", "v=STSv1; nonsense"], None),
            (&["v=STSv1;"], None),
            (&["v=STSv1"], None),
            (&["v=stsv1; id=1"], None),
            (&[" v=STSv1; id=1"], None),
            (&["id=1; v=STSv1"], None),
            (&["v=STSv1; id="], None),
            (&["v=STSv1; id=a-b"], None),
            (&["v=STSv1; ID=1"], None),
            (&["v=STSv1; id=1; ; x=y"], None),
            (&["v=STSv1; id=1; x=a b"], None),
            (&["v=STSv1; id=123456789012345678901234567890123"], None),
            (&[], None),
        ] {
            assert_eq!(find(records).as_deref(), id, "{records:?}");
        }
    }

    #[test]
    fn policies() {
        let policy = StsPolicy::parse(
            b"version: STSv1\r\nmode: enforce\r\nmx: mail.Example.com\r\nmx: *.example.net\r\nmx: b\xc3\xbccher.example\r\nx: y z\r\nmax_age: 604800\r\n",
        )
        .unwrap();
        assert_eq!(policy.mode, StsMode::Enforce);
        assert_eq!(policy.max_age, Duration::from_secs(604_800));
        assert_eq!(
            policy.mx,
            ["mail.example.com", "*.example.net", "xn--bcher-kva.example"]
        );
    }

    #[test]
    fn what_is_no_policy() {
        for (text, wrong) in [
            ("version:STSv1\nmode:none\nmax_age:0", None),
            (
                "version: STSv1\nmode: none\nmode: enforce\nmax_age: 1\nmax_age: x",
                None,
            ),
            (
                "version: STSv1\n\nmode: testing \nmx: a.b \nmax_age: 86400 \n",
                None,
            ),
            ("mode: none\nmax_age: 1\n", Some(StsPolicyError::Version)),
            (
                "version: STSv2\nmode: none\nmax_age: 1\n",
                Some(StsPolicyError::Version),
            ),
            (
                "version: STSv1\nmode: Enforce\nmx: a\nmax_age: 1\n",
                Some(StsPolicyError::Mode),
            ),
            ("version: STSv1\nmode: none\n", Some(StsPolicyError::MaxAge)),
            (
                "version: STSv1\nmode: none\nmax_age: 12345678901\n",
                Some(StsPolicyError::MaxAge),
            ),
            (
                "version: STSv1\nmode: none\nmax_age: -1\n",
                Some(StsPolicyError::MaxAge),
            ),
            (
                "version: STSv1\nmode: enforce\nmax_age: 1\n",
                Some(StsPolicyError::Hosts),
            ),
            (
                "version: STSv1\nmode: enforce\nmx: *\nmax_age: 1\n",
                Some(StsPolicyError::Pattern(3)),
            ),
            (
                "version: STSv1\nmode: enforce\nmx: a.*.b\nmax_age: 1\n",
                Some(StsPolicyError::Pattern(3)),
            ),
            (
                "version: STSv1\nmode: enforce\nmx: *.*.b\nmax_age: 1\n",
                Some(StsPolicyError::Pattern(3)),
            ),
            (
                "version: STSv1\nmode: enforce\nmx: [1.2.3.4]\nmax_age: 1\n",
                Some(StsPolicyError::Pattern(3)),
            ),
            ("<html>\n", Some(StsPolicyError::Line(1))),
            ("version: STSv1\nmode:\n", Some(StsPolicyError::Line(2))),
            (
                "version: STSv1\rmode: none\rmax_age: 1",
                Some(StsPolicyError::Line(1)),
            ),
            ("", Some(StsPolicyError::Version)),
        ] {
            assert_eq!(StsPolicy::parse(text.as_bytes()).err(), wrong, "{text:?}");
        }
    }

    #[test]
    fn policies_are_bounded() {
        assert_eq!(StsPolicy::parse(b"\xff"), Err(StsPolicyError::NotText));
        let large = vec![b'\n'; STS_POLICY_MAX + 1];
        assert_eq!(StsPolicy::parse(&large), Err(StsPolicyError::TooLarge));
        let many = "mx: a.b\n".repeat(STS_PATTERNS_MAX + 1);
        let many = format!("version: STSv1\nmode: enforce\nmax_age: 1\n{many}");
        assert_eq!(
            StsPolicy::parse(many.as_bytes()),
            Err(StsPolicyError::Hosts)
        );
        let old = StsPolicy::parse(b"version: STSv1\nmode: none\nmax_age: 9999999999\n").unwrap();
        assert_eq!(old.max_age, STS_MAX_AGE_MAX);
    }

    #[test]
    fn hosts() {
        let policy = StsPolicy {
            mode: StsMode::Enforce,
            mx: vec![
                "mx1.example.com".to_owned(),
                "*.mail.example.com".to_owned(),
            ],
            max_age: Duration::from_secs(1),
        };
        for (host, allowed) in [
            ("mx1.example.com", true),
            ("MX1.Example.COM.", true),
            ("a.mail.example.com", true),
            ("mail.example.com", false),
            (".mail.example.com", false),
            ("a.b.mail.example.com", false),
            ("amail.example.com", false),
            ("mx2.example.com", false),
            ("x.mx1.example.com", false),
            ("", false),
        ] {
            assert_eq!(policy.allows(host), allowed, "{host}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_octets(octets in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            fuzz_sts(&octets);
        }

        #[test]
        fn nearly_policies(lines in proptest::collection::vec(
            "(version|mode|mx|max_age|x)(:|: | :)(STSv1|enforce|testing|none|\\*?\\.?[a-z]{1,3}\\.[a-z]{0,2}|[0-9]{0,11})\r?", 0..8)) {
            fuzz_sts(lines.join("\n").as_bytes());
        }

        #[test]
        fn policies_are_read_as_written(
            mode in 0_usize..3,
            mx in proptest::collection::vec("(\\*\\.)?[a-z]{1,8}\\.[a-z]{2,5}", 1..9),
            age in 0u64..40_000_000,
        ) {
            let mode = [StsMode::Enforce, StsMode::Testing, StsMode::None][mode];
            let max_age = Duration::from_secs(age).min(STS_MAX_AGE_MAX);
            let policy = StsPolicy { mode, mx, max_age };
            fuzz_sts(policy.to_text().as_bytes());
            proptest::prop_assert_eq!(StsPolicy::parse(policy.to_text().replace('\n', "\r\n").as_bytes()), Ok(policy));
        }

        #[test]
        fn nearly_records(rest in "v=STSv1 ?;( ?[a-z]{1,3}=[a-z0-9=]{0,4};?){0,4}") {
            fuzz_sts(rest.as_bytes());
        }
    }
}
