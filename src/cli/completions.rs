//! `skald completions`

use std::io::Write as _;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, Stop};

/// Which shell.
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// Prints the script that completes commands.
pub(super) fn run(args: &CompletionsArgs) -> Result<(), Stop> {
    let mut script = Vec::new(); // writing to stdout itself would panic when nobody reads
    clap_complete::generate(args.shell, &mut Cli::command(), "skald", &mut script);
    std::io::stdout().lock().write_all(&script)?;
    Ok(())
}
