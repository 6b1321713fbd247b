//! A new consumer in a program of its own, which joins the nodes that run already and catches up from
//! the first event: `SKALD_LOG__URL=nats://… SKALD_DATABASE__URL=postgres://… SKALD_SECURITY__ADMIN_KEY=sk_…
//! cargo run --example new_consumer`

use serde::Deserialize;
use skald::config::{Flags, Settings};
use skald::server::Profile;
use skald::{Consumer, Delivery, DomainEvent, Failure, Skald};

#[derive(Deserialize)]
struct OrderPlaced {
    order_id: String,
    total_cents: i64,
}
impl DomainEvent for OrderPlaced {
    const TYPE: &'static str = "com.acme.order.placed";
}

struct SpotLargeOrder;

impl Consumer for SpotLargeOrder {
    type Event = OrderPlaced;
    const NAME: &'static str = "spot-large-order"; // durable: never renamed, only retired

    async fn handle(&self, placed: OrderPlaced, _: &mut Delivery<'_>) -> Result<(), Failure> {
        if placed.total_cents > 20_000 {
            tracing::info!(order = placed.order_id, "a large order");
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let program = Skald::new(Settings::load(&Flags::default())?.settings, Profile::Serve);
    Ok(program.listen("127.0.0.1:0").consumer(SpotLargeOrder).run().await?)
}
