//! The sources of this project.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of the whole project.
///
/// # Panics
/// When this room is not inside it.
#[must_use]
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the folder above the tests").to_owned()
}

/// All files that are tracked, or would be: paths from the root, sorted. Without git, as in an
/// unpacked archive, all files that are not built.
#[must_use]
pub fn files() -> Vec<PathBuf> {
    let root = root();
    let mut files = from_git(&root).unwrap_or_else(|| {
        let mut files = Vec::new();
        walk(&root, &root, &mut files);
        files
    });
    files.retain(|path| root.join(path).is_file());
    files.sort();
    files
}

/// Of those, the Rust sources.
#[must_use]
pub fn rust_files() -> Vec<PathBuf> {
    files().into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "rs")).collect()
}

/// The text of a file; `None` for those that are no text.
#[must_use]
pub fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(root().join(path)).ok()
}

fn from_git(root: &Path) -> Option<Vec<PathBuf>> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .ok()
        .filter(|listed| listed.status.success())?;
    let text = String::from_utf8(listed.stdout).ok()?;
    Some(text.split('\0').filter(|path| !path.is_empty()).map(PathBuf::from).collect())
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() {
            if name != "target" && name != ".git" {
                walk(root, &path, files);
            }
        } else if let Ok(path) = path.strip_prefix(root) {
            files.push(path.to_owned());
        }
    }
}
