//! `skald consumers`

use clap::{Args, Subcommand, ValueEnum};
use reqwest::{Method, Url};
use schemas::Pattern;
use serde_json::{Value, json};

use super::client::Client;
use super::events::items;
use super::output::{cell, member, state, text};
use super::replay::progress;
use super::{Output, ServerArgs, Stop};

/// What to do.
#[derive(Debug, Args)]
pub(super) struct ConsumersArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List all consumers.
    List,
    /// Show one consumer.
    Show {
        /// Its name.
        name: String,
    },
    /// Stop handing events to a consumer; they wait.
    Pause {
        /// Its name.
        name: String,
    },
    /// Hand events to a paused consumer again.
    Resume {
        /// Its name.
        name: String,
    },
    /// Register a consumer for a program in any language, or change it.
    Register(RegisterArgs),
    /// End a registered consumer.
    Delete {
        /// Its name.
        name: String,
    },
    /// Build what a consumer keeps anew from the log, beside the old, and switch over.
    Rebuild {
        /// Its name.
        name: String,
        /// Wait until every event was handed over.
        #[arg(long)]
        wait: bool,
    },
}

#[derive(Debug, Args)]
struct RegisterArgs {
    /// Its name.
    name: String,
    /// The types of events that it gets; may be given again.
    #[arg(long = "type", required = true, value_name = "PATTERN")]
    types: Vec<Pattern>,
    /// Whether it fetches events or gets them posted.
    #[arg(long)]
    kind: Kind,
    /// Where events are posted.
    #[arg(long, value_name = "URL", required_if_eq("kind", "push"))]
    push_url: Option<Url>,
    /// Signs what is posted.
    #[arg(long, requires = "push_url", value_name = "whsec_…")]
    secret: Option<String>,
    /// The first event it gets: `now`, `first`, a sequence number or a time [default: now].
    #[arg(long, value_name = "START")]
    from: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Pull,
    Push,
}

/// Runs `skald consumers`.
pub(super) async fn run(args: ConsumersArgs, output: &Output) -> Result<(), Stop> {
    let client = args.server.client()?;
    match args.action.unwrap_or(Action::List) {
        Action::List => list(&client.get(&["consumers"], &[]).await?, output)?,
        Action::Show { name } => show(&client.get(&["consumers", &name], &[]).await?, output)?,
        Action::Pause { name } => change(&client, &name, "pause", "paused", output).await?,
        Action::Resume { name } => change(&client, &name, "resume", "running", output).await?,
        Action::Register(args) => register(&client, args, output).await?,
        Action::Delete { name } => {
            client.send(Method::DELETE, &["consumers", &name], None).await?;
            output
                .either(&json!({ "name": name, "deleted": true }), &format!("{name} is deleted"))?;
        }
        Action::Rebuild { name, wait } => {
            let segments = ["consumers", &name, "rebuild"];
            let replay = client.send(Method::POST, &segments, None).await?;
            progress::started(&client, replay, wait, output).await?;
        }
    }
    Ok(())
}

async fn change(
    client: &Client,
    name: &str,
    verb: &str,
    state: &str,
    output: &Output,
) -> Result<(), Stop> {
    let answer = client.send(Method::POST, &["consumers", name, verb], None).await?;
    let answer = if answer.is_null() { json!({ "name": name, "state": state }) } else { answer };
    output.either(&answer, &format!("{name} is {state}"))?;
    Ok(())
}

async fn register(client: &Client, args: RegisterArgs, output: &Output) -> Result<(), Stop> {
    if args.kind == Kind::Pull && args.push_url.is_some() {
        return Err(Stop::start(anyhow::anyhow!("--push-url is for --kind push")));
    }
    let kind = if args.kind == Kind::Pull { "pull" } else { "push" };
    let mut body = json!({ "types": args.types, "kind": kind });
    let url = args.push_url.map(|url| json!(url.as_str()));
    let optional =
        [("url", url), ("secret", args.secret.map(Value::from)), ("from", args.from.map(start))];
    for (name, value) in optional {
        if let Some(value) = value {
            body[name] = value;
        }
    }
    let made = client.send(Method::PUT, &["consumers", &args.name], Some(&body)).await?;
    output.either(&made, &format!("{} is registered", args.name))?;
    Ok(())
}

/// A start as the API takes it: a sequence number is a number, all else text.
fn start(text: String) -> Value {
    text.parse::<i64>().map_or_else(|_| Value::from(text), Value::from)
}

fn list(page: &Value, output: &Output) -> std::io::Result<()> {
    if output.is_json() {
        return output.value(page);
    }
    let rows = items(page).iter().map(|consumer| {
        let count = |name: &str| member(consumer, name);
        let dead = match consumer["dead"].as_i64() {
            Some(dead) if dead > 0 => count("dead").fg(comfy_table::Color::Red),
            _ => count("dead"),
        };
        vec![
            count("name"),
            count("kind"),
            state(&text(&consumer["state"])),
            count("waiting"),
            count("in_flight"),
            count("retrying"),
            dead,
            count("oldest_waiting_seconds"),
            count("types"),
        ]
    });
    let headings = [
        "NAME",
        "KIND",
        "STATE",
        "WAITING",
        "IN FLIGHT",
        "RETRYING",
        "DEAD",
        "OLDEST (s)",
        "TYPES",
    ];
    output.table(&headings, rows.collect())
}

fn show(consumer: &Value, output: &Output) -> std::io::Result<()> {
    if output.is_json() {
        return output.value(consumer);
    }
    let members = consumer.as_object().into_iter().flatten();
    let rows = members.map(|(name, value)| vec![cell(name), cell(text(value))]);
    output.table(&["MEMBER", "VALUE"], rows.collect())
}
