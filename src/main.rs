//! The `skald` binary.

use std::process::ExitCode;

/// Requests allocate on all threads at once; the system's allocator makes them wait for each other.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    skald::cli::run().await
}
