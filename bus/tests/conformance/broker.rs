//! What only a broker can do: messages of other clients, events that it holds twice, streams that are
//! not what they were. `tests/run` runs these beside the suite on NATS.

use std::time::Duration;

use async_nats::HeaderMap;
use bus::{JetStreamLog, JetStreamOptions, PublishError, Read, ReadError, Seq, sql};
use schemas::Event;
use serde_json::json;

use crate::house::{House, event, eventually, scripted};

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (*name, *value)).fold(
        HeaderMap::new(),
        |mut all, (name, value)| {
            all.insert(name, value);
            all
        },
    )
}

async fn last(house: &House) -> Event {
    let events = house.events().await;
    events.last().unwrap().event.clone()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: tests/run"]
async fn any_client_publishes_events_in_every_form() {
    let house = House::start().await;
    let context = async_nats::jetstream::new(house.client().await);
    let publish = async |subject: &str, pairs: &[(&str, &str)], payload: &str| {
        let payload = payload.to_owned().into();
        let sent = context.publish_with_headers(subject.to_owned(), headers(pairs), payload);
        sent.await.unwrap().await.unwrap();
        last(&house).await
    };
    let binary = [
        ("ce-specversion", "1.0"),
        ("ce-id", "b1"),
        ("ce-source", "/shop"),
        ("ce-type", "shop.sold"),
        ("ce-datacontenttype", "application/json"),
        ("ce-subject", "caf%C3%A9"),
    ];
    let event = publish("events.shop.sold", &binary, r#"{"n":1}"#).await;
    assert_eq!((event.id.as_str(), event.subject.as_deref()), ("b1", Some("café")));
    assert_eq!(event.data.as_bytes(), br#"{"n":1}"#);

    let structured =
        json!({"specversion": "1.0", "id": "s1", "source": "/shop", "type": "shop.sold",
        "data": {"n": 2}})
        .to_string();
    let kind = [("Content-Type", "application/cloudevents+json")];
    let event = publish("events.shop.sold", &kind, &structured).await;
    assert_eq!(event.id.as_str(), "s1");

    let event = publish("events.shop.sold", &[("Nats-Msg-Id", "m 1")], r#"{"n":3}"#).await;
    assert_eq!(event.id.as_str(), "m 1");
    assert_eq!(
        (event.source.as_str(), event.kind.as_str()),
        ("/nats/events.shop.sold", "shop.sold")
    );
    let event = publish("events.shop.sold", &[], r#"{"n":4}"#).await;
    assert_eq!(event.id.as_str(), "4", "the sequence");
    assert!(event.time.is_some());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: tests/run"]
async fn what_is_no_event_is_a_dead_letter_of_ingest_and_can_be_put_right() {
    let house = House::start().await;
    let running = house.run(vec![scripted(|_, _| Ok(()))]).await;
    let context = async_nats::jetstream::new(house.client().await);
    let wrong_type =
        [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/"), ("ce-type", "other")];
    for (subject, pairs, payload) in [
        ("events.a.b", &[][..], "no JSON"),
        ("events.a.b", &[], ""),
        ("events.a.b", &[("ce-specversion", "1.0")], "{}"),
        ("events.a.b", &wrong_type, "{}"),
        ("events.dev.skald.x", &[], "{}"),
    ] {
        let payload = payload.to_owned().into();
        let sent = context.publish_with_headers(subject, headers(pairs), payload);
        sent.await.unwrap().await.unwrap();
    }
    house.publish("a.b", "k", 7).await;
    house.settled("scripted").await;
    assert_eq!(house.effects("k").await, [7], "what is valid goes on");
    eventually(|| async { house.dead_letters("ingest").await.len() == 5 }).await;
    let letters = house.dead_letters("ingest").await;
    let raw = letters.iter().find(|letter| letter.seq == Some(Seq::new(1))).unwrap();
    let told = Event::from_json(raw.event.as_ref().unwrap().as_bytes()).unwrap();
    let told: serde_json::Value = told.data_as().unwrap();
    assert_eq!((&told["subject"], &told["payload"]), (&json!("events.a.b"), &json!("no JSON")));

    let queue = house.queue("ingest").await;
    let right = event("a.b", "put-right", 8);
    let which = bus::dead_letter::Selection { ids: vec![raw.id], ..Default::default() };
    let mut tx = house.db.begin().await.unwrap();
    bus::dead_letter::redrive(&mut tx, queue, &which, Some(&right)).await.unwrap();
    tx.commit().await.unwrap();
    eventually(|| async { house.effects("put-right").await == [8] }).await;
    assert_eq!(house.dead_letters("ingest").await.len(), 4);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: tests/run"]
async fn an_event_that_the_broker_holds_twice_is_done_once() {
    let house = House::start().await;
    let running = house.run(vec![scripted(|_, _| Ok(()))]).await;
    let context = async_nats::jetstream::new(house.client().await);
    let event = event("a", "k", 1);
    house.log.publish(event.clone()).await.unwrap();
    house.settled("scripted").await;
    for again in 0..3 {
        let (mut pairs, payload) = schemas::nats::to_message(&event);
        pairs.push(("Nats-Msg-Id".into(), format!("past the window {again}")));
        let pairs: Vec<(&str, &str)> =
            pairs.iter().map(|(n, v)| (n.as_ref(), v.as_str())).collect();
        let sent = context.publish_with_headers("events.a", headers(&pairs), payload);
        sent.await.unwrap().await.unwrap();
    }
    assert_eq!(house.head().await, Seq::new(4));
    house.settled("scripted").await;
    assert_eq!(house.effects("k").await, [1]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: tests/run"]
async fn a_stream_that_was_made_again_is_noticed_at_once_and_taken_on_when_told_so() {
    let house = House::start().await;
    for n in 0..10 {
        house.publish("a", "k", n).await;
    }
    let running = house.run(vec![scripted(|_, _| Ok(()))]).await;
    house.settled("scripted").await;
    let context = async_nats::jetstream::new(house.client().await);
    context.delete_stream("EVENTS").await.unwrap();
    let _other = JetStreamLog::open(&house.options()).await.unwrap();

    let refused = house.log.publish(event("a", "k", 10)).await;
    assert!(matches!(refused, Err(PublishError::Faulty(_))), "{refused:?}");
    let refused = house.log.read(Read::after(Seq::ZERO)).await;
    assert!(matches!(refused, Err(ReadError::Faulty(_))), "{refused:?}");
    assert!(house.log.fault().is_some());
    let staged = || bus::sql("select 1 from outbox where event like '%dev.skald.log.replaced%'");
    eventually(|| async { house.db.fetch_optional(staged()).await.unwrap().is_some() }).await;
    running.stop().await;

    let house = house.reopened().await;
    let adopted = bus::identity::adopt(&house.db, house.log.as_ref()).await.unwrap();
    assert!(adopted.replaced);
    let running = house.run(vec![scripted(|_, _| Ok(()))]).await;
    house.publish("a", "k", 11).await;
    house.settled("scripted").await;
    assert_eq!(house.effects("k").await.last(), Some(&11));
    eventually(|| async {
        let kinds = house.events().await;
        kinds.iter().any(|event| event.event.kind.as_str() == "dev.skald.log.replaced")
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: tests/run"]
async fn events_deleted_by_others_are_missed_aloud() {
    let house = House::start().await;
    let running = house.run(vec![scripted(|_, _| Ok(()))]).await;
    eventually(|| async {
        let looked = bus::sql("select 1 from log_identity where looked_at_us > 0");
        house.db.fetch_optional(looked).await.unwrap().is_some()
    })
    .await;
    crate::consumers::pause(&house, true).await;
    running.stop().await;
    for n in 0..10 {
        house.publish("a", "k", n).await;
    }
    let context = async_nats::jetstream::new(house.client().await);
    let stream = context.get_stream("EVENTS").await.unwrap();
    stream.purge().sequence(6).await.unwrap();
    let running = house.run(vec![scripted(|_, _| Ok(()))]).await;
    eventually(|| async { last(&house).await.kind.as_str() == "dev.skald.log.missed" }).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: tests/run"]
async fn a_stream_that_cannot_be_the_log_is_refused() {
    let house = House::start().await;
    let context = async_nats::jetstream::new(house.client().await);
    let stream = async_nats::jetstream::stream::Config {
        name: "OTHER".to_owned(),
        subjects: vec!["other.>".to_owned()],
        ..Default::default()
    };
    context.create_stream(stream).await.unwrap();
    let options = JetStreamOptions { stream: "OTHER".to_owned(), ..house.options() };
    let refused = JetStreamLog::open(&options).await.err().unwrap().to_string();
    assert!(refused.contains("OTHER cannot be the log"), "{refused}");
    let options = JetStreamOptions { url: "nats://127.0.0.1:1".to_owned(), ..options };
    let refused = JetStreamLog::open(&options).await.err().unwrap().to_string();
    assert_eq!(refused, "connecting to nats://127.0.0.1:1");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: tests/run"]
async fn a_start_asks_again_before_it_says_that_the_log_has_lost_events() {
    let house = House::start().await;
    house.publish("shop.sold", "k", 1).await;
    house.run(Vec::new()).await.stop().await;
    let mut tx = house.db.begin().await.unwrap();
    let ahead = sql("update consumer_partition set cursor_seq = 3 where consumer = $1
         and partition = (select min(partition) from consumer_partition where consumer = $1)");
    assert_eq!(tx.execute(ahead.bind("ingest".to_owned())).await.unwrap().rows_affected(), 1);
    tx.commit().await.unwrap();
    let refused = house.try_node(Vec::new(), true).await.err().unwrap();
    assert!(refused.to_string().contains("it has lost events"), "{refused}");
    // As a server does that has been cut off and catches up.
    let catch_up = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        house.publish("shop.sold", "k", 2).await;
        house.publish("shop.sold", "k", 3).await;
    };
    let (started, ()) = tokio::join!(house.try_node(Vec::new(), true), catch_up);
    started.unwrap().stop().await;
}
