//! Greets an order when it is paid.

use skald::{Consumer, Delivery, DomainEvent, Failure, Skald, SkaldError};

#[derive(serde::Deserialize)]
struct OrderPaid {
    order_id: String,
}

impl DomainEvent for OrderPaid {
    const TYPE: &'static str = "com.acme.order.paid";
}

struct GreetOrder;

impl Consumer for GreetOrder {
    type Event = OrderPaid;
    const NAME: &'static str = "greet-order"; // durable: never renamed, only retired

    async fn handle(&self, paid: OrderPaid, _: &mut Delivery<'_>) -> Result<(), Failure> {
        tracing::info!(order = paid.order_id, "thank you");
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), SkaldError> {
    Skald::dev().consumer(GreetOrder).run().await
}
