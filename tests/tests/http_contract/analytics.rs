//! The built-in counting of events, and its rebuild.

use serde_json::{Value, json};
use skald_tests::{House, eventually};

use super::{figures, publish_many};

const PER_MINUTE: &str = "/v1/analytics/timeseries?metric=events&interval=minute";

fn total(series: &Value) -> i64 {
    let points = series["points"].as_array().unwrap_or_else(|| panic!("no points: {series}"));
    points.iter().map(|point| point["value"].as_i64().unwrap()).sum()
}

async fn counted(house: &House, query: &str) -> i64 {
    total(&house.get(&format!("{PER_MINUTE}{query}")).await.json_of(200))
}

#[tokio::test]
async fn events_are_counted_by_type_once_each() {
    let house = House::start().await;
    publish_many(&house, "shop.order.paid", 7).await;
    publish_many(&house, "shop.order.placed", 5).await;
    publish_many(&house, "mail.sent", 3).await;
    publish_many(&house, "mail.sent", 3).await; // duplicates
    figures(&house, "count-events", &[("waiting", 0)]).await;
    assert_eq!(counted(&house, "").await, 15);
    assert_eq!(counted(&house, "&type=shop.order.paid").await, 7);
    assert_eq!(counted(&house, "&type=shop.%3E").await, 12);
    assert_eq!(counted(&house, "&type=nothing").await, 0);
    let series = house.get(PER_MINUTE).await.json_of(200);
    assert_eq!(series["interval"], "minute");
    let at = series["points"][0]["at"].as_str().unwrap();
    assert!(at.ends_with(":00.000000Z") || at.ends_with(":00Z"), "{at}");
}

#[tokio::test]
async fn counts_are_had_by_hour_day_week_and_month() {
    let house = House::start().await;
    publish_many(&house, "t", 4).await;
    figures(&house, "count-events", &[("waiting", 0)]).await;
    for interval in ["minute", "hour", "day", "week", "month"] {
        let path = format!("/v1/analytics/timeseries?metric=events&interval={interval}");
        let series = house.get(&path).await.json_of(200);
        assert_eq!((&series["interval"], total(&series)), (&json!(interval), 4), "{series}");
    }
    for query in ["metric=events&interval=year", "metric=nonsense&interval=day"] {
        let faults = house.get(&format!("/v1/analytics/timeseries?{query}")).await.faults();
        assert_eq!(faults.len(), 1, "{query}: {faults:?}");
    }
}

#[tokio::test]
async fn a_rebuild_counts_all_anew_and_takes_over_when_it_has_caught_up() {
    let house = House::start().await;
    for _ in 0..3 {
        house.publish(json!({"type": "t"})).await;
    }
    figures(&house, "count-events", &[("waiting", 0)]).await;
    let rebuild = house.post("/v1/consumers/count-events/rebuild", json!({})).await.json_of(202);
    assert!(rebuild["id"].as_str().unwrap().starts_with("rpl_"), "{rebuild}");
    let path = format!("/v1/replays/{}", rebuild["id"].as_str().unwrap());
    for _ in 0..4 {
        house.publish(json!({"type": "t"})).await;
        let seen = counted(&house, "&type=t").await;
        assert!(seen >= 3, "readers never see a generation that is not complete: {seen}");
    }
    eventually("the rebuild is completed", async || {
        let replay = house.get(&path).await.json_of(200);
        (replay["status"] == "completed").then_some(())
    })
    .await;
    figures(&house, "count-events", &[("waiting", 0)]).await;
    assert_eq!(counted(&house, "&type=t").await, 7);
}

#[tokio::test]
async fn a_rebuild_survives_kill_9() {
    let mut house = House::start().await;
    publish_many(&house, "t", 1_000).await;
    figures(&house, "count-events", &[("waiting", 0)]).await;
    let rebuild = house.post("/v1/consumers/count-events/rebuild", json!({})).await.json_of(202);
    let path = format!("/v1/replays/{}", rebuild["id"].as_str().unwrap());
    house.kill_9();
    house.restart().await;
    eventually("the rebuild is completed", async || {
        let replay = house.get(&path).await.json_of(200);
        (replay["status"] == "completed").then_some(())
    })
    .await;
    assert_eq!(counted(&house, "").await, 1_000);
}

#[tokio::test]
async fn a_consumer_without_rollups_cannot_be_rebuilt() {
    let house = House::start().await;
    house.pull_consumer("c", "t", json!({})).await;
    house.post("/v1/consumers/c/rebuild", json!({})).await.problem(409);
    house.post("/v1/consumers/nobody/rebuild", json!({})).await.problem(404);
}

#[tokio::test]
async fn a_series_ends_where_clocks_go_back_by_half_an_hour() {
    let house = House::start().await;
    let zone = "interval=hour&timezone=Australia/Lord_Howe";
    let time = "from=2026-04-04T13:00:00Z&to=2026-04-04T18:00:00Z";
    let path = format!("/v1/analytics/timeseries?metric=events&{zone}&{time}");
    let series = house.get(&path).await.json_of(200);
    let points = series["points"].as_array().unwrap();
    assert_eq!(points.len(), 5, "the hour from 01:00 has 90 minutes: {series}");
}
