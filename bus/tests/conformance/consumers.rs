//! Consumers: each effect once, failures out of line.

use std::sync::Arc;

use bus::dead_letter::Selection;
use bus::{
    BatchConsumer, Failure, Handler, Kind, Policy, Recorded, Tx, Whole, dead_letter, registry,
};
use schemas::Patterns;

use crate::house::{House, QUICK, eventually, n_of, scripted, write_effect};

#[tokio::test(flavor = "multi_thread")]
async fn every_event_has_its_effect_once() {
    let house = House::start().await;
    for n in 0..300 {
        house.publish("a", "k", n).await;
    }
    let running = house.run(vec![scripted(|_, _| Ok(()))]).await;
    house.settled("scripted").await;
    running.stop().await;
    let house = house.reopened().await;
    for n in 300..400 {
        house.publish("a", "k", n).await;
    }
    let running = house.run(vec![scripted(|_, _| Ok(()))]).await;
    house.settled("scripted").await;
    running.stop().await;
    assert_eq!(house.effects("k").await, (0..400).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_takes_back_its_own_effects_and_is_tried_again_out_of_line() {
    let house = House::start().await;
    let running = house
        .run(vec![scripted(|event, attempt| match (n_of(event), attempt) {
            (3, 1 | 2) => Err(Failure::transient("not yet")),
            _ => Ok(()),
        })])
        .await;
    for n in 0..6 {
        house.publish("a", "k", n).await;
    }
    house.settled("scripted").await;
    running.stop().await;
    let mut effects = house.effects("k").await;
    assert_eq!(effects.len(), 6);
    effects.sort_unstable();
    assert_eq!(effects, [0, 1, 2, 3, 4, 5]);
    assert!(house.dead_letters("scripted").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_a_dead_letter_with_its_event() {
    let house = House::start().await;
    let running = house
        .run(vec![scripted(|event, _| match n_of(event) {
            1 => Err(Failure::permanent("ne\0ver")),
            2 => Err(Failure::transient("not today")),
            3 => panic!("at the disco"),
            _ => Ok(()),
        })])
        .await;
    for n in 0..5 {
        house.publish("a", "k", n).await;
    }
    house.settled("scripted").await;
    let mut letters = house.dead_letters("scripted").await;
    letters.sort_by_key(|letter| letter.seq);
    let told: Vec<_> =
        letters.iter().map(|letter| (letter.error.as_str(), letter.attempts)).collect();
    assert_eq!(told, [("ne\u{fffd}ver", 1), ("not today", 3), ("panicked: at the disco", 3)]);
    assert!(
        letters.iter().all(|letter| letter.event.as_ref().is_some_and(|e| e.contains("\"n\"")))
    );
    assert_eq!(house.effects("k").await, [0, 4]);
    let queue = house.queue("scripted").await;
    let groups = async |which, limit, skip| {
        let groups = dead_letter::groups(&house.db, queue, &which, limit, skip).await.unwrap();
        groups.into_iter().map(|group| group.error).collect::<Vec<_>>()
    };
    let all = Selection::default();
    assert_eq!(groups(all.clone(), 2, 0).await, ["ne\u{fffd}ver", "not today"]);
    assert_eq!(groups(all, 2, 2).await, ["panicked: at the disco"]);
    let some = Selection { error: Some("disco".to_owned()), ..Selection::default() };
    assert_eq!(groups(some, 2, 0).await, ["panicked: at the disco"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redriven_letter_is_tried_anew_and_may_be_edited() {
    let house = House::start().await;
    let running = house
        .run(vec![scripted(|event, _| match n_of(event) {
            7 => Ok(()),
            _ => Err(Failure::permanent("not seven")),
        })])
        .await;
    house.publish("a", "k", 1).await;
    house.publish("a", "k", 2).await;
    house.settled("scripted").await;
    let queue = house.queue("scripted").await;
    let letter = house.dead_letters("scripted").await.pop().unwrap();
    let event = schemas::Event::from_json(letter.event.unwrap().as_bytes()).unwrap();
    let edited = event.with_json(serde_json::json!({"n": 7, "key": "k"})).unwrap();
    let which = dead_letter::Selection { ids: vec![letter.id], ..Default::default() };
    let mut tx = house.db.begin().await.unwrap();
    assert_eq!(dead_letter::redrive(&mut tx, queue, &which, Some(&edited)).await.unwrap(), 1);
    tx.commit().await.unwrap();
    eventually(|| async { house.effects("k").await == [7] }).await;

    let all = dead_letter::Selection { error: Some("not sev".into()), ..Default::default() };
    assert_eq!(dead_letter::count(&house.db, queue, &all).await.unwrap(), 1);
    let mut tx = house.db.begin().await.unwrap();
    assert_eq!(dead_letter::redrive(&mut tx, queue, &all, None).await.unwrap(), 1);
    tx.commit().await.unwrap();
    house.settled("scripted").await;
    assert_eq!(house.dead_letters("scripted").await.len(), 1, "what fails again is dead again");
    let mut tx = house.db.begin().await.unwrap();
    assert_eq!(dead_letter::discard(&mut tx, queue, &all).await.unwrap(), 1);
    tx.commit().await.unwrap();
    assert!(house.dead_letters("scripted").await.is_empty());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_consumer_stands_still_and_misses_nothing() {
    let house = House::start().await;
    let running = house.run(vec![scripted(|_, _| Ok(()))]).await;
    house.publish("a", "k", 0).await;
    house.settled("scripted").await;
    pause(&house, true).await;
    let last = house.publish("a", "k", 1).await.seq;
    // Another consumer that passes the event shows that it had its time.
    eventually(|| async {
        let other = registry::find(&house.db, "index-lineage").await.unwrap().unwrap();
        registry::position(&house.db, &other).await.unwrap() >= last
    })
    .await;
    assert_eq!(house.effects("k").await, [0]);
    pause(&house, false).await;
    house.settled("scripted").await;
    running.stop().await;
    assert_eq!(house.effects("k").await, [0, 1]);
}

pub(crate) async fn pause(house: &House, paused: bool) {
    let mut tx = house.db.begin().await.unwrap();
    let known = registry::find_in(&mut tx, "scripted").await.unwrap().unwrap();
    let wanted = bus::Registration { paused, ..known };
    assert!(registry::update(&mut tx, &wanted, "test").await.unwrap());
    tx.commit().await.unwrap();
}

/// Writes its events in bulk and refuses any batch with a negative number in it.
struct Bulk;

impl BatchConsumer for Bulk {
    const NAME: &'static str = "bulk";
    const POLICY: Policy = QUICK;

    fn types(&self) -> Patterns {
        Patterns::any()
    }

    async fn handle(
        &self,
        events: &[Arc<Recorded>],
        _generation: i64,
        tx: &mut Tx,
    ) -> Result<(), Failure> {
        for event in events {
            write_effect(&event.event, tx).await?;
            if n_of(&event.event) < 0 {
                return Err(Failure::permanent("negative"));
            }
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_fails_is_halved_until_the_event_at_fault_is_found() {
    let house = House::start().await;
    for n in 0..100 {
        house.publish("a", "k", if n == 37 || n == 38 { -n } else { n }).await;
    }
    let handler: Arc<dyn Handler> = Arc::new(Whole::new(Bulk, Kind::Rust));
    let running = house.run(vec![handler]).await;
    house.settled("bulk").await;
    running.stop().await;
    let expected: Vec<i64> = (0..100).filter(|n| *n != 37 && *n != 38).collect();
    assert_eq!(house.effects("k").await, expected);
    assert_eq!(house.dead_letters("bulk").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_replaced_is_noticed() {
    let house = House::start().await;
    let running = house.run(Vec::new()).await;
    house.publish("a", "k", 0).await;
    running.stop().await;
    let other = House::start().await;
    let platform = bus::Platform {
        db: house.db.clone(),
        log: Arc::clone(&other.log),
        handlers: Vec::new(),
        targets: Vec::new(),
        retention: Vec::new(),
        inbox: std::time::Duration::from_secs(3_600),
        alone: true,
    };
    let refused = platform.start().await.err().unwrap().to_string();
    assert!(refused.contains("belongs to another log"), "{refused}");
}
