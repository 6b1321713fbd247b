//! Measures this machine: `skald bench`.

use clap::Args;

/// What to measure.
#[derive(Args, Debug)]
pub struct BenchArgs {}

/// Runs the benchmarks.
///
/// # Errors
/// One of them cannot run.
pub async fn run(_args: BenchArgs) -> anyhow::Result<()> {
    Ok(())
}
