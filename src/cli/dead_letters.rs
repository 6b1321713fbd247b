//! `skald dead-letters`

use clap::{ArgGroup, Args, Subcommand};
use reqwest::Method;
use schemas::Timestamp;
use serde_json::{Value, json};

use super::client::{Client, parse};
use super::events::items;
use super::output::{cell, clipped, member, text};
use super::{Output, ServerArgs, Stop, moment};

/// Characters of an error in a list.
const ERROR_SHOWN: usize = 120;

/// What to do.
#[derive(Debug, Args)]
#[command(subcommand_negates_reqs = true)]
pub(super) struct DeadLettersArgs {
    #[command(flatten)]
    list: Option<ListArgs>,
    #[command(flatten)]
    server: ServerArgs,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// The consumer whose dead letters to list.
    #[arg(required = true)]
    name: String,
    /// Only those whose error contains this.
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
    /// Only those that failed last at or after: a time, a date, or how long ago.
    #[arg(long, value_name = "MOMENT", value_parser = moment::parse)]
    since: Option<Timestamp>,
    /// How many at most [default: 50].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=500))]
    limit: Option<u16>,
    /// Count them by error.
    #[arg(long, conflicts_with_all = ["error", "since", "limit"])]
    group: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Hand dead letters to their consumer again.
    Redrive(ChosenArgs),
    /// Give dead letters up for good.
    Delete(ChosenArgs),
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("chosen").required(true).args(["ids", "all"])))]
struct ChosenArgs {
    /// The consumer.
    name: String,
    /// Which dead letters, by their ids; or --all.
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// All of them.
    #[arg(long)]
    all: bool,
    /// Only those whose error contains this.
    #[arg(long, value_name = "TEXT", requires = "all", conflicts_with = "ids")]
    error: Option<String>,
    /// Only count them.
    #[arg(long, requires = "all", conflicts_with = "ids")]
    dry_run: bool,
}

/// Runs `skald dead-letters`.
pub(super) async fn run(args: DeadLettersArgs, output: &Output) -> Result<(), Stop> {
    let client = args.server.client()?;
    match (args.action, args.list) {
        (Some(Action::Redrive(chosen)), _) => {
            let segments = ["consumers", &chosen.name, "dead-letters", "redrive"];
            let answer = client.send(Method::POST, &segments, Some(&chosen.body())).await?;
            tell(&answer, "redriven", chosen.dry_run, output)?;
        }
        (Some(Action::Delete(chosen)), _) => {
            let segments = ["consumers", &chosen.name, "dead-letters"];
            let answer = client.send(Method::DELETE, &segments, Some(&chosen.body())).await?;
            tell(&answer, "deleted", chosen.dry_run, output)?;
        }
        (None, Some(args)) => list(&client, args, output).await?,
        (None, None) => return Err(anyhow::anyhow!("the name of a consumer is needed").into()),
    }
    Ok(())
}

impl ChosenArgs {
    /// As the API takes it.
    fn body(&self) -> Value {
        if !self.all {
            return json!({ "ids": self.ids });
        }
        let mut body = json!({ "all": true });
        if let Some(error) = &self.error {
            body["error"] = json!(error);
        }
        if self.dry_run {
            body["dry_run"] = json!(true);
        }
        body
    }
}

fn tell(answer: &Value, verb: &str, dry_run: bool, output: &Output) -> std::io::Result<()> {
    let count = text(&answer[verb]);
    let text = if dry_run { format!("{count} would be {verb}") } else { format!("{count} {verb}") };
    output.either(answer, &text)
}

async fn list(client: &Client, args: ListArgs, output: &Output) -> Result<(), Stop> {
    let query = [
        ("error", args.error),
        ("since", args.since.map(|at| at.to_string())),
        ("limit", args.limit.map(|limit| limit.to_string())),
    ];
    let mut segments = vec!["consumers", &args.name, "dead-letters"];
    if args.group {
        segments.push("groups");
    }
    let page = client.get_text(&segments, &query).await?;
    if output.is_json() {
        output.line(&page)?; // as the server wrote it: what is edited and sent back keeps its numbers
        return Ok(());
    }
    let page = parse(&page)?;
    let (headings, rows): (&[&str], Vec<_>) = if args.group {
        (
            &["COUNT", "FIRST FAILED", "LAST FAILED", "ERROR"],
            items(&page).iter().map(group).collect(),
        )
    } else {
        (
            &["ID", "SEQ", "TYPE", "ATTEMPTS", "LAST FAILED", "ERROR"],
            items(&page).iter().map(letter).collect(),
        )
    };
    output.table(headings, rows)?;
    if !page["next"].is_null() {
        output.line("… and more")?;
    }
    Ok(())
}

fn group(group: &Value) -> Vec<comfy_table::Cell> {
    vec![
        member(group, "count"),
        member(group, "first_failed_at"),
        member(group, "last_failed_at"),
        error(group),
    ]
}

fn letter(letter: &Value) -> Vec<comfy_table::Cell> {
    vec![
        member(letter, "id"),
        member(letter, "seq"),
        member(&letter["event"], "type"),
        member(letter, "attempts"),
        member(letter, "last_failed_at"),
        error(letter),
    ]
}

fn error(object: &Value) -> comfy_table::Cell {
    cell(clipped(&text(&object["error"]), ERROR_SHOWN))
}
