use std::fmt::Arguments;
use std::io::{self, Write as _};

/// Prints a line.
pub(crate) fn line(arguments: Arguments<'_>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_fmt(arguments)?;
    out.write_all(b"\n")
}

/// Prints text as it is.
pub(crate) fn text(text: &str) -> io::Result<()> {
    io::stdout().lock().write_all(text.as_bytes())
}

/// Whoever read our output has had enough: no reason to complain.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}
