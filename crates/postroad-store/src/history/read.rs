//! How a history is searched: from its first file that may know of it, line by line, in a bounded
//! window; only lines that are wanted are understood.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use memchr::memmem::Finder;
use postroad_mail::Timestamp;
use postroad_queue::history::{Event, Happening, Wanted};
use postroad_queue::{QueueId, StoreError};

use crate::history::files::{LINE_MAX, list};
use crate::io::failed;

/// Octets read at once.
const WINDOW: usize = 256 << 10;
/// Messages of one Message-ID that are told of: the youngest.
const SAME_ID_MAX: usize = 64;
/// Octets of lines that an answer is made of, at most; beyond, the oldest are left out.
const ANSWER_MAX: usize = 16 << 20;
/// What clocks may have gone back by between an id and what is told of it.
const SLACK: Duration = Duration::from_secs(60 * 60);
/// What every line begins with; the id follows.
const START: &[u8] = b"{\"id\":\"";
const ID: usize = 26;

/// A history on disk, to be read: also where the process that writes it, or none, has it open.
#[derive(Clone, Debug)]
pub struct HistoryFiles(PathBuf);

impl HistoryFiles {
    /// That in a directory.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }

    /// What is known of a message, in order of time, at most `max` events of the youngest. Blocks
    /// for as long as reading the files takes that may know of it.
    ///
    /// # Errors
    /// Where they cannot be read. Lines that are not what was written are skipped.
    pub fn find(&self, wanted: &Wanted, max: usize) -> Result<Vec<Event>, StoreError> {
        let ids = match wanted {
            Wanted::Id(id) => vec![*id],
            Wanted::MessageId(message_id) => self.ids(message_id)?,
        };
        let Some(first) = ids.iter().min() else {
            return Ok(Vec::new());
        };
        let names: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let mut lines: VecDeque<Vec<u8>> = VecDeque::new();
        let mut octets = 0;
        self.read(minted(*first), |line| {
            let id = line.strip_prefix(START).and_then(|rest| rest.get(..ID));
            if id.is_some_and(|id| names.iter().any(|name| name.as_bytes() == id)) {
                octets += line.len();
                lines.push_back(line.to_vec());
                while lines.len() > max || octets > ANSWER_MAX {
                    octets -= lines.pop_front().map_or(octets, |line| line.len());
                }
            }
        })?;
        let events = lines.iter().map(|line| serde_json::from_slice(line));
        let mut events: Vec<Event> = events.filter_map(Result::ok).collect();
        events.sort_by_key(|event| event.at);
        Ok(events)
    }

    /// The messages that have that Message-ID.
    fn ids(&self, message_id: &str) -> Result<Vec<QueueId>, StoreError> {
        // As it stands in the line.
        let Ok(quoted) = serde_json::to_string(message_id) else {
            return Ok(Vec::new());
        };
        let finder = Finder::new(quoted.as_bytes());
        let mut ids = VecDeque::new();
        self.read(Timestamp::default(), |line| {
            if finder.find(line).is_none() {
                return;
            }
            let event = serde_json::from_slice::<Event>(line);
            if let Ok(event) = event
                && let Happening::Accepted(accepted) = &event.what
                && accepted.message_id.as_deref() == Some(message_id)
            {
                ids.push_back(event.id);
                if ids.len() > SAME_ID_MAX {
                    ids.pop_front();
                }
            }
        })?;
        Ok(ids.into())
    }

    /// Each whole line of the files that may know of what has happened since.
    fn read(&self, since: Timestamp, mut each: impl FnMut(&[u8])) -> Result<(), StoreError> {
        let files = match list(&self.0) {
            Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Ok(()); // nothing has been written yet
            }
            files => files?,
        };
        // A file ends where the next begins.
        let ends = files.iter().skip(1).map(|next| next.at);
        let ends = ends.chain([Timestamp::MAX]);
        let mut buffer = Vec::new();
        for (file, end) in files.iter().zip(ends) {
            if end + SLACK >= since {
                lines(&file.path(&self.0), &mut buffer, &mut each)?;
            }
        }
        Ok(())
    }
}

/// When an id was minted: what happened to its message happened later.
fn minted(id: QueueId) -> Timestamp {
    let [a, b, c, d, e, f, ..] = id.to_bytes();
    Timestamp::from_millis(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
}

/// Each line of a file that ends in a line end and is not too long. The buffer may be used for
/// one file after the other.
fn lines(
    path: &Path,
    buffer: &mut Vec<u8>,
    each: &mut impl FnMut(&[u8]),
) -> Result<(), StoreError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()), // it was the oldest
        Err(error) => return Err(failed("opening", path, error)),
    };
    buffer.resize(WINDOW, 0);
    let mut held = 0;
    let mut skipping = false;
    loop {
        if held == buffer.len() {
            if held > LINE_MAX {
                (held, skipping) = (0, true);
            } else {
                buffer.resize(2 * held, 0);
            }
        }
        let room = buffer.get_mut(held..).unwrap_or_default();
        let got = match file.read(room) {
            Ok(got) => got,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed("reading", path, error)),
        };
        if got == 0 {
            return Ok(()); // what is left was never written to its end
        }
        let filled = buffer.get(..held + got).unwrap_or_default();
        let mut from = 0;
        // No line end is in what was held.
        for end in memchr::memchr_iter(b'\n', filled.get(held..).unwrap_or_default()) {
            let end = held + end;
            if !std::mem::take(&mut skipping) {
                each(filled.get(from..end).unwrap_or_default());
            }
            from = end + 1;
        }
        buffer.copy_within(from..held + got, 0);
        held = held + got - from;
    }
}
