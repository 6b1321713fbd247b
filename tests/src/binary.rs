//! Where the `skald` binary is.

use std::path::PathBuf;

/// The binary of the same profile as the running test.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn path() -> PathBuf {
    let test = std::env::current_exe().expect("the path of the running test");
    // target/<profile>/deps/suite-…
    let profile = test.ancestors().nth(2).expect("a test inside target/<profile>/deps");
    let binary = profile.join(format!("skald{}", std::env::consts::EXE_SUFFIX));
    assert!(
        binary.is_file(),
        "{} is missing: run tests/run, or `cargo build -p skald` first",
        binary.display()
    );
    binary
}
