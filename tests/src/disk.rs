//! A small disk: a tmpfs that only one service sees, in a mount namespace of its own.

use std::path::Path;

use anyhow::bail;
use nix::sys::statvfs::statvfs;

use crate::programs::run;

/// Mounts it, and becomes what follows.
const MOUNT: &str = r#"mount -t tmpfs -o "size=$1,mode=700" small "$2" && shift 2 && exec "$@""#;

/// What stands before a command line, so that the program finds an empty disk of so many MiB at
/// `place`, a directory that is made. It goes with the program.
///
/// # Errors
/// Where this machine permits that neither to us as we are nor in a user namespace.
pub async fn small(place: &Path, mib: u64) -> anyhow::Result<Vec<String>> {
    std::fs::create_dir_all(place)?;
    let mut said = Vec::new();
    for user in [&[][..], &["--map-root-user"]] {
        let mut words = vec!["--mount", "--propagation", "private"];
        words.extend(user);
        words.extend(["sh", "-c", MOUNT, "small"]);
        let (size, place) = (format!("{mib}m"), place.to_string_lossy());
        words.extend([size.as_str(), &place]);
        match run("unshare", &[&words[..], &["true"]].concat(), b"").await {
            Ok(finished) if finished.code == 0 => {
                words.insert(0, "unshare");
                return Ok(words.into_iter().map(str::to_owned).collect());
            }
            Ok(finished) => said.push(finished.errors.trim().to_owned()),
            Err(error) => said.push(error.to_string()),
        }
    }
    bail!(
        "this test needs a small file system of its own, and this machine does not permit one: \
         run it as root (CAP_SYS_ADMIN), or where user namespaces are allowed; \
         as we are: {}; in a user namespace: {}",
        said.first().map_or("", String::as_str),
        said.last().map_or("", String::as_str)
    )
}

/// Octets free on the disk that `place` is on.
///
/// # Errors
/// Where there is no such place.
pub fn free(place: &Path) -> anyhow::Result<u64> {
    let disk = statvfs(place)?;
    Ok(disk.blocks_available() * disk.fragment_size())
}
