//! The three services that an order goes through: payment, stock and delivery.
//!
//! Each is an HTTP service on a port of its own with a database of its own, and knows nothing of the
//! others or of Skald, but for the barrier: a call that is repeated is answered as the first one was.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use axum::extract::{Path as Verb, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use orchestrator::barrier::{self, Answer, Asked, Turn};
use serde_json::{Value, json};
use sqlx::any::AnyPoolOptions;
use sqlx::{AnyConnection, AnyPool, Row};
use tokio::net::TcpListener;

use super::orders::Item;

/// The card that no bank takes.
pub(super) const REFUSED_CARD: &str = "4000000000000002";
/// The lamp that everybody wants and nobody has.
pub(super) const SOLD_OUT: &str = "LAMP-1962";
/// So many of everything else are on the shelves.
const ON_THE_SHELF: i64 = 1_000;

/// A line per change: what a saga did, and what it took back.
const LEDGER: &str =
    "create table if not exists ledger (saga text not null, amount bigint not null)";
const SHELF: &str = "create table if not exists shelf (sku text primary key, free bigint not null)";

/// The three of them, for as long as the demonstration lasts.
pub(super) struct Shop {
    pub(super) payment: Service,
    pub(super) stock: Service,
    pub(super) delivery: Service,
}

/// One service.
pub(super) struct Service {
    pub(super) url: String,
    db: AnyPool,
}

/// What a service does for a step; which one is its first word.
#[derive(Clone, Copy)]
enum Trade {
    Payment,
    Stock,
    Delivery,
}

struct Counter {
    trade: Trade,
    db: AnyPool,
}

impl Shop {
    pub(super) async fn open(folder: &Path) -> anyhow::Result<Shop> {
        sqlx::any::install_default_drivers();
        Ok(Shop {
            payment: Service::open(folder, Trade::Payment, "payment").await?,
            stock: Service::open(folder, Trade::Stock, "stock").await?,
            delivery: Service::open(folder, Trade::Delivery, "delivery").await?,
        })
    }
}

impl Service {
    async fn open(folder: &Path, trade: Trade, name: &str) -> anyhow::Result<Service> {
        let file = folder.join(format!("{name}.db"));
        // One connection: its transactions follow each other.
        let options = AnyPoolOptions::new().max_connections(1);
        let db = options.connect(&format!("sqlite://{}?mode=rwc", file.display())).await?;
        for table in [barrier::TABLE, LEDGER, SHELF] {
            sqlx::query(table).execute(&db).await?;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let counter = Arc::new(Counter { trade, db: db.clone() });
        let router = Router::new().route("/{verb}", post(serve)).with_state(counter);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Service { url, db })
    }

    /// What is in effect for each saga: cents, pieces, parcels. Nothing where all was taken back.
    pub(super) async fn books(&self) -> anyhow::Result<BTreeMap<String, i64>> {
        let lines = sqlx::query(
            "select saga, cast(sum(amount) as bigint) from ledger group by saga having sum(amount) <> 0",
        );
        let lines = lines.fetch_all(&self.db).await?;
        Ok(lines.iter().map(|line| (line.get(0), line.get(1))).collect())
    }
}

async fn serve(
    State(counter): State<Arc<Counter>>,
    Verb(_): Verb<String>,
    headers: HeaderMap,
    body: Option<Json<Value>>,
) -> (StatusCode, Json<Value>) {
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).unwrap_or_default();
    let answer = match key.parse::<Asked>() {
        Ok(asked) => counter.answer(&asked, &body.unwrap_or_default()).await,
        Err(error) => return (StatusCode::BAD_REQUEST, Json(json!({"error": error.to_string()}))),
    };
    match answer {
        Ok(Answer { status, body }) => {
            (StatusCode::from_u16(status).unwrap_or(StatusCode::OK), Json(body))
        }
        // It is asked again.
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({"error": error.to_string()})))
        }
    }
}

impl Counter {
    /// Does it or takes it back, and writes the line and the answer, in one transaction.
    async fn answer(&self, asked: &Asked, body: &Value) -> Result<Answer, sqlx::Error> {
        let mut tx = self.db.begin().await?;
        let answer = match barrier::begin(&mut tx, asked).await? {
            Turn::Answered(answer) => answer,
            Turn::Act => match self.act(&mut tx, body).await? {
                Ok(amount) => {
                    write(&mut tx, &asked.saga, amount).await?;
                    let receipt = json!({"id": format!("{}-{}", asked.step, asked.saga),
                        "amount": amount, "items": body["items"]});
                    barrier::done(&mut tx, asked, receipt).await?
                }
                Err(why) => barrier::refused(&mut tx, asked, &why).await?,
            },
            Turn::Undo(receipt) => {
                put_back(&mut tx, &receipt).await?;
                let amount = receipt["amount"].as_i64().unwrap_or_default();
                write(&mut tx, &asked.saga, -amount).await?;
                barrier::done(&mut tx, asked, json!({"undone": receipt["id"]})).await?
            }
        };
        tx.commit().await?;
        Ok(answer)
    }

    /// How much was done, or why not.
    async fn act(
        &self,
        tx: &mut AnyConnection,
        body: &Value,
    ) -> Result<Result<i64, String>, sqlx::Error> {
        match self.trade {
            Trade::Payment if body["card"] == REFUSED_CARD => {
                Ok(Err("the bank refuses the card".into()))
            }
            Trade::Payment => Ok(Ok(body["amount"].as_i64().unwrap_or_default())),
            Trade::Delivery => Ok(Ok(1)),
            Trade::Stock => {
                let mut taken = 0;
                for Item { sku, quantity, .. } in items(body) {
                    if !take(tx, &sku, quantity).await? {
                        return Ok(Err(format!("{sku} is sold out")));
                    }
                    taken += quantity;
                }
                Ok(Ok(taken))
            }
        }
    }
}

fn items(of: &Value) -> Vec<Item> {
    serde_json::from_value(of["items"].clone()).unwrap_or_default()
}

async fn write(tx: &mut AnyConnection, saga: &str, amount: i64) -> Result<(), sqlx::Error> {
    let line = sqlx::query("insert into ledger (saga, amount) values ($1, $2)");
    line.bind(saga.to_owned()).bind(amount).execute(tx).await.map(|_| ())
}

/// Whether there were as many.
async fn take(tx: &mut AnyConnection, sku: &str, quantity: i64) -> Result<bool, sqlx::Error> {
    let stocked = if sku == SOLD_OUT { 0 } else { ON_THE_SHELF };
    let fill = sqlx::query("insert into shelf (sku, free) values ($1, $2) on conflict do nothing");
    fill.bind(sku.to_owned()).bind(stocked).execute(&mut *tx).await?;
    let take = sqlx::query("update shelf set free = free - $1 where sku = $2 and free >= $1");
    let taken = take.bind(quantity).bind(sku.to_owned()).execute(tx).await?;
    Ok(taken.rows_affected() == 1)
}

async fn put_back(tx: &mut AnyConnection, receipt: &Value) -> Result<(), sqlx::Error> {
    for Item { sku, quantity, .. } in items(receipt) {
        let back = sqlx::query("update shelf set free = free + $1 where sku = $2");
        back.bind(quantity).bind(sku).execute(&mut *tx).await?;
    }
    Ok(())
}
