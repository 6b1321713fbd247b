//! The command line: `skald dev` and `skald serve` run the platform, the other commands talk to
//! one that runs, over HTTP, or (`keys`, `migrate`) to its database.
//!
//! [`run`] parses → one file per command acts → `output` prints for people or, with `--json`, for
//! programs → `Stop` becomes the exit code: 0 done, 1 failed, 2 misused or not startable.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Flags, Loaded, Settings};

mod backup;
mod client;
mod completions;
mod consumers;
mod database;
mod dead_letters;
mod demo;
mod events;
mod keys;
mod listen;
mod log;
mod migrate;
mod moment;
mod output;
mod problem;
mod publish;
mod replay;
mod sagas;
mod serve;
mod settings;
mod shown;
mod stop;
mod tail;
mod transfer;
mod webhooks;

use client::ServerArgs;
use output::Output;
use stop::Stop;

/// An event platform in one binary: a durable log, idempotent consumers, retries, dead letters and
/// replay.
#[derive(Debug, Parser)]
#[command(name = "skald", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    /// Print JSON for programs instead of text for people.
    #[arg(long, global = true)]
    json: bool,
    /// The configuration file [default: skald.toml, if it is there; env: SKALD_CONFIG].
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the platform for development: no keys, private addresses allowed, loopback only.
    Dev(serve::DevArgs),
    /// See it all in two minutes: orders through sagas, webhooks and consumers, and a crash.
    Demo(demo::DemoArgs),
    #[command(hide = true)]
    DemoNode(demo::node::NodeArgs),
    /// Run the platform for production.
    Serve(serve::ServeArgs),
    /// Publish events from a file of JSON lines.
    Publish(publish::PublishArgs),
    /// Print events as they come.
    Tail(tail::TailArgs),
    /// List events, or show one with what its consumers made of it.
    Events(events::EventsArgs),
    /// Show all that came of an event.
    Trace(events::TraceArgs),
    /// List, register, pause and resume consumers.
    Consumers(consumers::ConsumersArgs),
    /// List, redrive and delete dead letters.
    DeadLetters(dead_letters::DeadLettersArgs),
    /// Hand events of the past to a consumer again.
    Replay(replay::ReplayArgs),
    /// Check, draw and walk definitions; start, show and settle sagas.
    Sagas(sagas::SagasArgs),
    /// List, create, test and change webhooks; show, resend and recover deliveries.
    Webhooks(webhooks::WebhooksArgs),
    /// Forward live events to a program on this machine, signed as webhooks are.
    Listen(listen::ListenArgs),
    /// Create, list and revoke keys, in the database itself.
    Keys(keys::KeysArgs),
    /// Copy the files of the embedded profile, while it runs.
    Backup(backup::BackupArgs),
    /// Put such a copy back, where nothing is yet.
    Restore(backup::BackupArgs),
    /// Write the whole of a log and its database to one file.
    Export(transfer::TransferArgs),
    /// Put such a file into an empty log and an empty database, and compare.
    Import(transfer::TransferArgs),
    /// Take on a log that is not the one that the database knows.
    Log(log::LogArgs),
    /// Bring the database to this version.
    Migrate(database::DatabaseArgs),
    /// Print the settings in effect and where each came from.
    Config,
    /// Measure the log or a running server.
    Bench(crate::bench::BenchArgs),
    /// Print completions for a shell.
    Completions(completions::CompletionsArgs),
}

/// Runs the command that the process was started with.
pub async fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print(); // nobody is left to tell
            return if error.use_stderr() { stop::misused() } else { ExitCode::SUCCESS };
        }
    };
    match dispatch(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => {
            if let Some(message) = stop.message() {
                let _ = writeln!(std::io::stderr().lock(), "skald: {message}");
            }
            stop.code()
        }
    }
}

async fn dispatch(cli: Cli) -> Result<(), Stop> {
    let output = Output::new(cli.json);
    let flags = Flags { config: cli.config, ..Flags::default() };
    match cli.command {
        Command::Dev(args) => serve::dev(args, flags).await,
        Command::Demo(args) => demo::run(args, &output).await,
        Command::DemoNode(args) => demo::node::run(args).await,
        Command::Serve(args) => serve::serve(args, flags).await,
        Command::Publish(args) => publish::run(args, &output).await,
        Command::Tail(args) => tail::run(args, &output).await,
        Command::Events(args) => events::run(args, &output).await,
        Command::Trace(args) => events::trace(args, &output).await,
        Command::Consumers(args) => consumers::run(args, &output).await,
        Command::DeadLetters(args) => dead_letters::run(args, &output).await,
        Command::Replay(args) => replay::run(args, &output).await,
        Command::Sagas(args) => sagas::run(args, &output).await,
        Command::Webhooks(args) => webhooks::run(args, &output).await,
        Command::Listen(args) => listen::run(args, &output).await,
        Command::Keys(args) => keys::run(args, flags, &output).await,
        Command::Backup(args) => backup::take(args, flags, &output).await,
        Command::Restore(args) => backup::put_back(args, flags, &output).await,
        Command::Export(args) => transfer::export(args, flags, &output).await,
        Command::Import(args) => transfer::import(args, flags, &output).await,
        Command::Log(args) => log::run(args, flags, &output).await,
        Command::Migrate(args) => migrate::run(args, flags, &output).await,
        Command::Config => settings::run(&load(&flags)?, &output),
        Command::Bench(args) => Ok(crate::bench::run(args).await?),
        Command::Completions(args) => completions::run(&args),
    }
}

/// The settings; anything wrong with them is a misuse, told at once.
fn load(flags: &Flags) -> Result<Loaded, Stop> {
    Settings::load(flags).map_err(Stop::start)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parses(line: &str) -> bool {
        Cli::try_parse_from(line.split(' ')).is_ok()
    }

    #[test]
    fn the_definition_of_the_commands_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_read_as_they_are_documented() {
        for line in [
            "skald dev --listen 127.0.0.1:0 --data x",
            "skald serve --log nats://a --database postgres://b/c --config x.toml",
            "skald publish - --json",
            "skald publish file.jsonl --url http://h --key sk_x",
            "skald tail --type a.> --from 5",
            "skald events --type a --since 2026-01-01 --limit 5",
            "skald events 17",
            "skald trace 17",
            "skald consumers",
            "skald consumers --url http://h show c",
            "skald consumers register c --type a --type b --kind pull --from first --url http://h",
            "skald dead-letters c --error timeout --since 2h",
            "skald dead-letters c --group",
            "skald dead-letters redrive c 1 2 3",
            "skald dead-letters redrive c --all --error x --dry-run --url http://h",
            "skald dead-letters --url http://h redrive c 1",
            "skald dead-letters delete c --all",
            "skald replay start --consumer c --type a --since 1d --mode force --rate 50/s --wait",
            "skald replay list",
            "skald replay show rpl_1",
            "skald webhooks",
            "skald webhooks create https://h/hook --type a.> --type b --tenant t --signature v1a",
            "skald webhooks test ep_1 --type a",
            "skald webhooks deliveries ep_1 --status failed --since 2h",
            "skald webhooks delivery dlv_1",
            "skald webhooks resend dlv_1 --url http://h",
            "skald webhooks recover ep_1 --since 1d --only missing --wait",
            "skald webhooks rotate ep_1 --overlap 1h",
            "skald listen --forward http://localhost:3000/hook --types a.>",
            "skald listen --forward http://localhost:3000/hook --type a.>",
            "skald keys create c --scope publish,read --tenant t",
            "skald keys revoke key_1",
            "skald migrate --database sqlite://x",
            "skald config --json",
            "skald completions bash",
        ] {
            assert!(parses(line), "{line}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "skald",
            "skald publish",
            "skald dead-letters",
            "skald dead-letters redrive c",
            "skald dead-letters redrive c 1 --all",
            "skald dead-letters redrive c 1 --error x",
            "skald replay start",
            "skald replay start --consumer c",
            "skald replay start --consumer c --since 1d --from-seq 5",
            "skald events 17 --type a",
            "skald listen",
            "skald webhooks create https://h/hook",
            "skald webhooks recover ep_1",
            "skald consumers register c --type a --kind push",
        ] {
            assert!(!parses(line), "{line}");
        }
    }
}
