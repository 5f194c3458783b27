//! The only way a Maildir delivery changes files, and so the place where tests see in what order.

use std::io;
use std::path::Path;

use tokio::fs;
use tokio::io::AsyncWriteExt as _;

/// The files of one delivery.
#[derive(Debug, Default)]
pub(crate) struct Files {
    /// What was done, in order.
    #[cfg(test)]
    trace: std::sync::Mutex<Vec<String>>,
}

impl Files {
    /// What has been done since the last call, each path as it is below `root`.
    #[cfg(test)]
    pub(crate) fn trace(&self, root: &Path) -> Vec<String> {
        let all = std::mem::take(&mut *self.trace.lock().unwrap());
        let root = root.display().to_string();
        all.iter()
            .map(|line| line.replace(&format!("{root}/"), "").replace(&root, "."))
            .collect()
    }

    #[cfg_attr(
        not(test),
        expect(
            clippy::unused_self,
            unused_variables,
            reason = "tests look at what was done"
        )
    )]
    fn note(&self, action: &str, path: &Path) {
        #[cfg(test)]
        self.trace
            .lock()
            .unwrap()
            .push(format!("{action} {}", path.display()));
    }

    /// A directory and those above it.
    pub(crate) async fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.note("make_dir", path);
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(path).await
    }

    /// Makes the names in a directory durable.
    pub(crate) async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.note("sync_dir", path);
        // A relative path of one part has an empty parent: here.
        let here = path.as_os_str().is_empty();
        let path = if here { Path::new(".") } else { path };
        fs::File::open(path).await?.sync_all().await
    }

    /// An empty file, whatever was there before.
    pub(crate) async fn create(&self, path: &Path) -> io::Result<fs::File> {
        self.note("create", path);
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(path).await
    }

    pub(crate) async fn write(
        &self,
        file: &mut fs::File,
        path: &Path,
        octets: &[u8],
    ) -> io::Result<()> {
        self.note("write", path);
        file.write_all(octets).await
    }

    /// Makes what was written durable.
    pub(crate) async fn sync(&self, file: &mut fs::File, path: &Path) -> io::Result<()> {
        file.flush().await?;
        self.note("sync", path);
        file.sync_all().await
    }

    /// Durable with the next [`Files::sync_dir`].
    pub(crate) async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.note("rename", to);
        fs::rename(from, to).await
    }

    pub(crate) async fn remove(&self, path: &Path) -> io::Result<()> {
        self.note("remove", path);
        fs::remove_file(path).await
    }
}
