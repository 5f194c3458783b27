//! Reads `data/hops.table`.

use std::fmt;

use postroad_tests::hop::Script;

/// What became of a recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fate {
    /// `delivered`, `deferred` or `failed`, the codes, `ours` where the host did not say it.
    pub(crate) reply: String,
    /// Whether it went under TLS; where it matters.
    pub(crate) tls: Option<bool>,
    /// When it is tried again, where it is deferred.
    pub(crate) retry: Retry,
}

/// When a deferred recipient is tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Retry {
    /// As the schedule says.
    #[default]
    Usual,
    /// Within minutes.
    Soon,
    /// Not within the hour.
    Later,
}

impl Fate {
    pub(crate) fn is(&self, kind: &str) -> bool {
        self.reply.starts_with(kind)
    }

    /// Whether what happened is what was expected.
    pub(crate) fn matches(&self, happened: &Self) -> bool {
        self.reply == happened.reply
            && self.retry == happened.retry
            && (self.tls.is_none() || self.tls == happened.tls)
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = match self.tls {
            Some(true) => " tls",
            Some(false) => " plain",
            None => "",
        };
        let retry = match self.retry {
            Retry::Usual => "",
            Retry::Soon => " soon",
            Retry::Later => " later",
        };
        write!(f, "{}{retry}{tls}", self.reply)
    }
}

/// The message, and the route that it takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conditions(Vec<String>);

const CONDITIONS: &[&str] = &[
    "8bit",
    "binary",
    "utf8",
    "big",
    "huge",
    "signed",
    "notify",
    "tls=require",
    "tls=verify",
    "tls=none",
    "auth",
    "lmtp",
    "after",
];

impl Row {
    /// Whether another host, where there is one, is asked for a recipient of that fate.
    pub(crate) fn asks_next(&self, fate: &Fate) -> bool {
        match self.next {
            Next::Nobody => false,
            Next::TheDeferred => fate.is("deferred"),
            Next::TheFailedToo => !fate.is("delivered"),
        }
    }
}

impl Conditions {
    pub(crate) fn has(&self, word: &str) -> bool {
        self.0.iter().any(|w| w == word)
    }

    /// Whether hosts that are as they should be need TLS.
    pub(crate) fn needs_tls(&self) -> bool {
        let words = ["tls=require", "tls=verify", "auth"];
        words.iter().any(|w| self.has(w))
    }
}

/// For whom another host is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Nobody,
    TheDeferred,
    TheFailedToo,
}

/// A row.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// The name as it stands in the table: rows with a number in it are of one kind.
    pub(crate) kind: String,
    pub(crate) host: Script,
    pub(crate) conditions: Conditions,
    /// The recipients, and what becomes of them where there is no other host.
    pub(crate) fates: Vec<(String, Fate)>,
    pub(crate) next: Next,
    /// How often the message is there for each recipient, once all is well again; of no account
    /// where it has failed.
    pub(crate) copies: Vec<usize>,
    /// The sender is told that the message was relayed.
    pub(crate) relayed: bool,
}

/// All rows.
pub(crate) fn read(text: &str) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for (n, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let fault = |what: String| format!("line {}: {what}: {line}", n + 1);
        for number in numbers(line).map_err(fault)? {
            rows.push(row(line, number).map_err(fault)?);
        }
    }
    Ok(rows)
}

/// `{0..13}` stands for each of these numbers, in a row of its own.
fn numbers(line: &str) -> Result<Vec<Option<usize>>, String> {
    let Some((_, rest)) = line.split_once('{') else {
        return Ok(vec![None]);
    };
    let (range, _) = rest.split_once('}').ok_or("no closing brace")?;
    let (from, to) = range.split_once("..").ok_or("no range")?;
    let number = |text: &str| text.parse::<usize>().map_err(|e| e.to_string());
    Ok((number(from)?..=number(to)?).map(Some).collect())
}

fn row(line: &str, number: Option<usize>) -> Result<Row, String> {
    let filled = number.map(|number| {
        let (before, rest) = line.split_once('{').unwrap_or((line, ""));
        let after = rest.split_once('}').map_or("", |(_, after)| after);
        format!(
            "{before}{number}{}",
            after.replace("{}", &number.to_string())
        )
    });
    let columns = |line: &str| {
        line.split('|')
            .map(|column| column.trim().to_owned())
            .collect::<Vec<_>>()
    };
    let [name, host, conditions, fates, next, copies] =
        &columns(filled.as_deref().unwrap_or(line))[..]
    else {
        return Err("six columns are wanted".to_owned());
    };
    let words: Vec<_> = conditions.split_whitespace().map(str::to_owned).collect();
    if let Some(word) = words.iter().find(|w| !CONDITIONS.contains(&w.as_str())) {
        return Err(format!("no condition: {word}"));
    }
    let asked = match next.as_str() {
        "yes" => Next::TheDeferred,
        "all" => Next::TheFailedToo,
        "no" | "-" => Next::Nobody,
        other => return Err(format!("next host {other}")),
    };
    let (fates, relayed) = match fates.strip_suffix(", told: relayed") {
        Some(fates) => (fates, true),
        None => (fates.as_str(), false),
    };
    let fates: Vec<_> = fates.split(',').map(fate).collect::<Result<_, _>>()?;
    let defers = fates.iter().any(|(_, fate)| fate.is("deferred"));
    if defers != ["yes", "no"].contains(&next.as_str()) && next != "all" {
        return Err("a next host matters where a recipient is deferred".to_owned());
    }
    let copies = copies
        .split(',')
        .map(str::parse)
        .collect::<Result<Vec<usize>, _>>();
    let mut copies = copies.map_err(|e| format!("{e}"))?;
    if let [for_all] = copies[..] {
        copies = vec![for_all; fates.len()];
    }
    if copies.len() != fates.len() || copies.contains(&0) {
        return Err("copies: one number, or one for each recipient, and never 0".to_owned());
    }
    Ok(Row {
        name: name.clone(),
        kind: columns(line).swap_remove(0),
        host: host.parse().map_err(|e| format!("{e}"))?,
        conditions: Conditions(words),
        fates,
        next: asked,
        copies,
        relayed,
    })
}

fn fate(text: &str) -> Result<(String, Fate), String> {
    let bad = || format!("no fate: {text:?}");
    let (who, what) = text.trim().split_once(": ").ok_or_else(bad)?;
    let (what, tls) = match what.rsplit_once(' ') {
        Some((what, "tls")) => (what, Some(true)),
        Some((what, "plain")) => (what, Some(false)),
        _ => (what, None),
    };
    let (reply, retry) = match what.rsplit_once(' ') {
        Some((reply, "soon")) => (reply, Retry::Soon),
        Some((reply, "later")) => (reply, Retry::Later),
        _ => (what, Retry::Usual),
    };
    let kind = reply.split(' ').next().unwrap_or_default();
    if !["delivered", "deferred", "failed"].contains(&kind) {
        return Err(bad());
    }
    let fate = Fate {
        reply: reply.to_owned(),
        tls,
        retry,
    };
    Ok((who.to_owned(), fate))
}
