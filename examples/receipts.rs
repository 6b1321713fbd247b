//! Writes a receipt when an order is paid, and tells of it in an event of its own.
//!
//! `cargo run --example receipts` runs the platform with this consumer inside. In another terminal,
//! `cargo run -- publish examples/orders.jsonl` publishes orders, and
//! `cargo run -- dead-letters write-receipt` shows the one that cannot have a receipt.

use bus::{Clock, sql};
use serde::Deserialize;
use skald::config::{Flags, Settings};
use skald::server::{Profile, open_database};
use skald::{Consumer, Delivery, DomainEvent, Event, Failure, Permanent, Policy, Skald};

#[derive(Deserialize)]
struct OrderPaid {
    order_id: String,
    email: String,
    total_cents: i64,
}

impl DomainEvent for OrderPaid {
    const TYPE: &'static str = "com.acme.order.paid";
}

/// Writes a receipt when an order is paid.
struct WriteReceipt;

impl Consumer for WriteReceipt {
    type Event = OrderPaid;
    const NAME: &'static str = "write-receipt"; // durable: never renamed, only retired
    const POLICY: Policy = Policy { attempts_max: 5, ordered: true, ..Policy::DEFAULT };

    async fn handle(&self, paid: OrderPaid, delivery: &mut Delivery<'_>) -> Result<(), Failure> {
        if !paid.email.contains('@') {
            // Trying again cannot help: a dead letter at once.
            return Err(Failure::permanent("the order has no mail address"));
        }
        let written = receipt_written(&paid).permanent()?;
        // Commits together with the note that this event is done: once per event. A forced replay
        // brings the event again, so the row is named after the order.
        let write = sql("insert into shop_receipt (order_id, total_cents) values ($1, $2)
             on conflict (order_id) do nothing")
        .bind(paid.order_id)
        .bind(paid.total_cents);
        delivery.tx().execute(write).await?;
        delivery.publish(written)?;
        Ok(())
    }
}

/// The event that a receipt was written. Its id is made of the order's: published again after a
/// forced replay, it is a duplicate that the log knows.
fn receipt_written(paid: &OrderPaid) -> Result<Event, Failure> {
    let kind = "com.acme.receipt.written".parse()?;
    let id = format!("receipt-{}", paid.order_id).parse()?;
    let data = serde_json::json!({ "order_id": paid.order_id, "total_cents": paid.total_cents });
    Ok(Event::new(kind, "/shop/receipts".parse()?, id)
        .with_subject(paid.order_id.as_str())
        .with_json(data)?)
}

/// Makes the table of this program, beside those of Skald.
async fn make_table(settings: &Settings) -> anyhow::Result<()> {
    let db = open_database(settings, Clock::system()).await?;
    let mut tx = db.begin().await?;
    tx.execute(sql("create table if not exists shop_receipt (
             order_id text primary key, total_cents bigint not null)"))
        .await?;
    tx.commit().await?;
    db.close().await;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // `skald.toml` and SKALD_… variables count here too.
    let settings = Settings::load(&Flags::default())?.settings;
    make_table(&settings).await?;
    Ok(Skald::new(settings, Profile::Dev).consumer(WriteReceipt).run().await?)
}
