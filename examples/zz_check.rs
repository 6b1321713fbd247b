//! Check.
use bus::{Recorded, sql};
use schemas::{EventType, Pattern, Patterns, Timestamp};
use skald::{BatchConsumer, Event, Failure, Permanent, Skald, Tx};
use std::sync::Arc;
#[derive(serde::Deserialize)]
struct OrderPaid {
    total_cents: i64,
}
struct SumPaid {
    types: Patterns,
}
impl BatchConsumer for SumPaid {
    const NAME: &'static str = "sum-paid";
    const REBUILDS: bool = true; // its rows are kept per generation

    fn types(&self) -> Patterns {
        self.types.clone()
    }

    async fn handle(
        &self,
        events: &[Arc<Recorded>],
        generation: i64,
        tx: &mut Tx,
    ) -> Result<(), Failure> {
        let mut cents = 0;
        for event in events {
            cents += event.event.data_as::<OrderPaid>().permanent()?.total_cents;
        }
        let add = sql("insert into shop_paid (generation, cents) values ($1, $2)
             on conflict (generation) do update set cents = shop_paid.cents + excluded.cents");
        tx.execute(add.bind(generation).bind(cents)).await?;
        Ok(())
    }

    async fn switch(
        &self,
        tx: &mut Tx,
        from: i64,
        _to: i64,
        _pruned: &[(EventType, Timestamp)],
    ) -> Result<(), sqlx::Error> {
        let old = sql("delete from shop_paid where generation = $1").bind(from);
        tx.execute(old).await.map(|_| ())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = std::path::PathBuf::from(std::env::args().nth(1).unwrap_or_default());
    let types = Patterns::from("com.acme.order.paid".parse::<Pattern>()?);
    let node = Skald::dev()
        .data(&folder)
        .listen("127.0.0.1:0")
        .batch_consumer(SumPaid { types })
        .start()
        .await?;
    let mut tx = node.db().begin().await?;
    tx.execute(sql("create table if not exists shop_paid (generation bigint primary key, cents bigint not null)")).await?;
    tx.commit().await?;
    for n in 0..3 {
        let paid = Event::new("com.acme.order.paid".parse()?, "/shop".parse()?, format!("e-{n}").parse()?)
        .with_json(serde_json::json!({ "order_id": "o-1", "email": "a@b.c", "total_cents": if n == 1 { serde_json::json!("x") } else { 1.into() } }))?;
        let seq = node.log().publish(paid).await?.seq;
        eprintln!("{seq} {}", node.address());
    }
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    use sqlx::Row;
    for row in node.db().fetch_all(sql("select generation, cents from shop_paid")).await? {
        eprintln!("{} {}", row.get::<i64, _>(0), row.get::<i64, _>(1));
    }
    for row in node.db().fetch_all(sql("select state, attempt, last_error from work")).await? {
        eprintln!(
            "{} {} {:?}",
            row.get::<String, _>(0),
            row.get::<i64, _>(1),
            row.get::<Option<String>, _>(2)
        );
    }
    Ok(node.stop().await?)
}
