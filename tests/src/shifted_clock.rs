//! A wall clock that a test sets, for one process and its children: libfaketime, preloaded.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Setup;

/// The clock of the processes that were set up with it.
pub struct ShiftedClock {
    offset: PathBuf,
}

impl ShiftedClock {
    /// One that shows the machine's time, until it is shifted. Its file is kept in `folder`.
    ///
    /// # Panics
    /// When the file cannot be written.
    #[must_use]
    pub fn new(folder: &Path) -> ShiftedClock {
        let clock = ShiftedClock { offset: folder.join("offset") };
        clock.shift("+0");
        clock
    }

    /// The same process, under this clock.
    ///
    /// # Panics
    /// When libfaketime is not installed.
    #[must_use]
    pub fn for_process(&self, setup: Setup) -> Setup {
        setup
            .environment("LD_PRELOAD", library().to_str().expect("a path in UTF-8"))
            .environment("FAKETIME_TIMESTAMP_FILE", self.offset.to_str().expect("a path in UTF-8"))
            .environment("FAKETIME_NO_CACHE", "1")
            .environment("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .environment("NO_FAKE_STAT", "1")
    }

    /// Shows another time from now on, such as `+2h` or `-30m` beside the machine's.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn shift(&self, by: &str) {
        // Written beside and moved over: the process never reads half of it.
        let beside = self.offset.with_extension("new");
        fs::write(&beside, by).expect("a file for the clock");
        fs::rename(&beside, &self.offset).expect("a file for the clock");
    }
}

/// The library that shifts the clock of one process.
fn library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").expect("/usr/lib").flatten();
    let library = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    let found = library.into_iter().find(|path| path.is_file());
    found.expect("libfaketimeMT.so.1: run tests/run, or install the package faketime")
}
