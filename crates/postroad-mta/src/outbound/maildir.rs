//! Final delivery into a Maildir: written in `tmp`, synced, renamed into `new`, the directory synced.

use std::io;
use std::path::{Path, PathBuf};

use bytes::{BufMut as _, BytesMut};
use postroad_net::client::Source;
use tokio::fs;
use tokio::io::AsyncWriteExt as _;

/// Delivers one copy; gives its file.
///
/// # Errors
/// Where it is not safely on disk.
pub(crate) async fn deliver(
    directory: &Path,
    name: &str,
    header: &str,
    content: &mut impl Source,
) -> io::Result<PathBuf> {
    for part in ["tmp", "new", "cur"] {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(directory.join(part)).await?;
    }
    let temporary = directory.join("tmp").join(name);
    let delivered = directory.join("new").join(name);
    let written = write(&temporary, header, content).await;
    let placed = match written {
        Ok(()) => fs::rename(&temporary, &delivered).await,
        Err(error) => Err(error),
    };
    if let Err(error) = placed {
        let _ = fs::remove_file(&temporary).await;
        return Err(error);
    }
    fs::File::open(directory.join("new"))
        .await?
        .sync_all()
        .await?;
    Ok(delivered)
}

async fn write(path: &Path, header: &str, content: &mut impl Source) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(path).await?;
    let mut newlines = Newlines::default();
    let mut out = BytesMut::new();
    newlines.convert(header.as_bytes(), &mut out);
    loop {
        let piece = content.next().await?;
        if piece.is_empty() {
            break;
        }
        newlines.convert(&piece, &mut out);
        file.write_all(&out).await?;
        out.clear();
    }
    newlines.finish(&mut out);
    file.write_all(&out).await?;
    file.flush().await?;
    file.sync_all().await
}

/// CRLF to LF, as mailboxes on this kind of system have it.
#[derive(Debug, Default)]
struct Newlines {
    cr: bool,
}

impl Newlines {
    fn convert(&mut self, piece: &[u8], out: &mut BytesMut) {
        out.reserve(piece.len() + 1);
        for &octet in piece {
            if self.cr && octet != b'\n' {
                out.put_u8(b'\r');
            }
            self.cr = octet == b'\r';
            if !self.cr {
                out.put_u8(octet);
            }
        }
    }

    fn finish(&mut self, out: &mut BytesMut) {
        if std::mem::take(&mut self.cr) {
            out.put_u8(b'\r');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    struct Two(Vec<&'static str>);

    impl Source for Two {
        async fn next(&mut self) -> io::Result<Bytes> {
            Ok(if self.0.is_empty() {
                Bytes::new()
            } else {
                Bytes::from_static(self.0.remove(0).as_bytes())
            })
        }
    }

    #[tokio::test]
    async fn written_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let mailbox = directory.path().join("a/b");
        let file = deliver(
            &mailbox,
            "1.x",
            "Return-Path: <>\r\n",
            &mut Two(vec!["A: b\r", "\n\r\nx\ry\r\n"]),
        )
        .await
        .unwrap();
        assert_eq!(
            std::fs::read(&file).unwrap(),
            b"Return-Path: <>\nA: b\n\nx\ry\n"
        );
        assert_eq!(file, mailbox.join("new/1.x"));
        assert_eq!(std::fs::read_dir(mailbox.join("tmp")).unwrap().count(), 0);

        struct Broken;
        impl Source for Broken {
            async fn next(&mut self) -> io::Result<Bytes> {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
        }
        assert!(deliver(&mailbox, "2.x", "", &mut Broken).await.is_err());
        assert_eq!(std::fs::read_dir(mailbox.join("tmp")).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(mailbox.join("new")).unwrap().count(), 1);
    }
}
