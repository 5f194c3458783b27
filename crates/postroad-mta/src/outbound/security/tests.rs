use super::*;
use postroad_mail::Tlsa;

fn security(policy: &str) -> HostSecurity {
    let (policy, enforced) = match policy.strip_suffix(", observed") {
        Some(policy) => (policy, false),
        None => (policy, true),
    };
    let record = Tlsa {
        usage: 3,
        selector: 1,
        matching: 1,
        data: vec![0; 32],
    };
    let requirement = match policy {
        "none" => Requirement::None,
        "encrypted" => Requirement::Encrypted,
        "dane" => Requirement::Dane {
            records: vec![record].into(),
            names: vec!["real.test".to_owned(), "d.test".to_owned()],
        },
        "valid" => Requirement::Valid,
        "unusable" => {
            Requirement::Unusable(Reply::row(451, EnhancedCode::transient(7, 5), "bogus"))
        }
        other => panic!("{other}"),
    };
    HostSecurity {
        requirement,
        enforced,
        ..HostSecurity::none()
    }
}

/// `require dane! real.test` and the like: STARTTLS, the check (`!`: enforced), whether
/// plaintext may follow, the name where it is not the host's; or the reply of a skipped host.
fn shown(mode: TlsMode, policy: &str, message: MessageTls) -> String {
    shown_by(true, mode, policy, message)
}

fn shown_by(by_mx: bool, mode: TlsMode, policy: &str, message: MessageTls) -> String {
    let security = security(policy);
    let planned = plan(&Asked {
        mode,
        implicit_tls: false,
        host: "mx.test",
        by_mx,
        security: &security,
        message,
    });
    let plan = match planned {
        Ok(plan) => plan,
        Err(reply) => return reply.to_string(),
    };
    assert_eq!(plan.needs_requiretls, message == MessageTls::Required);
    let starttls = match plan.starttls {
        StartTls::Never => "never",
        StartTls::IfOffered => "offered",
        StartTls::Require => "require",
    };
    let check = match &plan.certificate {
        CertificateCheck::Any => "any",
        CertificateCheck::Valid => "valid",
        CertificateCheck::Dane { .. } => "dane",
    };
    let enforced = if plan.enforce && check != "any" {
        "!"
    } else {
        ""
    };
    let retry = if plan.plaintext_retry { " retry" } else { "" };
    let name = if plan.server_name == "mx.test" {
        String::new()
    } else {
        format!(" {}", plan.server_name)
    };
    format!("{starttls} {check}{enforced}{retry}{name}")
}

const UNUSABLE: &str = "451 4.7.5 bogus";
const NO_REQUIRETLS: &str =
    "550 5.7.30 REQUIRETLS support required: nothing vouches for the certificate of mx.test";

#[test]
fn as_the_table_says() {
    use TlsMode::{None, Opportunistic, Require, Verify};
    for (mode, policy, plan) in [
        (None, "none", "never any"),
        (None, "dane", "never any"),
        (None, "unusable", "never any"),
        (Opportunistic, "none", "offered any retry"),
        (Opportunistic, "encrypted", "require any"),
        (Opportunistic, "dane", "require dane! real.test"),
        (Opportunistic, "valid", "require valid!"),
        (Opportunistic, "unusable", UNUSABLE),
        (Opportunistic, "encrypted, observed", "offered any retry"),
        (
            Opportunistic,
            "dane, observed",
            "offered dane retry real.test",
        ),
        (Opportunistic, "valid, observed", "offered valid retry"),
        (Opportunistic, "unusable, observed", "offered any retry"),
        (Require, "none", "require any"),
        (Require, "encrypted", "require any"),
        (Require, "dane", "require dane! real.test"),
        (Require, "valid", "require valid!"),
        (Require, "unusable", UNUSABLE),
        (Require, "valid, observed", "require valid"),
        (Require, "unusable, observed", "require any"),
        (Verify, "none", "require valid!"),
        (Verify, "encrypted", "require valid!"),
        (Verify, "dane", "require dane! real.test"),
        (Verify, "valid", "require valid!"),
        (Verify, "unusable", UNUSABLE),
        (Verify, "dane, observed", "require valid!"),
        (Verify, "unusable, observed", "require valid!"),
    ] {
        let came = shown(mode, policy, MessageTls::Unsaid);
        assert_eq!(came, plan, "{mode:?}, {policy}");
    }
}

#[test]
fn what_the_message_says() {
    use TlsMode::{None, Opportunistic, Require, Verify};
    for (mode, policy, required, optional) in [
        (None, "none", NO_REQUIRETLS, "never any"),
        (None, "dane", NO_REQUIRETLS, "never any"),
        (Opportunistic, "none", NO_REQUIRETLS, "offered any retry"),
        (
            Opportunistic,
            "encrypted",
            NO_REQUIRETLS,
            "offered any retry",
        ),
        (
            Opportunistic,
            "dane",
            "require dane! real.test",
            "offered dane retry real.test",
        ),
        (
            Opportunistic,
            "valid",
            "require valid!",
            "offered valid retry",
        ),
        (Opportunistic, "unusable", UNUSABLE, "offered any retry"),
        // What is only observed is in force for a message that wants to be safe.
        (
            Opportunistic,
            "dane, observed",
            "require dane! real.test",
            "offered dane retry real.test",
        ),
        (
            Opportunistic,
            "valid, observed",
            "require valid!",
            "offered valid retry",
        ),
        (
            Opportunistic,
            "unusable, observed",
            UNUSABLE,
            "offered any retry",
        ),
        (Require, "none", NO_REQUIRETLS, "require any"),
        (Require, "valid", "require valid!", "require valid"),
        // Never below what the route asks for itself.
        (Verify, "none", NO_REQUIRETLS, "require valid!"),
        (Verify, "encrypted", NO_REQUIRETLS, "require valid!"),
        (Verify, "dane", "require dane! real.test", "require valid!"),
        (Verify, "valid", "require valid!", "require valid!"),
        (Verify, "unusable", UNUSABLE, "require valid!"),
    ] {
        let came = shown(mode, policy, MessageTls::Required);
        assert_eq!(came, required, "{mode:?}, {policy}");
        let came = shown(mode, policy, MessageTls::Optional);
        assert_eq!(came, optional, "{mode:?}, {policy}");
    }
}

/// Nobody but the route has named the host: its certificate is all that there is to prove.
#[test]
fn requiretls_to_a_host_of_a_route() {
    use TlsMode::{None, Opportunistic, Require, Verify};
    for (mode, policy, required) in [
        (None, "none", NO_REQUIRETLS),
        (Opportunistic, "none", NO_REQUIRETLS),
        (Opportunistic, "dane", "require dane! real.test"),
        (Require, "none", NO_REQUIRETLS),
        (Verify, "none", "require valid!"),
        (Verify, "encrypted", "require valid!"),
        (Verify, "dane", "require dane! real.test"),
    ] {
        let came = shown_by(false, mode, policy, MessageTls::Required);
        assert_eq!(came, required, "{mode:?}, {policy}");
    }
}

/// The name comes from the route, and the certificate proves it: DNSSEC has no say.
#[test]
fn a_verified_host_of_a_route_needs_no_dnssec() {
    use TlsMode::{None, Opportunistic, Require, Verify};
    for (mode, came) in [
        (None, "never any"),
        (Opportunistic, UNUSABLE),
        (Require, UNUSABLE),
        (Verify, "require valid!"),
    ] {
        let shown = shown_by(false, mode, "unusable", MessageTls::Unsaid);
        assert_eq!(shown, came, "{mode:?}");
    }
}

/// Where TLS comes first, there is no connection without.
#[test]
fn no_plaintext_where_tls_is_implicit() {
    for policy in ["none", "dane, observed", "dane"] {
        let asked = Asked {
            mode: TlsMode::Opportunistic,
            implicit_tls: true,
            host: "mx.test",
            by_mx: false,
            security: &security(policy),
            message: MessageTls::Unsaid,
        };
        assert!(!plan(&asked).unwrap().plaintext_retry, "{policy}");
    }
}

#[test]
fn connections_are_shared_only_under_equal_terms() {
    let keys: Vec<_> = ["none", "encrypted", "dane", "valid", "valid, observed"]
        .into_iter()
        .map(|policy| {
            let asked = Asked {
                mode: TlsMode::Opportunistic,
                implicit_tls: false,
                host: "mx.test",
                by_mx: true,
                security: &security(policy),
                message: MessageTls::Unsaid,
            };
            plan(&asked).unwrap()
        })
        .collect();
    for (i, a) in keys.iter().enumerate() {
        for (j, b) in keys.iter().enumerate() {
            assert_eq!(a.key() == b.key(), i == j, "{a:?} {b:?}");
        }
        assert_eq!(a.plaintext().starttls, StartTls::Never);
    }
}
