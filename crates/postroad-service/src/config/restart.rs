use serde_json::Value;

use super::Config;

/// Keys that are looked at once, when the process starts.
const AT_START: [&str; 16] = [
    "queue.store",
    "queue.path",
    "queue.durability",
    "listener.service",
    "listener.bind",
    "listener.tls",
    "listener.bare_newline",
    "delivery.concurrency",
    "limits.min_free",
    "limits.drain",
    "admin.socket",
    "admin.http",
    "log.format",
    "log.level",
    "log.history",
    "log.history_size",
];

/// The keys whose values differ, and take effect at a restart only.
pub(crate) fn changed_at_restart(old: &Config, new: &Config) -> Vec<String> {
    let [before, after] = [old, new].map(|c| serde_json::to_value(c).unwrap_or_default());
    let mut changed: Vec<String> = AT_START
        .iter()
        .filter(|key| value(&before, key) != value(&after, key))
        .map(|key| (*key).to_owned())
        .collect();
    // A certificate can be replaced by another, not by none.
    if old.tls.is_some() != new.tls.is_some() {
        changed.push("tls".to_owned());
    }
    changed
}

/// The value of a key; in a list of tables, those of all of them.
fn value(config: &Value, key: &str) -> Vec<Value> {
    let mut found = vec![config.clone()];
    for segment in key.split('.') {
        found = found
            .iter()
            .filter_map(|value| value.get(segment))
            .flat_map(|value| match value {
                Value::Array(list) if list.iter().any(Value::is_object) => list.clone(),
                other => vec![other.clone()],
            })
            .collect();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn each_key_is_named() {
        const LISTENER: &str = "[[listener]]\nservice = \"relay\"\nbind = [\"[::]:25\"]\n";
        let old = config(LISTENER);
        let names = |text: &str| changed_at_restart(&old, &config(text)).join(" ");
        assert_eq!(names(LISTENER), "");
        assert_eq!(
            names(&format!(
                "hostname = \"x\"\n{LISTENER}[limits]\nerrors = 3\n"
            )),
            ""
        );
        assert_eq!(names(&LISTENER.replace("25", "26")), "listener.bind");
        assert_eq!(
            names(&format!("{LISTENER}tls = \"none\"\n")),
            "listener.tls"
        );
        for (key, text) in [
            ("queue.store", "[queue]\nstore = \"memory\"\n"),
            ("queue.path", "[queue]\npath = \"/x\"\n"),
            ("queue.durability", "[queue]\ndurability = \"os\"\n"),
            ("delivery.concurrency", "[delivery]\nconcurrency = 7\n"),
            ("limits.min_free", "[limits]\nmin_free = 0\n"),
            ("limits.drain", "[limits]\ndrain = \"1s\"\n"),
            ("admin.socket", "[admin]\nsocket = \"/x\"\n"),
            ("admin.http", "[admin]\nhttp = \"127.0.0.1:1\"\n"),
            ("log.format", "[log]\nformat = \"pretty\"\n"),
            ("log.level", "[log]\nlevel = \"warn\"\n"),
            ("log.history", "[log]\nhistory = \"1d\"\n"),
            ("log.history_size", "[log]\nhistory_size = \"1MiB\"\n"),
            ("tls", "[tls]\ncertificate = \"c\"\nkey = \"k\"\n"),
        ] {
            assert_eq!(names(&format!("{LISTENER}{text}")), key);
        }
        let both = "[queue]\npath = \"/x\"\n[log]\nlevel = \"warn\"\n";
        assert_eq!(names(&format!("{LISTENER}{both}")), "queue.path log.level");
    }
}
