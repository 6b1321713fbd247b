//! What came of it all, beside what must have: one line per promise.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::orders::{self, Fate, Order};
use super::publisher::Published;
use super::receiver::Received;
use super::shop::Shop;
use super::{packer, receipts};
use crate::cli::client::Client;
use crate::cli::output::Output;

/// One promise.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    what: &'static str,
    seen: String,
    holds: bool,
}

/// All of them.
#[derive(Debug, Default, Serialize)]
pub(super) struct Summary {
    lines: Vec<Line>,
}

/// What is known outside of the node.
pub(super) struct Witnesses<'a> {
    pub(super) published: Published,
    /// Dead letters found, and put right, in all consumers.
    pub(super) redriven: (usize, usize),
    pub(super) packed: BTreeMap<String, usize>,
    pub(super) received: Received,
    pub(super) shop: &'a Shop,
}

impl Summary {
    /// Compares what is there with what was ordered.
    pub(super) async fn of(client: &Client, seen: Witnesses<'_>) -> anyhow::Result<Summary> {
        let orders = orders::all()?;
        let lines = orders::lines().len();
        let mut summary = Summary::default();
        summary.events(client, &orders, lines, seen.published).await?;
        let (found, right) = seen.redriven;
        let left = dead_letters(client).await?;
        summary.line(
            "dead letters",
            format!("{found} found, {right} put right and redriven, {left} left"),
            found > 0 && found == right && left == 0,
        );
        summary.consumers(client, &orders, &seen.packed).await?;
        summary.sagas(client, &orders, seen.shop).await?;
        summary.webhooks(&orders, &seen.received);
        Ok(summary)
    }

    pub(super) fn adds_up(&self) -> bool {
        self.lines.iter().all(|line| line.holds)
    }

    /// Prints it.
    pub(super) fn print(&self, output: &Output) -> std::io::Result<()> {
        if output.is_json() {
            return output.value(self);
        }
        for Line { what, seen, holds } in &self.lines {
            output.line(&format!("  {} {what:<14} {seen}", if *holds { "✓" } else { "✗" }))?;
        }
        Ok(())
    }

    fn line(&mut self, what: &'static str, seen: String, holds: bool) {
        self.lines.push(Line { what, seen, holds });
    }

    async fn events(
        &mut self,
        client: &Client,
        orders: &BTreeMap<String, Order>,
        lines: usize,
        published: Published,
    ) -> anyhow::Result<()> {
        let placed = ids(client, orders::PLACED).await?;
        let wanted: BTreeSet<&String> = orders.keys().collect();
        let Published { accepted, duplicates, unanswered } = published;
        // An order may have been taken and its answer lost: sent again, it is a duplicate.
        let repeated = duplicates - (lines - orders.len()).min(duplicates);
        self.line(
            "events",
            format!(
                "{} accepted of {lines} sent, {duplicates} were duplicates; {unanswered} calls met the crash",
                placed.len()
            ),
            accepted + duplicates == lines
                && repeated <= unanswered
                && placed.iter().collect::<BTreeSet<_>>() == wanted
                && placed.len() == orders.len(),
        );
        Ok(())
    }

    async fn consumers(
        &mut self,
        client: &Client,
        orders: &BTreeMap<String, Order>,
        packed: &BTreeMap<String, usize>,
    ) -> anyhow::Result<()> {
        let issued = ids(client, receipts::ISSUED).await?;
        let wanted: BTreeSet<String> = orders.keys().map(|id| format!("receipt-{id}")).collect();
        self.line(
            receipts::NAME,
            format!("in Rust: {} receipts for {} orders, each once", issued.len(), orders.len()),
            issued.len() == wanted.len() && issued.iter().all(|id| wanted.contains(id)),
        );
        let again = packed.values().map(|times| times - 1).sum::<usize>();
        self.line(
            packer::NAME,
            format!("over HTTP: {} orders packed, {again} leased again", packed.len()),
            packed.keys().eq(orders.keys()),
        );
        Ok(())
    }

    /// Every order's saga has ended as the order must, and the three ledgers say the same.
    async fn sagas(
        &mut self,
        client: &Client,
        orders: &BTreeMap<String, Order>,
        shop: &Shop,
    ) -> anyhow::Result<()> {
        let sagas = all(client, &["sagas"], &[("definition", "place-order")]).await?;
        let status: BTreeMap<&str, &str> = sagas
            .iter()
            .filter_map(|saga| Some((saga["id"].as_str()?, saga["status"].as_str()?)))
            .collect();
        let (mut completed, mut refused, mut sold_out, mut wrong) = (0, 0, 0, 0);
        let [mut cents, mut pieces, mut parcels] =
            [BTreeMap::new(), BTreeMap::new(), BTreeMap::new()];
        for order in orders.values() {
            let saga = format!("place-order:{}", order.order_id);
            let fate = order.fate();
            let expected = if fate == Fate::Completed { "completed" } else { "compensated" };
            wrong += usize::from(status.get(saga.as_str()) != Some(&expected));
            match fate {
                Fate::CardRefused => refused += 1,
                Fate::SoldOut => sold_out += 1,
                Fate::Completed => {
                    completed += 1;
                    pieces.insert(saga.clone(), order.items.iter().map(|item| item.quantity).sum());
                    if order.ship {
                        parcels.insert(saga.clone(), 1);
                    }
                    cents.insert(saga, order.total_cents);
                }
            }
        }
        self.line(
            "sagas",
            format!(
                "{completed} completed, {} compensated ({refused} cards refused, {sold_out} sold out and refunded)",
                refused + sold_out
            ),
            wrong == 0 && sagas.len() == orders.len(),
        );
        let books =
            (shop.payment.books().await?, shop.stock.books().await?, shop.delivery.books().await?);
        let total: i64 = books.0.values().sum();
        let balanced = books == (cents, pieces, parcels);
        self.line(
            "ledgers",
            format!(
                "{}: {}.{:02} EUR charged, {} pieces reserved, {} parcels booked",
                if balanced { "balanced" } else { "NOT BALANCED" },
                total / 100,
                total % 100,
                books.1.values().sum::<i64>(),
                books.2.values().sum::<i64>()
            ),
            balanced,
        );
        Ok(())
    }

    fn webhooks(&mut self, orders: &BTreeMap<String, Order>, received: &Received) {
        let again = received.messages.values().map(|times| times - 1).sum::<usize>();
        self.line(
            "webhooks",
            format!(
                "{} delivered and their signatures verified, {again} came twice, {} refused",
                received.messages.len(),
                received.unverified
            ),
            received.messages.len() == orders.len() && received.unverified == 0,
        );
    }
}

/// Dead letters of all consumers.
pub(super) async fn dead_letters(client: &Client) -> anyhow::Result<i64> {
    let consumers = all(client, &["consumers"], &[]).await?;
    Ok(consumers.iter().filter_map(|consumer| consumer["dead"].as_i64()).sum())
}

/// The ids of all events of a type.
async fn ids(client: &Client, kind: &str) -> anyhow::Result<Vec<String>> {
    let events = all(client, &["events"], &[("type", kind)]).await?;
    let id = |item: &Value| item["event"]["id"].as_str().unwrap_or_default().to_owned();
    Ok(events.iter().map(id).collect())
}

/// All pages of a list.
pub(super) async fn all(
    client: &Client,
    segments: &[&str],
    query: &[(&str, &str)],
) -> anyhow::Result<Vec<Value>> {
    let (mut items, mut cursor) = (Vec::new(), None);
    loop {
        let mut query: Vec<(&str, Option<String>)> =
            query.iter().map(|(name, value)| (*name, Some((*value).to_owned()))).collect();
        query.push(("limit", Some("500".to_owned())));
        query.push(("cursor", cursor.take()));
        let mut page = client.get(segments, &query).await?;
        if let Some(list) = page["items"].as_array_mut() {
            items.append(list);
        }
        match page["next"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => return Ok(items),
        }
    }
}
