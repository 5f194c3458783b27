//! What a test logs.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, Once};

use tracing::subscriber::DefaultGuard;

/// What this thread has logged since, as `LEVEL message fields` lines.
pub(crate) struct Log {
    octets: Octets,
    _guard: DefaultGuard,
}

#[derive(Clone, Default)]
struct Octets(Arc<Mutex<Vec<u8>>>);

impl Write for Octets {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    pub(crate) fn start() -> Self {
        // With one subscriber only, and that of a single thread, what another thread is the first
        // to log would be switched off for all.
        static ELSEWHERE: Once = Once::new();
        ELSEWHERE.call_once(|| {
            let nowhere = tracing_subscriber::fmt().with_writer(io::sink).finish();
            let _ = tracing::subscriber::set_global_default(nowhere);
        });
        let octets = Octets::default();
        let writer = octets.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .finish();
        Self {
            octets,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    /// The lines since the last call.
    pub(crate) fn lines(&self) -> Vec<String> {
        let octets = std::mem::take(&mut *self.octets.0.lock().unwrap());
        let text = String::from_utf8(octets).unwrap();
        text.lines().map(|line| line.trim().to_owned()).collect()
    }
}
