//! Final delivery into a Maildir: written in `tmp`, synced, renamed into `new`, the directory synced.

use std::io;
use std::path::{Path, PathBuf};

use bytes::{BufMut as _, BytesMut};
use postroad_net::client::Source;
use tokio::fs;

use super::files::Files;

/// Delivers one copy; gives its file.
///
/// The name is the delivery's own and the lease makes us its only writer. A file of that name in
/// `tmp` is what a crash has left of an earlier try: it is written anew. One in `new` is whole,
/// since it got there by a rename after its sync: that try had finished, only its record was lost.
///
/// # Errors
/// Where it is not safely on disk.
pub(crate) async fn deliver(
    files: &Files,
    directory: &Path,
    name: &str,
    header: &str,
    content: &mut impl Source,
) -> io::Result<PathBuf> {
    for part in ["tmp", "new", "cur"] {
        create_durably(files, &directory.join(part)).await?;
    }
    let temporary = directory.join("tmp").join(name);
    let delivered = directory.join("new").join(name);
    let finished = fs::symlink_metadata(&delivered).await;
    if !finished.is_ok_and(|found| found.is_file()) {
        let placed = match write(files, &temporary, header, content).await {
            Ok(()) => files.rename(&temporary, &delivered).await,
            Err(error) => Err(error),
        };
        if let Err(error) = placed {
            let _ = files.remove(&temporary).await;
            return Err(error);
        }
    }
    files.sync_dir(&directory.join("new")).await?;
    Ok(delivered)
}

/// Makes a directory and those above it; each new one's name is synced too, or a power loss could
/// take a mailbox away with the mail in it.
async fn create_durably(files: &Files, directory: &Path) -> io::Result<()> {
    if fs::metadata(directory).await.is_ok_and(|it| it.is_dir()) {
        return Ok(());
    }
    let mut missing = Vec::new();
    for path in directory.ancestors() {
        // `mkdir` says what is wrong where something else than a directory has the name.
        if path.as_os_str().is_empty() || fs::try_exists(path).await? {
            break;
        }
        missing.push(path);
    }
    files.make_dir(directory).await?;
    for parent in missing.into_iter().filter_map(Path::parent) {
        files.sync_dir(parent).await?;
    }
    Ok(())
}

async fn write(
    files: &Files,
    path: &Path,
    header: &str,
    content: &mut impl Source,
) -> io::Result<()> {
    let mut file = files.create(path).await?;
    let mut newlines = Newlines::default();
    let mut out = BytesMut::new();
    newlines.convert(header.as_bytes(), &mut out);
    loop {
        let piece = content.next().await?;
        if piece.is_empty() {
            break;
        }
        newlines.convert(&piece, &mut out);
        files.write(&mut file, path, &out).await?;
        out.clear();
    }
    newlines.finish(&mut out);
    files.write(&mut file, path, &out).await?;
    files.sync(&mut file, path).await
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
            &Files::default(),
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
        assert!(
            deliver(&Files::default(), &mailbox, "2.x", "", &mut Broken)
                .await
                .is_err()
        );
        assert_eq!(std::fs::read_dir(mailbox.join("tmp")).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(mailbox.join("new")).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn what_a_crash_left_is_no_delivery() {
        let directory = tempfile::tempdir().unwrap();
        let mailbox = directory.path().join("box");
        std::fs::create_dir_all(mailbox.join("tmp")).unwrap();
        std::fs::write(
            mailbox.join("tmp/1.x"),
            "half of it, and longer than the whole",
        )
        .unwrap();
        let file = deliver(
            &Files::default(),
            &mailbox,
            "1.x",
            "",
            &mut Two(vec!["whole\r\n"]),
        )
        .await
        .unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"whole\n");
        assert_eq!(std::fs::read_dir(mailbox.join("tmp")).unwrap().count(), 0);
        // Finished, and its record lost: the content is not even read.
        let again = deliver(
            &Files::default(),
            &mailbox,
            "1.x",
            "",
            &mut Two(vec!["again\r\n"]),
        )
        .await
        .unwrap();
        assert_eq!(again, file);
        assert_eq!(std::fs::read(&file).unwrap(), b"whole\n");
        assert_eq!(std::fs::read_dir(mailbox.join("new")).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_file_in_a_directorys_place_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let mailbox = directory.path().join("box");
        std::fs::create_dir_all(&mailbox).unwrap();
        std::fs::write(mailbox.join("tmp"), "").unwrap();
        assert!(
            deliver(&Files::default(), &mailbox, "1.x", "", &mut Two(vec!["x"]))
                .await
                .is_err()
        );
        assert!(!mailbox.join("new").exists());
    }

    /// A power loss takes neither the message, nor its name, nor the mailbox.
    #[tokio::test]
    async fn synced_before_it_is_delivered() {
        let directory = tempfile::tempdir().unwrap();
        let mailbox = directory.path().join("a/b");
        let files = Files::default();
        deliver(&files, &mailbox, "1.x", "", &mut Two(vec!["x\r\n"]))
            .await
            .unwrap();
        let made = [
            "make_dir a/b/tmp",
            "sync_dir a/b",
            "sync_dir a",
            "sync_dir .",
            "make_dir a/b/new",
            "sync_dir a/b",
            "make_dir a/b/cur",
            "sync_dir a/b",
        ];
        let written = |name: &str| {
            [
                format!("create a/b/tmp/{name}"),
                format!("write a/b/tmp/{name}"),
                format!("write a/b/tmp/{name}"),
                format!("sync a/b/tmp/{name}"),
                format!("rename a/b/new/{name}"),
                "sync_dir a/b/new".to_owned(),
            ]
        };
        let trace = files.trace(directory.path());
        let (first, rest) = trace.split_at(made.len().min(trace.len()));
        assert_eq!(first, made);
        assert_eq!(rest, written("1.x"));
        // The mailbox is there; each message is synced all the same.
        deliver(&files, &mailbox, "2.x", "", &mut Two(vec!["x\r\n"]))
            .await
            .unwrap();
        assert_eq!(files.trace(directory.path()), written("2.x"));
        // Renamed before a crash, and its name perhaps not yet durable.
        deliver(&files, &mailbox, "2.x", "", &mut Two(vec!["x\r\n"]))
            .await
            .unwrap();
        assert_eq!(files.trace(directory.path()), ["sync_dir a/b/new"]);
    }
}
