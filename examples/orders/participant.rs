//! A participant of sagas in Rust, over HTTP and NATS: a service with books of its own, in SQLite.
//!
//! ```sh
//! cargo run -p skald-orchestrator --example participant -- 9000 books.db
//! cargo run -p skald-orchestrator --example participant -- 9000 books.db nats://127.0.0.1:4222 stock
//! ```
//!
//! `POST /ANYTHING`, and any command to the name, does something for a step. It refuses what has
//! `sold_out` in its body. `GET /` answers the books.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use orchestrator::StepError;
use orchestrator::service::{Command, Participant, Service};
use serde_json::{Value, json};
use sqlx::any::AnyPoolOptions;
use sqlx::{AnyConnection, AnyPool, Row};

/// Notes in a ledger what is in effect.
#[derive(Clone)]
struct Books(AnyPool);

async fn note(tx: &mut AnyConnection, asked: &Command, amount: i64) -> Result<(), sqlx::Error> {
    let line = sqlx::query("insert into ledger (saga, step, amount) values ($1, $2, $3)");
    let line = line.bind(asked.key.saga.clone()).bind(asked.key.step.clone());
    line.bind(amount).execute(tx).await?;
    Ok(())
}

#[async_trait::async_trait]
impl Participant for Books {
    async fn act(&self, tx: &mut AnyConnection, asked: &Command) -> Result<Value, StepError> {
        note(tx, asked, 1).await?;
        if asked.body.to_string().contains("sold_out") {
            return Err(StepError::refused("sold out"));
        }
        Ok(json!({ "id": format!("{}-{}", asked.key.saga, asked.key.step) }))
    }

    async fn undo(
        &self,
        tx: &mut AnyConnection,
        _receipt: Value,
        asked: &Command,
    ) -> Result<(), StepError> {
        Ok(note(tx, asked, -1).await?)
    }
}

async fn act(
    State((service, _)): State<(Service<Books>, Books)>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, Json<Value>) {
    let (status, answer) = service.http(uri.path(), &headers, &body).await;
    (StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), Json(answer))
}

async fn books(State((_, books)): State<(Service<Books>, Books)>) -> Result<Json<Value>, String> {
    let query = "select saga, step, cast(sum(amount) as bigint), count(*) from ledger
        group by saga, step";
    let rows = sqlx::query(query).fetch_all(&books.0).await.map_err(|error| error.to_string())?;
    let row = |row: &sqlx::any::AnyRow| -> Value {
        json!([
            row.get::<String, _>(0),
            row.get::<String, _>(1),
            row.get::<i64, _>(2),
            row.get::<i64, _>(3)
        ])
    };
    Ok(Json(rows.iter().map(row).collect()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let port: u16 = arguments.next().ok_or("usage: PORT BOOKS [NATS_URL NAME]")?.parse()?;
    let file = arguments.next().ok_or("usage: PORT BOOKS [NATS_URL NAME]")?;
    sqlx::any::install_default_drivers();
    // One writer at a time: SQLite gives no more.
    let one = AnyPoolOptions::new().max_connections(1);
    let db = one.connect(&format!("sqlite://{file}?mode=rwc")).await?;
    sqlx::query("pragma journal_mode = wal").execute(&db).await?;
    let ledger = "create table if not exists ledger (saga text, step text, amount bigint)";
    sqlx::query(ledger).execute(&db).await?;
    let books_kept = Books(db.clone());
    let service = Service::new(db, books_kept.clone()).await?;
    if let (Some(url), Some(name)) = (arguments.next(), arguments.next()) {
        let client = async_nats::connect(url).await?;
        let service = service.clone();
        tokio::spawn(async move { service.serve_nats(client, &name).await });
    }
    let router =
        Router::new().route("/", get(books)).fallback(act).with_state((service, books_kept));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    #[expect(clippy::print_stdout, reason = "whoever started it waits for this line")]
    {
        println!("listening on http://{}", listener.local_addr()?);
    }
    axum::serve(listener, router).await?;
    Ok(())
}
