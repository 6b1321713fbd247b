//! `skald replay`

use bus::{Rate, Seq};
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use reqwest::Method;
use schemas::{Pattern, Timestamp};
use serde_json::{Value, json};

use super::client::Client;
use super::events::items;
use super::output::{member, state, text};
use super::{Output, ServerArgs, Stop, moment};

pub(super) mod progress;

/// What to do.
#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Begin a replay. Naming the consumer is consent to its side effects.
    Start(StartArgs),
    /// List replays, newest first.
    List,
    /// Show a replay.
    Show {
        /// Its id, `rpl_…`.
        id: String,
    },
    /// Stop handing events over for now.
    Pause {
        /// Its id, `rpl_…`.
        id: String,
    },
    /// Go on.
    Resume {
        /// Its id, `rpl_…`.
        id: String,
    },
    /// End it early.
    Cancel {
        /// Its id, `rpl_…`.
        id: String,
    },
}

#[derive(Debug, Args)]
#[command(
    group(ArgGroup::new("to").required(true).args(["consumer", "webhook"])),
    group(ArgGroup::new("start").required(true).args(["from_seq", "since"]))
)]
struct StartArgs {
    /// The consumer that gets the events.
    #[arg(long, value_name = "NAME")]
    consumer: Option<String>,
    /// Or the webhook that they are delivered to, `ep_…`.
    #[arg(long, value_name = "ID")]
    webhook: Option<String>,
    /// Of types that match [default: all that the consumer gets].
    #[arg(long = "type", value_name = "PATTERN")]
    types: Option<Pattern>,
    /// From this event on.
    #[arg(long, value_name = "SEQ")]
    from_seq: Option<Seq>,
    /// Recorded at or after: a time, a date, or how long ago.
    #[arg(long, value_name = "MOMENT", value_parser = moment::parse)]
    since: Option<Timestamp>,
    /// Up to and with this event.
    #[arg(long, value_name = "SEQ", conflicts_with = "until")]
    to_seq: Option<Seq>,
    /// Recorded before.
    #[arg(long, value_name = "MOMENT", value_parser = moment::parse)]
    until: Option<Timestamp>,
    /// Whether what is done already is passed over [default: skip_done].
    #[arg(long)]
    mode: Option<Mode>,
    /// How fast at most, such as 500/s.
    #[arg(long)]
    rate: Option<Rate>,
    /// Only count what would happen.
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Wait until every event was handed over and ended; exit code 1 when any ended dead.
    #[arg(long)]
    wait: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Mode {
    SkipDone,
    Force,
}

/// Runs `skald replay`.
pub(super) async fn run(args: ReplayArgs, output: &Output) -> Result<(), Stop> {
    let client = args.server.client()?;
    match args.action {
        Action::Start(args) => start(&client, args, output).await?,
        Action::List => list(&client.get(&["replays"], &[]).await?, output)?,
        Action::Show { id } => show(&client.get(&["replays", &id], &[]).await?, output)?,
        Action::Pause { id } => change(&client, &id, "pause", output).await?,
        Action::Resume { id } => change(&client, &id, "resume", output).await?,
        Action::Cancel { id } => change(&client, &id, "cancel", output).await?,
    }
    Ok(())
}

async fn start(client: &Client, args: StartArgs, output: &Output) -> Result<(), Stop> {
    let answer = client.send(Method::POST, &["replays"], Some(&args.body())).await?;
    if !args.dry_run {
        return progress::started(client, answer, args.wait, output).await;
    }
    let mut told = format!(
        "{} events match, {} are done already, {} would be handed over",
        text(&answer["total"]),
        text(&answer["done_already"]),
        text(&answer["would_send"]),
    );
    if !answer["refused"].is_null() {
        told.push_str(&format!("; refused: {}", text(&answer["refused"])));
    }
    output.either(&answer, &told)?;
    Ok(())
}

impl StartArgs {
    fn body(&self) -> Value {
        let mode = self.mode.map(|mode| match mode {
            Mode::SkipDone => "skip_done",
            Mode::Force => "force",
        });
        let optional = [
            ("type", self.types.as_ref().map(|types| json!(types))),
            ("from_seq", self.from_seq.map(|seq| json!(seq))),
            ("since", self.since.map(|at| json!(at))),
            ("to_seq", self.to_seq.map(|seq| json!(seq))),
            ("until", self.until.map(|at| json!(at))),
            ("mode", mode.map(Value::from)),
            ("rate", self.rate.as_ref().map(|rate| json!(rate))),
            ("dry_run", self.dry_run.then_some(Value::Bool(true))),
        ];
        let mut body = match &self.webhook {
            Some(webhook) => json!({ "webhook": webhook }),
            None => json!({ "consumer": self.consumer }),
        };
        for (name, value) in optional {
            if let Some(value) = value {
                body[name] = value;
            }
        }
        body
    }
}

async fn change(client: &Client, id: &str, verb: &str, output: &Output) -> Result<(), Stop> {
    let answer = client.send(Method::POST, &["replays", id, verb], None).await?;
    if answer.is_null() {
        let replay = client.get(&["replays", id], &[]).await?;
        show(&replay, output)?;
    } else {
        show(&answer, output)?;
    }
    Ok(())
}

fn list(page: &Value, output: &Output) -> std::io::Result<()> {
    if output.is_json() { output.value(page) } else { table(items(page), output) }
}

/// Prints one replay.
fn show(replay: &Value, output: &Output) -> std::io::Result<()> {
    if output.is_json() {
        return output.value(replay);
    }
    table(std::slice::from_ref(replay), output)?;
    match replay["error"].as_str() {
        Some(error) => output.line(&super::output::printable(error)),
        None => Ok(()),
    }
}

fn table(replays: &[Value], output: &Output) -> std::io::Result<()> {
    let rows = replays.iter().map(|replay| {
        vec![
            member(replay, "id"),
            member(replay, if replay["webhook"].is_null() { "consumer" } else { "webhook" }),
            state(&text(&replay["status"])),
            member(replay, "done"),
            match replay["dead"].as_i64() {
                Some(dead) if dead > 0 => member(replay, "dead").fg(comfy_table::Color::Red),
                _ => member(replay, "dead"),
            },
            member(replay, "skipped"),
            member(replay, "total"),
        ]
    });
    output.table(&["ID", "CONSUMER", "STATUS", "DONE", "DEAD", "SKIPPED", "TOTAL"], rows.collect())
}
