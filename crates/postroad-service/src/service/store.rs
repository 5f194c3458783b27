use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use nix::unistd::{Uid, User, geteuid};
use postroad_mail::Cache;
use postroad_queue::{MemCache, MemStore, Store};
use postroad_store::{LocalStore, Options};
use tracing::{error, info, warn};

use super::ServiceError;
use crate::config::{Config, Durability, StoreKind};

/// Octets that a queue in memory holds, at most.
const MEMORY_MAX: u64 = 1 << 30;

/// A queue, and the cache that is kept with it.
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) cache: Arc<dyn Cache>,
}

/// Opens the queue of a configuration.
///
/// # Errors
/// Where another process has it, it cannot be read, it is of a version that we do not know, or we
/// are root and it is not root's.
pub async fn open_store(config: &Config) -> Result<Arc<dyn Store>, ServiceError> {
    Ok(open(config).await?.store)
}

/// A cache that is gone at the end.
pub(super) fn memory_cache() -> Arc<dyn Cache> {
    Arc::new(MemCache::default())
}

/// As [`open_store`], with the cache.
pub(crate) async fn open(config: &Config) -> Result<Opened, ServiceError> {
    match config.queue.store {
        StoreKind::Memory => {
            warn!("the queue is in memory: all mail in it is lost at a stop");
            Ok(Opened {
                store: Arc::new(MemStore::new(MEMORY_MAX)),
                cache: memory_cache(),
            })
        }
        StoreKind::Local | StoreKind::Postgres => {
            may_open(&config.queue.path, geteuid())?;
            let mut options = Options::new(&config.queue.path);
            options.min_free = config.limits.min_free.0;
            options.durability = match config.queue.durability {
                Durability::Sync => postroad_store::Durability::Sync,
                Durability::Os => postroad_store::Durability::Os,
            };
            let opening = tokio::task::spawn_blocking(move || LocalStore::open(options));
            let (store, report) = opening.await.map_err(|_| ServiceError::Ended)??;
            let durability = match config.queue.durability {
                Durability::Sync => "sync: on disk before every 250",
                Durability::Os => "os: survives a kill, not a power loss",
            };
            info!(path = %config.queue.path.display(), durability, messages = report.messages, clean = report.clean, segments = report.segments, torn = report.torn, "queue open");
            for damage in &report.damage {
                error!(%damage, "the queue was damaged");
            }
            Ok(Opened {
                cache: store.cache(),
                store: Arc::new(store),
            })
        }
    }
}

/// Root may do everything, and that is what is wrong: what it makes, the owner cannot open.
/// Refused rather than becoming the owner: a process that changes whom it runs as half-way is
/// harder to trust than one that says how to be run.
fn may_open(queue: &Path, we: Uid) -> Result<(), ServiceError> {
    match foreign_owner(queue, we) {
        Some(owner) => Err(ServiceError::ForeignQueue {
            place: queue.display().to_string(),
            owner,
        }),
        None => Ok(()),
    }
}

/// Whose a directory is, where we are root and it is not root's; as sudo takes it.
pub(crate) fn foreign_owner(directory: &Path, we: Uid) -> Option<String> {
    let owner = Uid::from_raw(std::fs::metadata(directory).ok()?.uid());
    if !we.is_root() || owner.is_root() {
        return None;
    }
    let name = User::from_uid(owner).ok().flatten().map(|user| user.name);
    Some(name.unwrap_or_else(|| format!("'#{owner}'")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn root_keeps_out_of_the_queue_of_another() {
        let queue = tempfile::tempdir().unwrap();
        assert!(may_open(&queue.path().join("none"), Uid::from_raw(0)).is_ok());
        assert!(may_open(queue.path(), Uid::from_raw(1)).is_ok());
        if !geteuid().is_root() {
            return;
        }
        assert!(may_open(queue.path(), geteuid()).is_ok());
        let nobody = User::from_name("nobody").unwrap().unwrap();
        std::os::unix::fs::chown(queue.path(), Some(nobody.uid.as_raw()), None).unwrap();
        let mut config = Config::default();
        config.queue.path = queue.path().to_owned();
        let error = open_store(&config).await.map(|_| ()).unwrap_err();
        assert!(
            error.to_string().contains("belongs to nobody")
                && error.to_string().contains("`sudo -u nobody postroad queue"),
            "{error}"
        );
        assert_eq!(std::fs::read_dir(queue.path()).unwrap().count(), 0);
    }
}
