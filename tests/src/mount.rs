//! A disk so small that it can be filled.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A file system of its own in memory, unmounted when dropped.
pub struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// Mounts one; `None` for users who may not mount.
    ///
    /// # Panics
    /// When the superuser may not either.
    #[must_use]
    pub fn mount(megabytes: u32) -> Option<SmallDisk> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let folder = TempDir::new().expect("a folder");
        let size = format!("size={megabytes}m");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "none"])
            .arg(folder.path())
            .output()
            .expect("the mount command");
        mount.status.success().then_some(SmallDisk { folder })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Takes all the room that is left.
    ///
    /// # Panics
    /// When it cannot.
    pub fn fill(&self) {
        let mut file = File::create(self.ballast()).expect("a file");
        let chunk = [0_u8; 4_096];
        while file.write_all(&chunk).is_ok() {}
    }

    /// Gives it back.
    ///
    /// # Panics
    /// When it cannot.
    pub fn make_room(&self) {
        fs::remove_file(self.ballast()).expect("room");
    }

    fn ballast(&self) -> PathBuf {
        self.folder.path().join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.folder.path()).status();
    }
}
