//! The lines of a table file: a key, space or a comma, and a value.

/// Octets of a line, at most.
pub(crate) const LINE_MAX: usize = 64 << 10;
/// Lines of a file, at most.
pub(crate) const LINES_MAX: usize = 1_000_000;

/// A line that says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// Counted from 1.
    pub(crate) number: usize,
    pub(crate) key: &'a str,
    pub(crate) value: &'a str,
}

/// What is wrong with which line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LineError {
    pub(crate) number: usize,
    pub(crate) detail: String,
}

impl LineError {
    pub(crate) fn new(number: usize, detail: impl Into<String>) -> Self {
        Self {
            number,
            detail: detail.into(),
        }
    }
}

/// The lines but for empty ones and those that start with `#`. It ends behind one that is wrong.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = Result<Line<'_>, LineError>> {
    let mut wrong = false;
    // What some editors put in front.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines()
        .enumerate()
        .map(|(at, line)| (at + 1, line.trim()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| parsed(number, line))
        .take_while(move |line| !std::mem::replace(&mut wrong, line.is_err()))
}

fn parsed(number: usize, line: &str) -> Result<Line<'_>, LineError> {
    if number > LINES_MAX {
        let detail = format!("a file has at most {LINES_MAX} lines");
        return Err(LineError::new(number, detail));
    }
    if line.len() > LINE_MAX {
        let detail = format!("a line has at most {LINE_MAX} octets");
        return Err(LineError::new(number, detail));
    }
    if line.chars().any(|c| c.is_control() && c != '\t') {
        return Err(LineError::new(number, "a control character"));
    }
    let between = |c: char| c == ',' || c.is_whitespace();
    let quoted = quoted(line);
    let end = line
        .get(quoted..)
        .and_then(|rest| rest.find(between))
        .map_or(line.len(), |at| quoted + at);
    let (key, rest) = line.split_at(end);
    let rest = rest.trim_start();
    let value = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    if key.is_empty() || value.is_empty() {
        let detail = "expected a key, then space or a comma, then a value";
        return Err(LineError::new(number, detail));
    }
    Ok(Line { number, key, value })
}

/// Octets of a quoted string that the line starts with, as in `"a b"@example.org`.
fn quoted(line: &str) -> usize {
    let mut octets = line.bytes().enumerate();
    if octets.next().is_none_or(|(_, first)| first != b'"') {
        return 0;
    }
    while let Some((at, octet)) = octets.next() {
        match octet {
            b'"' => return at + 1,
            b'\\' => {
                octets.next();
            }
            _ => {}
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        for (line, key, value) in [
            ("a b", "a", "b"),
            ("a,b", "a", "b"),
            ("a, b, c", "a", "b, c"),
            ("a\t ,  b c  ", "a", "b c"),
            ("*@x smtp://h:25 weight=3", "*@x", "smtp://h:25 weight=3"),
            ("\"a b, \\\" c\"@x d@y", "\"a b, \\\" c\"@x", "d@y"),
            ("\"a b", "\"a", "b"),
            ("a b # c", "a", "b # c"),
        ] {
            let line = parsed(7, line.trim()).unwrap();
            assert_eq!((line.number, line.key, line.value), (7, key, value));
        }
        for bad in ["a\rb c", "a b\0", "a", ",", ", b", "a ,", "\"a b\"@x"] {
            assert!(parsed(1, bad).is_err(), "{bad}");
        }
        let long = format!("a {}", "b".repeat(LINE_MAX));
        assert!(parsed(1, &long).unwrap_err().detail.contains("octets"));
        assert!(parsed(LINES_MAX + 1, "a b").is_err());
    }

    #[test]
    fn comments_and_the_first_mistake() {
        let text = "\u{feff}# x\n\n a b\r\nc\nd e\n";
        let all: Vec<_> = lines(text).collect();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].as_ref().unwrap().number, 3);
        assert_eq!(all[0].as_ref().unwrap().value, "b");
        assert_eq!(all[1].as_ref().unwrap_err().number, 4);
    }

    proptest::proptest! {
        #[test]
        fn any_text(text in "[a#\", \\\\\r\n]{0,40}|.{0,80}") {
            crate::fuzz::table_file(text.as_bytes());
        }
    }
}
