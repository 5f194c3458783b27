//! The only way the store touches files, but for the index, which is sled's and may be lost; and
//! so the place where tests make them fail.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use postroad_queue::StoreError;

/// What is done to a file: for tests, which look on and make it fail.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "only tests look at what is done")
)]
pub(crate) enum Call<'a> {
    MakeDir,
    /// Of that length from the start.
    Create(u64),
    OpenOrCreate,
    Write(&'a Disk, &'a [u8], u64),
    Truncate(&'a Disk, u64),
    Sync(&'a Disk),
    SyncDir,
    /// From that name.
    Rename(&'a Path),
    /// From that name.
    Link(&'a Path),
    Remove,
    /// Anything that changes nothing.
    Read,
}

/// The files of one store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Io(#[cfg(test)] pub(crate) std::sync::Arc<crate::crash::Faults>);

/// One open file.
#[derive(Debug)]
pub(crate) struct Disk {
    file: File,
    path: PathBuf,
    io: Io,
    /// What tests know the file by, whatever it is called.
    #[cfg(test)]
    pub(crate) number: u32,
}

impl Io {
    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests look on here")]
    fn call<T>(
        &self,
        _call: Call<'_>,
        _path: &Path,
        work: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        work()
    }

    #[cfg(test)]
    fn call<T>(
        &self,
        call: Call<'_>,
        path: &Path,
        work: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        self.0.call(call, path, work)
    }

    /// A directory, and those above it; what is new of them is durable.
    pub(crate) fn make_dir(&self, path: &Path) -> Result<(), StoreError> {
        let new: Vec<_> = path.ancestors().take_while(|p| !p.exists()).collect();
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        for dir in new.iter().rev() {
            let made = self.call(Call::MakeDir, dir, || builder.create(dir));
            made.map_err(|e| failed("creating", path, e))?;
        }
        // Where it is there already, it is to be a directory.
        builder
            .create(path)
            .map_err(|e| failed("creating", path, e))?;
        for parent in new.iter().filter_map(|made| made.parent()) {
            // A relative path of one part has an empty parent: here.
            let here = parent.as_os_str().is_empty();
            self.sync_dir(if here { Path::new(".") } else { parent })?;
        }
        Ok(())
    }

    /// A new file, of that length from the start where it is not zero.
    pub(crate) fn create(&self, path: &Path, length: u64) -> Result<Disk, StoreError> {
        let make = || {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)?;
            if length > 0 {
                let length = i64::try_from(length).unwrap_or(i64::MAX);
                if let Err(error) = nix::fcntl::posix_fallocate(&file, 0, length) {
                    let _ = fs::remove_file(path);
                    return Err(error.into());
                }
            }
            Ok(file)
        };
        let file = self.call(Call::Create(length), path, make);
        let file = file.map_err(|e| failed("creating", path, e))?;
        Ok(self.disk(file, path))
    }

    pub(crate) fn open(&self, path: &Path) -> Result<Disk, StoreError> {
        let open = || OpenOptions::new().read(true).write(true).open(path);
        let file = self.call(Call::Read, path, open);
        let file = file.map_err(|e| failed("opening", path, e))?;
        Ok(self.disk(file, path))
    }

    /// A file that may be there already.
    pub(crate) fn open_or_create(&self, path: &Path) -> Result<Disk, StoreError> {
        let open = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            options.mode(0o600).open(path)
        };
        let file = self.call(Call::OpenOrCreate, path, open);
        let file = file.map_err(|e| failed("opening", path, e))?;
        Ok(self.disk(file, path))
    }

    pub(crate) fn read_all(&self, path: &Path) -> Result<Vec<u8>, StoreError> {
        let read = self.call(Call::Read, path, || fs::read(path));
        read.map_err(|e| failed("reading", path, e))
    }

    pub(crate) fn remove(&self, path: &Path) -> Result<(), StoreError> {
        match self.call(Call::Remove, path, || fs::remove_file(path)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("removing", path, e)),
            _ => Ok(()),
        }
    }

    /// Durable with the next [`Io::sync_dir`].
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        let renamed = self.call(Call::Rename(from), to, || fs::rename(from, to));
        renamed.map_err(|e| failed("renaming", from, e))
    }

    /// A second name for a file; none where that is there already.
    pub(crate) fn link(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        match self.call(Call::Link(from), to, || fs::hard_link(from, to)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(failed("linking", to, e)),
            _ => Ok(()),
        }
    }

    /// Octets of a file; `None` where there is none.
    pub(crate) fn length(&self, path: &Path) -> Result<Option<u64>, StoreError> {
        match self.call(Call::Read, path, || fs::metadata(path)) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed("looking at", path, e)),
        }
    }

    /// Makes the names in a directory durable.
    pub(crate) fn sync_dir(&self, path: &Path) -> Result<(), StoreError> {
        let sync = || File::open(path)?.sync_all();
        let synced = self.call(Call::SyncDir, path, sync);
        synced.map_err(|e| failed("syncing", path, e))
    }

    pub(crate) fn names(&self, path: &Path) -> Result<Vec<String>, StoreError> {
        let read = || {
            fs::read_dir(path)?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect::<io::Result<Vec<_>>>()
        };
        let names = self.call(Call::Read, path, read);
        names.map_err(|e| failed("listing", path, e))
    }

    /// Octets free for us on the file system of `path`.
    pub(crate) fn free(&self, path: &Path) -> Option<u64> {
        let stat = nix::sys::statvfs::statvfs(path).ok()?;
        stat.blocks_available().checked_mul(stat.fragment_size())
    }

    fn disk(&self, file: File, path: &Path) -> Disk {
        Disk {
            file,
            path: path.to_owned(),
            io: self.clone(),
            #[cfg(test)]
            number: self.0.number(path),
        }
    }
}

impl Disk {
    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        let write = || self.file.write_all_at(bytes, offset);
        let call = Call::Write(self, bytes, offset);
        let written = self.io.call(call, &self.path, write);
        written.map_err(|e| failed("writing", &self.path, e))
    }

    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        let sync = || self.file.sync_data();
        let synced = self.io.call(Call::Sync(self), &self.path, sync);
        synced.map_err(|e| failed("syncing", &self.path, e))
    }

    pub(crate) fn truncate(&self, length: u64) -> Result<(), StoreError> {
        let cut = || self.file.set_len(length);
        let call = Call::Truncate(self, length);
        let cut = self.io.call(call, &self.path, cut);
        cut.map_err(|e| failed("truncating", &self.path, e))
    }

    pub(crate) fn read_at(&self, length: usize, offset: u64) -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![0; length];
        self.read_into(&mut bytes, offset)?;
        Ok(bytes)
    }

    pub(crate) fn read_into(&self, bytes: &mut [u8], offset: u64) -> Result<(), StoreError> {
        let read = || self.file.read_exact_at(bytes, offset);
        let read = self.io.call(Call::Read, &self.path, read);
        read.map_err(|e| failed("reading", &self.path, e))
    }

    /// Writes what a failed write has written all the same.
    #[cfg(test)]
    pub(crate) fn write_torn(&self, bytes: &[u8], offset: u64) {
        self.file.write_all_at(bytes, offset).unwrap();
    }

    /// For the lock.
    pub(crate) fn into_file(self) -> File {
        self.file
    }
}

/// What an error of the system means.
pub(crate) fn failed(action: &'static str, path: &Path, source: io::Error) -> StoreError {
    let place = path.display().to_string();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full {
            place,
            detail: format!("{action}: {source}"),
        },
        _ => StoreError::Io {
            action,
            place,
            source,
        },
    }
}

/// The same error for each of those who waited for it.
pub(crate) fn again(error: &StoreError) -> StoreError {
    match error {
        StoreError::Full { place, detail } => StoreError::Full {
            place: place.clone(),
            detail: detail.clone(),
        },
        StoreError::Io {
            action,
            place,
            source,
        } => StoreError::Io {
            action,
            place: place.clone(),
            source: source
                .raw_os_error()
                .map_or_else(|| source.kind().into(), io::Error::from_raw_os_error),
        },
        other => StoreError::Damaged {
            place: "queue".to_owned(),
            detail: other.to_string().into(),
        },
    }
}
