//! The order of `order.yaml` as a saga in Rust: a table of methods with their undos.
//!
//! ```sh
//! cargo run -p skald-orchestrator --example participant -- 9000 books.db
//! PARTICIPANTS_URL=http://127.0.0.1:9000 cargo run --example order
//! skald sagas start place-order --wait --input '{"order_id":"1","total_cents":500,"card":"visa","items":["book"],"ship":true}'
//! ```

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skald::config::{Flags, Settings};
use skald::server::Profile;
use skald::{Call, RustSaga, Skald, StepError, Steps, Undo, step, undo};

/// Charges, reserves and delivers an order, or nothing of it.
struct PlaceOrder {
    participants: String,
    http: reqwest::Client,
}

#[derive(Serialize, Deserialize)]
struct Order {
    order_id: String,
    total_cents: u64,
    card: String,
    items: Vec<String>,
    ship: bool,
}

/// What a participant answers, and its undo is given.
#[derive(Serialize, Deserialize)]
struct Receipt {
    id: String,
}

impl PlaceOrder {
    async fn charge_payment(self: Arc<Self>, order: Call<Order>) -> Result<Receipt, StepError> {
        let Order { order_id, total_cents, card, .. } = &order.input;
        let body = json!({"order": order_id, "amount": total_cents, "card": card});
        receipt(self.ask("payment/charge", &order.idempotency_key, body).await?)
    }

    async fn refund_payment(self: Arc<Self>, undo: Undo<Order, Receipt>) -> Result<(), StepError> {
        let body = json!({"charge": undo.receipt.id});
        self.ask("payment/refund", &undo.idempotency_key, body).await.map(|_| ())
    }

    async fn reserve_stock(self: Arc<Self>, order: Call<Order>) -> Result<Receipt, StepError> {
        let body = json!({"items": order.input.items});
        receipt(self.ask("stock/reserve", &order.idempotency_key, body).await?)
    }

    async fn release_stock(self: Arc<Self>, undo: Undo<Order, Receipt>) -> Result<(), StepError> {
        let body = json!({"reservation": undo.receipt.id});
        self.ask("stock/release", &undo.idempotency_key, body).await.map(|_| ())
    }

    /// `None` for what is not shipped.
    async fn book_delivery(
        self: Arc<Self>,
        order: Call<Order>,
    ) -> Result<Option<Receipt>, StepError> {
        if !order.input.ship {
            return Ok(None);
        }
        let body = json!({"order": order.input.order_id});
        receipt(self.ask("delivery/book", &order.idempotency_key, body).await?).map(Some)
    }

    async fn cancel_delivery(
        self: Arc<Self>,
        undo: Undo<Order, Option<Receipt>>,
    ) -> Result<(), StepError> {
        let Some(booked) = undo.receipt else { return Ok(()) };
        let body = json!({"booking": booked.id});
        self.ask("delivery/cancel", &undo.idempotency_key, body).await.map(|_| ())
    }

    /// Asks a participant; the key makes it safe to ask twice.
    async fn ask(&self, path: &str, key: &str, body: Value) -> Result<Value, StepError> {
        let url = format!("{}/{path}", self.participants);
        let sent = self.http.post(url).header("idempotency-key", key).json(&body).send().await?;
        if sent.status() == reqwest::StatusCode::UNPROCESSABLE_ENTITY {
            return Err(StepError::refused(sent.text().await?));
        }
        Ok(sent.error_for_status()?.json().await?)
    }
}

fn receipt(answer: Value) -> Result<Receipt, StepError> {
    Ok(serde_json::from_value(answer)?)
}

impl RustSaga for PlaceOrder {
    type Input = Order;
    const NAME: &'static str = "place-order";

    fn steps() -> Steps<Self> {
        Steps::new()
            .step("charge-payment", Self::charge_payment, undo(Self::refund_payment))
            .together([
                step("reserve-stock", Self::reserve_stock, undo(Self::release_stock)),
                step("book-delivery", Self::book_delivery, undo(Self::cancel_delivery)),
            ])
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::load(&Flags::default())?.settings;
    let participants = std::env::var("PARTICIPANTS_URL")?;
    egress::install_crypto_provider();
    let saga = PlaceOrder { participants, http: reqwest::Client::new() };
    Ok(Skald::new(settings, Profile::Dev).saga(saga).run().await?)
}
