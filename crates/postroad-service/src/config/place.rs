//! Where in a text a key is, however it is written: under its table, dotted, or inline.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What a text has of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The key itself, in this line.
    Key(usize),
    /// Not the key, but a table in which it would be.
    Table(usize),
    /// The list has only so many entries here: the wanted one is in another file.
    Short(usize),
    /// Nothing.
    Nowhere,
}

/// Looks for `table.key`; where the way leads through a list, for its entry `nth`.
pub(super) fn locate(text: &str, key: &str, nth: usize) -> Place {
    let Ok(document) = DeTable::parse(text) else {
        return Place::Nowhere;
    };
    let line = |at: usize| {
        let before = text.as_bytes().get(..at).unwrap_or_default();
        before.iter().filter(|octet| **octet == b'\n').count() + 1
    };
    let mut table = document.get_ref();
    let mut nth = Some(nth);
    let mut place = Place::Nowhere;
    let mut segments = key.split('.').peekable();
    while let Some(segment) = segments.next() {
        let Some((name, value)) = table.get_key_value(segment) else {
            return place;
        };
        let (at, value) = match entry(value, &mut nth) {
            Ok(Some(entry)) => (entry.span().start, entry.get_ref()),
            Ok(None) => (name.span().start, value.get_ref()),
            Err(entries) => return Place::Short(entries),
        };
        if segments.peek().is_none() {
            return Place::Key(line(at));
        }
        place = Place::Table(line(at));
        let DeValue::Table(inner) = value else {
            return place;
        };
        table = inner;
    }
    place
}

/// The entry of the first list on the way; the number of its entries, where it has not so many.
fn entry<'a, 'i>(
    value: &'a Spanned<DeValue<'i>>,
    nth: &mut Option<usize>,
) -> Result<Option<&'a Spanned<DeValue<'i>>>, usize> {
    let DeValue::Array(list) = value.get_ref() else {
        return Ok(None);
    };
    match nth.take() {
        // An empty list is itself what is wrong.
        Some(0) if list.is_empty() => Ok(None),
        Some(n) => list.get(n).map(Some).ok_or(list.len()),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_keys() {
        let text = "a = 1\nd.e = 2\n[t]\nb = 2\nl = [1,\n2]\n[[r]]\nc = 3\n[[r]]\nx = [0]\nc = 4\n[ s ]\n  \"q\" = 1\n";
        for (key, nth, place) in [
            ("a", 0, Place::Key(1)),
            ("d.e", 0, Place::Key(2)),
            ("t.b", 0, Place::Key(4)),
            ("t.l", 0, Place::Key(5)),
            ("t.l", 1, Place::Key(6)),
            ("t.l", 2, Place::Short(2)),
            ("r", 1, Place::Key(9)),
            ("r.c", 0, Place::Key(8)),
            ("r.c", 1, Place::Key(11)),
            ("r.x", 1, Place::Key(10)),
            ("r.c", 5, Place::Short(2)),
            ("r.y", 0, Place::Table(7)),
            ("s.q", 0, Place::Key(13)),
            ("t", 0, Place::Key(3)),
            ("t.missing", 0, Place::Table(3)),
            ("missing.b", 0, Place::Nowhere),
        ] {
            assert_eq!(locate(text, key, nth), place, "{key} {nth}");
        }
        let inline = "x = { y = 1, z = { w = 2 } }\nroute = [\n  { via = \"mx\" },\n  { via = \"no\" },\n]\n";
        assert_eq!(locate(inline, "x.z.w", 0), Place::Key(1));
        assert_eq!(locate(inline, "route.via", 1), Place::Key(4));
    }
}
