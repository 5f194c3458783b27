//! The only way the store touches files, but for the index, which is sled's and may be lost; and
//! so the place where tests make them fail.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use postroad_queue::StoreError;

/// How calls that change something fail: the `after`-th from now on, once.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    after: AtomicU64,
    errno: AtomicI32,
    /// What was done, in order.
    #[cfg(test)]
    trace: std::sync::Mutex<Vec<String>>,
    /// Syncs wait, while a test says so.
    #[cfg(test)]
    pub(crate) syncs_wait: std::sync::atomic::AtomicBool,
}

impl Faults {
    /// The n-th writing or syncing call from now on (1 is the next) fails with that error.
    #[cfg(test)]
    pub(crate) fn fail(&self, n: u64, errno: nix::errno::Errno) {
        self.errno.store(errno as i32, Ordering::SeqCst);
        self.after.store(n, Ordering::SeqCst);
    }

    /// What has been done since the last call.
    #[cfg(test)]
    pub(crate) fn trace(&self) -> Vec<String> {
        std::mem::take(&mut self.trace.lock().unwrap())
    }

    #[cfg_attr(
        not(test),
        expect(unused_variables, reason = "tests look at what was done")
    )]
    fn check(&self, action: &str, path: &Path) -> io::Result<()> {
        #[cfg(test)]
        {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            self.trace.lock().unwrap().push(format!("{action} {name}"));
            while action == "sync" && self.syncs_wait.load(Ordering::SeqCst) {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        let left = self.after.load(Ordering::Relaxed);
        if left == 0 {
            return Ok(());
        }
        self.after.store(left - 1, Ordering::SeqCst);
        if left == 1 {
            return Err(io::Error::from_raw_os_error(
                self.errno.load(Ordering::SeqCst),
            ));
        }
        Ok(())
    }
}

/// The files of one store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Io(pub(crate) Arc<Faults>);

/// One open file.
#[derive(Debug)]
pub(crate) struct Disk {
    file: File,
    path: PathBuf,
    io: Io,
}

impl Io {
    /// A directory, and those above it; what is new of them is durable.
    pub(crate) fn make_dir(&self, path: &Path) -> Result<(), StoreError> {
        let new: Vec<_> = path.ancestors().take_while(|p| !p.exists()).collect();
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(path);
        made.map_err(|e| failed("creating", path, e))?;
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
            self.0.check("create", path)?;
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
        let file = make().map_err(|e| failed("creating", path, e))?;
        Ok(self.disk(file, path))
    }

    pub(crate) fn open(&self, path: &Path) -> Result<Disk, StoreError> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(|e| failed("opening", path, e))?;
        Ok(self.disk(file, path))
    }

    /// A file that may be there already.
    pub(crate) fn open_or_create(&self, path: &Path) -> Result<Disk, StoreError> {
        let open = || {
            self.0.check("open", path)?;
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            options.mode(0o600).open(path)
        };
        let file = open().map_err(|e| failed("opening", path, e))?;
        Ok(self.disk(file, path))
    }

    pub(crate) fn read_all(&self, path: &Path) -> Result<Vec<u8>, StoreError> {
        fs::read(path).map_err(|e| failed("reading", path, e))
    }

    pub(crate) fn remove(&self, path: &Path) -> Result<(), StoreError> {
        match self
            .0
            .check("remove", path)
            .and_then(|()| fs::remove_file(path))
        {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("removing", path, e)),
            _ => Ok(()),
        }
    }

    /// Durable with the next [`Io::sync_dir`].
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        let renamed = self
            .0
            .check("rename", to)
            .and_then(|()| fs::rename(from, to));
        renamed.map_err(|e| failed("renaming", from, e))
    }

    /// A second name for a file; none where that is there already.
    pub(crate) fn link(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        match self
            .0
            .check("link", to)
            .and_then(|()| fs::hard_link(from, to))
        {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(failed("linking", to, e)),
            _ => Ok(()),
        }
    }

    /// Octets of a file; `None` where there is none.
    pub(crate) fn length(&self, path: &Path) -> Result<Option<u64>, StoreError> {
        match fs::metadata(path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed("looking at", path, e)),
        }
    }

    /// Makes the names in a directory durable.
    pub(crate) fn sync_dir(&self, path: &Path) -> Result<(), StoreError> {
        let sync = || {
            self.0.check("sync_dir", path)?;
            File::open(path)?.sync_all()
        };
        sync().map_err(|e| failed("syncing", path, e))
    }

    pub(crate) fn names(&self, path: &Path) -> Result<Vec<String>, StoreError> {
        let read = || {
            fs::read_dir(path)?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect::<io::Result<Vec<_>>>()
        };
        read().map_err(|e| failed("listing", path, e))
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
        }
    }
}

impl Disk {
    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        let write = || {
            self.io.0.check("write", &self.path)?;
            self.file.write_all_at(bytes, offset)
        };
        write().map_err(|e| failed("writing", &self.path, e))
    }

    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        let sync = || {
            self.io.0.check("sync", &self.path)?;
            self.file.sync_data()
        };
        sync().map_err(|e| failed("syncing", &self.path, e))
    }

    pub(crate) fn truncate(&self, length: u64) -> Result<(), StoreError> {
        let cut = || {
            self.io.0.check("truncate", &self.path)?;
            self.file.set_len(length)
        };
        cut().map_err(|e| failed("truncating", &self.path, e))
    }

    pub(crate) fn read_at(&self, length: usize, offset: u64) -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![0; length];
        let read = self.file.read_exact_at(&mut bytes, offset);
        read.map_err(|e| failed("reading", &self.path, e))?;
        Ok(bytes)
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
