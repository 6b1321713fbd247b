//! `skald webhooks`

use clap::{Args, Subcommand, ValueEnum};
use reqwest::{Method, Url};
use schemas::{Pattern, Timestamp};
use serde_json::{Value, json};

use super::client::Client;
use super::events::items;
use super::output::{cell, member, state, text};
use super::replay::progress;
use super::{Output, ServerArgs, Stop, moment};

/// What to do.
#[derive(Debug, Args)]
pub(super) struct WebhooksArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List webhooks, newest first.
    List(ListArgs),
    /// Show one webhook.
    Show {
        /// Its id, `ep_…`.
        id: String,
    },
    /// Register a webhook; prints its secret.
    Create(CreateArgs),
    /// Send one signed sample event and print what was answered; exit code 1 when it failed.
    Test {
        /// Its id, `ep_…`.
        id: String,
        /// The type of the sample.
        #[arg(long = "type", value_name = "TYPE")]
        kind: Option<String>,
    },
    /// Let events be sent again; says what was missed.
    Enable {
        /// Its id, `ep_…`.
        id: String,
    },
    /// Send nothing for now; events are recorded as skipped.
    Disable {
        /// Its id, `ep_…`.
        id: String,
    },
    /// Make a new secret and print it; the old one signs too for a while.
    Rotate {
        /// Its id, `ep_…`.
        id: String,
        /// For how long [default: 24h].
        #[arg(long, value_name = "DURATION")]
        overlap: Option<String>,
    },
    /// Delete a webhook with its deliveries.
    Delete {
        /// Its id, `ep_…`.
        id: String,
    },
    /// List the deliveries of a webhook, newest first.
    Deliveries(DeliveriesArgs),
    /// Show one delivery with its attempts.
    Delivery {
        /// Its id, `dlv_…`.
        id: String,
    },
    /// Send one delivery again, now.
    Resend {
        /// Its id, `dlv_…`.
        id: String,
    },
    /// Deliver what failed or was missed.
    Recover(RecoverArgs),
}

#[derive(Debug, Args, Default)]
struct ListArgs {
    /// Of this tenant only.
    #[arg(long)]
    tenant: Option<String>,
    /// Enabled or disabled ones only.
    #[arg(long)]
    state: Option<String>,
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// Where events are posted.
    endpoint: Url,
    /// The types of events that it gets; may be given again.
    #[arg(long = "type", required = true, value_name = "PATTERN")]
    types: Vec<Pattern>,
    /// Whose events it gets [default: those of no tenant].
    #[arg(long)]
    tenant: Option<String>,
    /// What it is for.
    #[arg(long)]
    description: Option<String>,
    /// How requests are signed [default: v1].
    #[arg(long, value_name = "v1|v1a")]
    signature: Option<String>,
    /// How fast at most, such as 50/s.
    #[arg(long)]
    rate: Option<String>,
    /// One event of a partition key after the other.
    #[arg(long)]
    ordered: bool,
}

#[derive(Debug, Args)]
struct DeliveriesArgs {
    /// The id of the webhook, `ep_…`.
    id: String,
    /// In this status only: pending, delivered, failed or skipped.
    #[arg(long)]
    status: Option<String>,
    /// Since a time, a date, or how long ago.
    #[arg(long, value_name = "MOMENT", value_parser = moment::parse)]
    since: Option<Timestamp>,
    /// At most so many.
    #[arg(long)]
    limit: Option<u16>,
}

#[derive(Debug, Args)]
struct RecoverArgs {
    /// The id of the webhook, `ep_…`.
    id: String,
    /// Events since a time, a date, or how long ago.
    #[arg(long, value_name = "MOMENT", value_parser = moment::parse)]
    since: Timestamp,
    /// Events before.
    #[arg(long, value_name = "MOMENT", value_parser = moment::parse)]
    until: Option<Timestamp>,
    /// Which of them [default: failed and missing ones].
    #[arg(long)]
    only: Option<Only>,
    /// Wait until every event was handed over and ended.
    #[arg(long)]
    wait: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Only {
    Failed,
    Missing,
    All,
}

/// Runs `skald webhooks`.
pub(super) async fn run(args: WebhooksArgs, output: &Output) -> Result<(), Stop> {
    let client = args.server.client()?;
    match args.action.unwrap_or(Action::List(ListArgs::default())) {
        Action::List(args) => {
            let query = [("tenant", args.tenant), ("state", args.state)];
            list(&client.get(&["webhooks"], &query).await?, output)?;
        }
        Action::Show { id } => show(&client.get(&["webhooks", &id], &[]).await?, output)?,
        Action::Create(args) => create(&client, args, output).await?,
        Action::Test { id, kind } => test(&client, &id, kind, output).await?,
        Action::Enable { id } => enable(&client, &id, output).await?,
        Action::Disable { id } => {
            let answer = post(&client, &["webhooks", &id, "disable"], &json!({})).await?;
            output.either(&answer, &format!("{id} is disabled"))?;
        }
        Action::Rotate { id, overlap } => {
            let body = overlap.map_or_else(|| json!({}), |overlap| json!({ "overlap": overlap }));
            let answer = post(&client, &["webhooks", &id, "rotate"], &body).await?;
            output.either(&answer, &text(&answer["secret"]))?;
        }
        Action::Delete { id } => {
            client.send(Method::DELETE, &["webhooks", &id], None).await?;
            output.either(&json!({ "id": id, "deleted": true }), &format!("{id} is deleted"))?;
        }
        Action::Deliveries(args) => {
            let query = [
                ("status", args.status),
                ("since", args.since.map(|since| since.to_string())),
                ("limit", args.limit.map(|limit| limit.to_string())),
            ];
            let found = client.get(&["webhooks", &args.id, "deliveries"], &query).await?;
            deliveries(&found, output)?;
        }
        Action::Delivery { id } => delivery(&client.get(&["deliveries", &id], &[]).await?, output)?,
        Action::Resend { id } => {
            let answer = post(&client, &["deliveries", &id, "resend"], &json!({})).await?;
            output.either(&answer, &format!("{id} is due"))?;
        }
        Action::Recover(args) => recover(&client, args, output).await?,
    }
    Ok(())
}

async fn post(client: &Client, segments: &[&str], body: &Value) -> anyhow::Result<Value> {
    client.send(Method::POST, segments, Some(body)).await
}

fn list(found: &Value, output: &Output) -> std::io::Result<()> {
    if output.is_json() {
        return output.value(found);
    }
    let row = |one: &Value| {
        vec![
            member(one, "id"),
            state(&text(&one["state"])),
            state(&text(&one["health"]["status"])),
            member(one, "tenant"),
            member(one, "types"),
            member(one, "url"),
        ]
    };
    let headings = ["id", "state", "health", "tenant", "types", "url"];
    output.table(&headings, items(found).iter().map(row).collect())
}

fn show(one: &Value, output: &Output) -> std::io::Result<()> {
    if output.is_json() {
        return output.value(one);
    }
    let rows = one.as_object().into_iter().flatten();
    let rows = rows.map(|(name, value)| vec![cell(name), cell(text(value))]).collect();
    output.table(&["", ""], rows)
}

async fn create(client: &Client, args: CreateArgs, output: &Output) -> Result<(), Stop> {
    let mut body = json!({ "url": args.endpoint.as_str(), "types": args.types });
    for (name, value) in [
        ("tenant", args.tenant.map(Value::from)),
        ("description", args.description.map(Value::from)),
        ("signature", args.signature.map(Value::from)),
        ("rate", args.rate.map(Value::from)),
        ("ordered", args.ordered.then_some(Value::from(true))),
    ] {
        if let Some(value) = value {
            body[name] = value;
        }
    }
    let made = post(client, &["webhooks"], &body).await?;
    let told = format!("{}, secret {}", text(&made["id"]), text(&made["secret"]));
    Ok(output.either(&made, &told)?)
}

async fn test(
    client: &Client,
    id: &str,
    kind: Option<String>,
    output: &Output,
) -> Result<(), Stop> {
    let body = kind.map_or_else(|| json!({}), |kind| json!({ "type": kind }));
    let attempt = post(client, &["webhooks", id, "test"], &body).await?;
    let delivered = attempt["error"].is_null();
    let told = if delivered {
        format!(
            "delivered: {} in {} ms",
            text(&attempt["status_code"]),
            text(&attempt["duration_ms"])
        )
    } else {
        format!("failed: {}", text(&attempt["error"]))
    };
    output.either(&attempt, &told)?;
    if delivered { Ok(()) } else { Err(Stop::Told) }
}

async fn enable(client: &Client, id: &str, output: &Output) -> Result<(), Stop> {
    let answer = post(client, &["webhooks", id, "enable"], &json!({})).await?;
    let missed = &answer["missed"];
    let mut told = format!("{id} is enabled");
    if !missed["since"].is_null() {
        told.push_str(&format!(
            "; {} failed and {} were skipped: skald webhooks recover {id} --since {}",
            text(&missed["failed"]),
            text(&missed["skipped"]),
            text(&missed["since"]),
        ));
    }
    Ok(output.either(&answer, &told)?)
}

fn deliveries(found: &Value, output: &Output) -> std::io::Result<()> {
    if output.is_json() {
        return output.value(found);
    }
    let row = |one: &Value| {
        let attempts = one["attempts"].as_array().map_or(&[][..], Vec::as_slice);
        let last = attempts.last().cloned().unwrap_or_default();
        vec![
            member(one, "id"),
            state(&text(&one["status"])),
            member(one, "seq"),
            member(one, "type"),
            cell(attempts.len().to_string()),
            member(one, "next_attempt_at"),
            member(&last, "error"),
        ]
    };
    let headings = ["id", "status", "seq", "type", "attempts", "next", "last error"];
    output.table(&headings, items(found).iter().map(row).collect())
}

fn delivery(one: &Value, output: &Output) -> std::io::Result<()> {
    if output.is_json() {
        return output.value(one);
    }
    deliveries(&json!({ "items": [one] }), output)?;
    let row = |attempt: &Value| {
        ["at", "trigger", "status_code", "duration_ms", "error"]
            .map(|name| member(attempt, name))
            .to_vec()
    };
    let rows = one["attempts"].as_array().into_iter().flatten().map(row).collect();
    output.table(&["at", "trigger", "status", "ms", "error"], rows)
}

async fn recover(client: &Client, args: RecoverArgs, output: &Output) -> Result<(), Stop> {
    let mut body = json!({ "since": args.since });
    if let Some(until) = args.until {
        body["until"] = json!(until);
    }
    if let Some(only) = args.only {
        let only = match only {
            Only::Failed => "failed",
            Only::Missing => "missing",
            Only::All => "all",
        };
        body["only"] = json!(only);
    }
    let replay = post(client, &["webhooks", &args.id, "recover"], &body).await?;
    progress::started(client, replay, args.wait, output).await
}
