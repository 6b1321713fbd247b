//! `skald events` and `skald trace`: read what was published and what came of it.

use anyhow::Context as _;
use bus::Seq;
use clap::Args;
use schemas::{Pattern, Timestamp};
use serde_json::Value;

use super::client::parse;
use super::output::{cell, clipped, member, printable, state, text};
use super::shown::{Page, Shown};
use super::{Output, ServerArgs, Stop, moment};

/// Characters of an event's data in a list.
const DATA_SHOWN: usize = 60;
/// What an answer that cannot be read lacks.
const NO_EVENT: &str = "the server answered with something that is no event";

/// Which events.
#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// One event, with what its consumers made of it.
    #[arg(conflicts_with_all = ["type", "source", "subject", "since", "until", "limit", "after"])]
    seq: Option<Seq>,
    /// Of types that match.
    #[arg(id = "type", long = "type", value_name = "PATTERN")]
    types: Option<Pattern>,
    /// From this source.
    #[arg(long)]
    source: Option<String>,
    /// About this subject.
    #[arg(long)]
    subject: Option<String>,
    /// Recorded at or after: a time, a date, or how long ago.
    #[arg(long, value_name = "MOMENT", value_parser = moment::parse)]
    since: Option<Timestamp>,
    /// Recorded before.
    #[arg(long, value_name = "MOMENT", value_parser = moment::parse)]
    until: Option<Timestamp>,
    /// How many at most [default: 50].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=500))]
    limit: Option<u16>,
    /// Oldest first, after this one.
    #[arg(long, value_name = "SEQ")]
    after: Option<Seq>,
    #[command(flatten)]
    server: ServerArgs,
}

/// Which event.
#[derive(Debug, Args)]
pub(super) struct TraceArgs {
    /// Its sequence number.
    seq: Seq,
    #[command(flatten)]
    server: ServerArgs,
}

/// Runs `skald events`.
pub(super) async fn run(args: EventsArgs, output: &Output) -> Result<(), Stop> {
    let client = args.server.client()?;
    if let Some(seq) = args.seq {
        let event = client.get_text(&["events", &seq.to_string()], &[]).await?;
        if output.is_json() {
            output.line(&event)?;
        } else {
            let shown: Shown<'_> = serde_json::from_str(&event).context(NO_EVENT)?;
            one(&parse(&event)?, &shown, output)?;
        }
        return Ok(());
    }
    let query = [
        ("type", args.types.map(|types| types.to_string())),
        ("source", args.source),
        ("subject", args.subject),
        ("since", args.since.map(|at| at.to_string())),
        ("until", args.until.map(|at| at.to_string())),
        ("limit", args.limit.map(|limit| limit.to_string())),
        ("after", args.after.map(|seq| seq.to_string())),
    ];
    let page = client.get_text(&["events"], &query).await?;
    if output.is_json() {
        output.line(&page)?;
        return Ok(());
    }
    let shown: Page<'_> = serde_json::from_str(&page).context(NO_EVENT)?;
    let page = parse(&page)?;
    let rows = items(&page).iter().zip(&shown.items).map(|(item, shown)| {
        let event = &item["event"];
        let data = clipped(&shown.data(), DATA_SHOWN);
        vec![
            member(item, "seq"),
            member(item, "recorded_at"),
            member(event, "type"),
            member(event, "source"),
            member(event, "subject"),
            cell(data),
        ]
    });
    output.table(&["SEQ", "RECORDED", "TYPE", "SOURCE", "SUBJECT", "DATA"], rows.collect())?;
    Ok(())
}

/// Runs `skald trace`.
pub(super) async fn trace(args: TraceArgs, output: &Output) -> Result<(), Stop> {
    let client = args.server.client()?;
    let trace = client.get_text(&["events", &args.seq.to_string(), "trace"], &[]).await?;
    if output.is_json() {
        output.line(&trace)?;
        return Ok(());
    }
    let trace = parse(&trace)?;
    let kinds = trace.as_object().into_iter().flatten();
    let kinds = kinds.filter_map(|(kind, items)| Some((kind, items.as_array()?)));
    let rows: Vec<_> =
        kinds.flat_map(|(kind, items)| items.iter().map(move |item| came(kind, item))).collect();
    if rows.is_empty() {
        output.line("nothing came of it")?;
    } else {
        output.table(&["KIND", "ID", "TYPE", "STATUS"], rows)?;
    }
    Ok(())
}

/// A row about something that came of an event.
fn came(kind: &str, item: &Value) -> Vec<comfy_table::Cell> {
    let event = if item["event"].is_object() { &item["event"] } else { item };
    let is_event = item["event"].is_object();
    let id = if is_event { &item["seq"] } else { &item["id"] };
    let name = ["type", "definition", "task"].iter().find(|name| !event[**name].is_null());
    let mut name = name.map_or_else(String::new, |name| text(&event[*name]));
    if !item["webhook"].is_null() {
        name = format!("{name} to {}", text(&item["webhook"]));
    }
    let status = text(&item["status"]);
    let kind = match kind.strip_suffix("ies") {
        Some(stem) => format!("{stem}y"), // deliveries
        None => kind.trim_end_matches('s').to_owned(),
    };
    vec![cell(kind), cell(text(id)), cell(name), state(&status)]
}

fn one(detail: &Value, shown: &Shown<'_>, output: &Output) -> std::io::Result<()> {
    let event = shown.event();
    let heading = format!("{} recorded {}", text(&detail["seq"]), text(&detail["recorded_at"]));
    output.line(&printable(&heading))?;
    output.line(&event.lines().map(printable).collect::<Vec<_>>().join("\n"))?;
    let rows: Vec<_> = consumers(&detail["consumers"]).collect();
    if rows.is_empty() {
        return output.line("no consumer is interested");
    }
    output.table(&["CONSUMER", "STATE", "ATTEMPTS", "LAST ERROR"], rows)
}

/// A row per consumer, whether they come as a list or by name.
fn consumers(value: &Value) -> impl Iterator<Item = Vec<comfy_table::Cell>> {
    let listed = value.as_array().into_iter().flatten().map(|item| {
        let name = if item["consumer"].is_null() { &item["name"] } else { &item["consumer"] };
        (text(name), item)
    });
    let named = value.as_object().into_iter().flatten().map(|(name, item)| (name.clone(), item));
    listed.chain(named).map(|(name, item)| {
        let status = item["state"].as_str().or(item["status"].as_str()).or(item.as_str());
        let error = clipped(&text(&item["last_error"]), 2 * DATA_SHOWN);
        vec![cell(name), state(status.unwrap_or("-")), member(item, "attempts"), cell(error)]
    })
}

/// The items of a page.
pub(super) fn items(page: &Value) -> &[Value] {
    page["items"].as_array().map_or(&[], Vec::as_slice)
}
