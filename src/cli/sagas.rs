//! `skald sagas`: definitions in files, sagas on a server.

mod file;
mod timeline;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use reqwest::Method;
use serde_json::{Value, json};

use super::client::Client;
use super::events::items;
use super::output::{cell, member, state, text};
use super::{Output, ServerArgs, Stop};

/// How long one call waits for the end of a saga, below the longest that a call may take.
const WAIT: &str = "50s";

/// What to do.
#[derive(Debug, Args)]
pub(super) struct SagasArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Check a definition in a file; nothing runs.
    Check {
        /// YAML, or JSON.
        file: PathBuf,
    },
    /// Draw a definition in a file.
    Draw {
        /// YAML, or JSON.
        file: PathBuf,
        /// As what.
        #[arg(long, default_value = "svg")]
        format: Drawing,
    },
    /// Walk through every fault of a definition in a file, against stubs of its participants; exit
    /// code 1 when a run breaks a promise, or when the one without faults does not complete.
    Walk {
        /// YAML, or JSON.
        file: PathBuf,
        /// The input of the saga, JSON.
        #[arg(long, default_value = "{}")]
        input: String,
        /// What steps answer with, JSON: `{"charge": {"id": 7}}` [default: their name as `id`].
        #[arg(long, default_value = "{}")]
        outputs: String,
    },
    /// Register the definition in a file.
    Register {
        /// YAML, or JSON.
        file: PathBuf,
    },
    /// Start a saga.
    Start {
        /// Its definition.
        definition: String,
        /// Its id [default: a new one].
        #[arg(long)]
        id: Option<String>,
        /// Its input, JSON.
        #[arg(long, default_value = "{}")]
        input: String,
        /// Wait until it has ended or is stuck; exit code 1 unless it is completed.
        #[arg(long)]
        wait: bool,
    },
    /// Show a saga with its timeline.
    Show {
        /// Its id.
        id: String,
    },
    /// List sagas, the newest first.
    List {
        /// Only of this definition.
        #[arg(long)]
        definition: Option<String>,
        /// Only in this status, such as `stuck`.
        #[arg(long)]
        status: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Undo what a saga has done; it ends cancelled.
    Cancel {
        /// Its id.
        id: String,
        /// Why, for the record.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Undo what a saga has done; it ends compensated.
    Compensate {
        /// Its id.
        id: String,
        /// Why, for the record.
        #[arg(long)]
        reason: String,
    },
    /// Try again now what is stuck, or waits for its next attempt.
    Retry {
        /// Its id.
        id: String,
        /// Why, for the record.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Settle a step, or its undo, by hand.
    Skip {
        /// The saga.
        id: String,
        /// The step.
        step: String,
        /// Why, for the record.
        #[arg(long)]
        reason: String,
        /// What counts as its output, JSON.
        #[arg(long)]
        output: Option<String>,
    },
    /// Give up a saga that is stuck.
    Abandon {
        /// Its id.
        id: String,
        /// Why, for the record.
        #[arg(long)]
        reason: String,
    },
    /// Send a signal.
    Signal {
        /// The saga.
        id: String,
        /// The signal.
        name: String,
        /// Its body, JSON.
        #[arg(long, default_value = "{}")]
        body: String,
    },
    /// Print every transition of a saga.
    Journal {
        /// Its id.
        id: String,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Drawing {
    /// A picture.
    Svg,
    /// Text for Mermaid.
    Mermaid,
}

pub(super) async fn run(args: SagasArgs, output: &Output) -> Result<(), Stop> {
    match args.action {
        Action::Check { file } => file::check(&file, output),
        Action::Draw { file, format } => file::draw(&file, format, output),
        Action::Walk { file, input, outputs } => {
            let outputs = serde_json::from_value(json_of(&outputs)?).context("reading --outputs");
            file::walk(&file, &json_of(&input)?, &outputs.map_err(Stop::start)?, output)
        }
        action => on_server(&args.server.client()?, action, output).await,
    }
}

async fn on_server(client: &Client, action: Action, output: &Output) -> Result<(), Stop> {
    let post = async |path: &[&str], body: Value| {
        let segments: Vec<&str> = ["sagas"].iter().chain(path).copied().collect();
        client.send(Method::POST, &segments, Some(&body)).await
    };
    let saga = match action {
        Action::Check { .. } | Action::Draw { .. } | Action::Walk { .. } => return Ok(()),
        Action::Register { file } => {
            // As it is written: what only the server finds is told with its line, too.
            let file::Source { definition, text: source, media_type } = file::source(&file)?;
            let path = ["sagas", "definitions", &definition.name];
            let known = client.put_text(&path, media_type, source).await?;
            let line = format!("{} is at version {}", text(&known["name"]), known["version"]);
            return Ok(output.either(&known, &line)?);
        }
        Action::List { definition, status, limit } => {
            let query = [
                ("definition", definition),
                ("status", status),
                ("limit", Some(limit.to_string())),
            ];
            let page = client.get(&["sagas"], &query).await?;
            return list(&page, *output);
        }
        Action::Journal { id } => {
            let journal = client.get(&["sagas", &id, "journal"], &[]).await?;
            return timeline::journal(&journal, *output);
        }
        Action::Show { id } => client.get(&["sagas", &id], &[]).await?,
        Action::Start { definition, id, input, wait } => {
            let mut body = json!({"definition": definition, "input": json_of(&input)?});
            if let Some(id) = id {
                body["id"] = id.into();
            }
            let started = post(&[], body).await?;
            let id = text(&started["id"]);
            if wait {
                return ended(client, &id, output).await;
            }
            client.get(&["sagas", &id], &[]).await?
        }
        Action::Cancel { id, reason } => post(&[&id, "cancel"], because(reason)).await?,
        Action::Compensate { id, reason } => {
            post(&[&id, "compensate"], because(Some(reason))).await?
        }
        Action::Retry { id, reason } => post(&[&id, "retry"], because(reason)).await?,
        Action::Skip { id, step, reason, output } => {
            let mut body = json!({"step": step, "reason": reason});
            if let Some(output) = output {
                body["output"] = json_of(&output)?;
            }
            post(&[&id, "skip"], body).await?
        }
        Action::Abandon { id, reason } => post(&[&id, "abandon"], because(Some(reason))).await?,
        Action::Signal { id, name, body } => {
            post(&[&id, "signals", &name], json_of(&body)?).await?
        }
    };
    timeline::saga(&saga, *output)
}

/// Waits until a saga has ended or is stuck, and shows it; anything but `completed` is a failure.
async fn ended(client: &Client, id: &str, output: &Output) -> Result<(), Stop> {
    loop {
        let wait = Some(WAIT.to_owned());
        let saga = client.get(&["sagas", id], &[("wait", wait)]).await?;
        if matches!(saga["status"].as_str(), Some("running" | "compensating")) {
            continue;
        }
        timeline::saga(&saga, *output)?;
        return if saga["status"] == "completed" { Ok(()) } else { Err(Stop::Told) };
    }
}

fn because(reason: Option<String>) -> Value {
    reason.map_or(json!({}), |reason| json!({"reason": reason}))
}

fn list(page: &Value, output: Output) -> Result<(), Stop> {
    if output.is_json() {
        return Ok(output.value(page)?);
    }
    let row = |saga: &Value| {
        vec![
            member(saga, "id"),
            cell(format!("{} v{}", text(&saga["definition"]), saga["version"])),
            state(&text(&saga["status"])),
            member(saga, "created_at"),
            member(saga, "ended_at"),
        ]
    };
    let rows = items(page).iter().map(row).collect();
    Ok(output.table(&["SAGA", "DEFINITION", "STATUS", "STARTED", "ENDED"], rows)?)
}

fn json_of(text: &str) -> Result<Value, Stop> {
    serde_json::from_str(text)
        .map_err(|error| Stop::start(anyhow::anyhow!("`{text}` is not JSON: {error}")))
}
