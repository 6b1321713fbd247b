//! The outbox: an event is published if, and only if, its transaction commits.

use bus::{Read, Seq, outbox};

use crate::house::{House, Numbered, event, eventually, n_of, scripted};

#[tokio::test(flavor = "multi_thread")]
async fn a_staged_event_is_published_with_its_transaction_and_only_then() {
    let house = House::start().await;
    let running = house.run(Vec::new()).await;
    let mut tx = house.db.begin().await.unwrap();
    tx.stage(&event("a", "k", 1)).unwrap();
    drop(tx);
    let mut tx = house.db.begin().await.unwrap();
    tx.stage(&event("a", "k", 2)).unwrap();
    tx.commit().await.unwrap();
    let mut head = house.log.head();
    head.wait_for(|head| *head >= Seq::new(1)).await.unwrap();
    let page = house.log.read(Read::after(Seq::ZERO)).await.unwrap();
    assert_eq!(page.events.len(), 1);
    assert_eq!(page.events[0].event.data_as::<Numbered>().unwrap().n, 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_died_between_publishing_and_deleting_publishes_nothing_twice() {
    let house = House::start().await;
    let staged: Vec<_> = (0..50).map(|n| event("a", "k", n)).collect();
    let mut tx = house.db.begin().await.unwrap();
    staged.iter().for_each(|event| tx.stage(event).unwrap());
    tx.commit().await.unwrap();
    house.log.publish_all(staged).await.unwrap(); // What the relay did before it died.
    let mut aside = outbox::Aside::default();
    let mut relay =
        async || outbox::relay_round(&house.db, house.log.as_ref(), &mut aside).await.unwrap();
    assert_eq!(relay().await, 50);
    assert_eq!(house.head().await, Seq::new(50));
    assert_eq!(relay().await, 0);
}

/// Publishes a follow-up to each event of type `first`.
struct FollowUp;

impl bus::Consumer for FollowUp {
    type Event = schemas::Event;
    const NAME: &'static str = "follow-up";

    async fn handle(
        &self,
        cause: schemas::Event,
        delivery: &mut bus::Delivery<'_>,
    ) -> Result<(), bus::Failure> {
        if cause.kind.as_str() == "first" {
            delivery.publish(event("second", "k", 0))?;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_of_an_event_is_found_from_it() {
    let house = House::start().await;
    let follow = bus::Each::new(FollowUp, bus::Kind::Rust).unwrap();
    let running = house.run(vec![std::sync::Arc::new(follow), scripted(|_, _| Ok(()))]).await;
    let first = house.publish("first", "k", 1).await;
    house.publish("unrelated", "k", 2).await;
    let root = house.log.get(&[first.seq]).await.unwrap().remove(0);
    eventually(|| async {
        let trace = bus::lineage::trace(&house.db, house.log.as_ref(), &root).await.unwrap();
        trace.iter().any(|event| event.event.kind.as_str() == "second")
    })
    .await;
    let trace = bus::lineage::trace(&house.db, house.log.as_ref(), &root).await.unwrap();
    assert_eq!(trace.len(), 1);
    assert_eq!(trace[0].event.causationid(), Some(root.event.id.as_str()));
    assert_eq!(trace[0].event.correlationid(), Some(root.event.id.as_str()));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_would_refuse_is_refused_when_it_is_staged() {
    let house = House::start().await;
    let mut tx = house.db.begin().await.unwrap();
    let large = event("a", "k", 1).with_json("x".repeat(1_100_000)).unwrap();
    assert!(matches!(tx.stage(&large), Err(bus::StageError::TooLarge(_))));
    let broken = event("a", "k", 1).with_subject("two\nlines");
    assert!(matches!(tx.stage(&broken), Err(bus::StageError::Invalid(_))));
}

/// Stages an event for the first, and takes all back that it did for the second.
struct Flushing;

impl bus::Consumer for Flushing {
    type Event = schemas::Event;
    const NAME: &'static str = "flushing";

    async fn handle(
        &self,
        cause: schemas::Event,
        delivery: &mut bus::Delivery<'_>,
    ) -> Result<(), bus::Failure> {
        if cause.kind.as_str() == "staged" {
            return Ok(());
        }
        delivery.publish(event("staged", "k", n_of(&cause)))?;
        if n_of(&cause) == 0 {
            return Ok(());
        }
        delivery.tx().flush().await?;
        Err(bus::Failure::permanent("not this one"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_event_staged_is_not_undone_with_another() {
    let house = House::start().await;
    // Both at once, so that they share a transaction.
    house.log.publish_all(vec![event("a", "k", 0), event("a", "k", 1)]).await.unwrap();
    let flushing = bus::Each::new(Flushing, bus::Kind::Rust).unwrap();
    let running = house.run(vec![std::sync::Arc::new(flushing)]).await;
    let staged = Read::after(Seq::ZERO).types("staged".parse::<schemas::Pattern>().unwrap().into());
    eventually(|| async { house.log.read(staged.clone()).await.unwrap().events.len() == 1 }).await;
    house.settled("flushing").await;
    running.stop().await;
    let page = house.log.read(staged).await.unwrap();
    assert_eq!(page.events.len(), 1);
    assert_eq!(n_of(&page.events[0].event), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_log_never_takes_holds_up_no_other() {
    let house = House::start().await;
    // As one is that a broker takes less of than what is checked when it is staged.
    let large = event("a", "k", 1).with_json("x".repeat(1_100_000)).unwrap();
    for event in [event("a", "k", 0), large, event("a", "k", 2)] {
        let mut tx = house.db.begin().await.unwrap();
        let json = String::from_utf8(event.to_json()).unwrap();
        tx.execute(bus::sql("insert into outbox (event) values ($1)").bind(json)).await.unwrap();
        tx.commit().await.unwrap();
    }
    let mut aside = outbox::Aside::default();
    for relayed in [2, 0] {
        let round = outbox::relay_round(&house.db, house.log.as_ref(), &mut aside).await;
        assert_eq!(round.unwrap(), relayed);
    }
    assert_eq!(house.events().await.iter().map(|e| n_of(&e.event)).collect::<Vec<_>>(), [0, 2]);
    let left = house.db.fetch_all(bus::sql("select id from outbox")).await.unwrap();
    assert_eq!(left.len(), 1, "it is not lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_large_events_the_relay_reads_fewer_at_once_and_passes_over_none() {
    let house = House::start().await;
    for n in 0..24 {
        let mut tx = house.db.begin().await.unwrap();
        tx.stage(&event("a", "k", n).with_json("x".repeat(1_000_000)).unwrap()).unwrap();
        tx.commit().await.unwrap();
    }
    let mut aside = outbox::Aside::default();
    let mut relay =
        async || outbox::relay_round(&house.db, house.log.as_ref(), &mut aside).await.unwrap();
    // Nine are the first that are more than 8 MiB together.
    for relayed in [9, 9, 6, 0] {
        assert_eq!(relay().await, relayed);
    }
    assert_eq!(house.head().await, Seq::new(24));
}
