//! The `skald` binary.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    skald::cli::run().await
}
