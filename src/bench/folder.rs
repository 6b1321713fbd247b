//! Where the measurements put their files.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tempfile::TempDir;

use crate::config::Settings;

/// A folder that is deleted with all that is in it when dropped.
pub(super) struct Folder(TempDir);

impl Folder {
    /// A fresh folder inside `parent`, which is the configured data folder unless given: the disk
    /// that is measured should be the one that is used. Where there is no such folder yet, its own
    /// parent takes its place.
    pub(super) fn new(parent: Option<&Path>) -> anyhow::Result<Folder> {
        let parent = match parent {
            Some(parent) => {
                std::fs::create_dir_all(parent)
                    .with_context(|| format!("making {}", parent.display()))?;
                parent.to_owned()
            }
            None => existing(&Settings::default().data),
        };
        // Processes that run in other folders are given paths in this one.
        let parent = std::path::absolute(&parent)?;
        let folder = tempfile::Builder::new().prefix("skald-bench-").tempdir_in(&parent);
        folder.map(Folder).with_context(|| format!("making a folder in {}", parent.display()))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// A fresh folder inside.
    pub(super) fn inner(&self) -> anyhow::Result<Folder> {
        let folder = tempfile::Builder::new().prefix("run-").tempdir_in(self.path());
        folder.map(Folder).context("making a folder")
    }
}

/// The nearest folder up from `path` that exists.
fn existing(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let found = absolute.ancestors().find(|folder| folder.is_dir());
    found.unwrap_or(Path::new(".")).to_owned()
}
