//! A consumer in Rust, which runs inside the node: it announces a receipt for every order.

use bus::{Consumer, Delivery, DomainEvent, Failure, Permanent, Policy};
use schemas::Event;
use serde::Deserialize;

use super::orders;

/// Its name.
pub(super) const NAME: &str = "issue-receipt";
/// What it publishes.
pub(super) const ISSUED: &str = "com.acme.receipt.issued";

/// What it needs to know of an order.
#[derive(Deserialize)]
pub(super) struct Placed {
    order_id: String,
    total_cents: i64,
}

impl DomainEvent for Placed {
    const TYPE: &'static str = orders::PLACED;
}

/// Announces a receipt for every order; the announcement commits with the note that the order is
/// done, so that there is one, whatever crashes.
pub(super) struct IssueReceipt;

impl Consumer for IssueReceipt {
    type Event = Placed;
    const NAME: &'static str = NAME;
    const POLICY: Policy = Policy { attempts_max: 5, ..Policy::DEFAULT };

    async fn handle(&self, placed: Placed, delivery: &mut Delivery<'_>) -> Result<(), Failure> {
        delivery.publish(issued(&placed).permanent()?)?;
        Ok(())
    }
}

fn issued(placed: &Placed) -> Result<Event, Failure> {
    let id = format!("receipt-{}", placed.order_id).parse()?;
    let data = serde_json::json!({"order_id": placed.order_id, "total_cents": placed.total_cents});
    Ok(Event::new(ISSUED.parse()?, "/receipts".parse()?, id)
        .with_subject(placed.order_id.as_str())
        .with_json(data)?)
}
