//! Replays: to one consumer, what it has not done or all of it, over any restart.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bus::replay::{self, Mode, NewReplay, Replay, Status};
use bus::{Failure, Registration, Seq, registry};

use crate::house::{House, Numbered, eventually, in_order, scripted};

const ALL: NewReplay =
    NewReplay { types: None, from: Seq::new(1), to: None, mode: Mode::SkipDone, rate: None };

async fn consumer(house: &House) -> Registration {
    registry::find(&house.db, "scripted").await.unwrap().unwrap()
}

async fn start(house: &House, new: &NewReplay) -> Replay {
    let consumer = consumer(house).await;
    replay::start(&house.db, house.log.as_ref(), &consumer, new, "test").await.unwrap()
}

async fn dry_run(house: &House) -> replay::DryRun {
    let consumer = consumer(house).await;
    replay::dry_run(&house.db, house.log.as_ref(), &consumer, &ALL).await.unwrap()
}

async fn ended(house: &House, replay: &Replay) -> Replay {
    eventually(|| async {
        let found = replay::find(&house.db, &replay.id).await.unwrap().unwrap();
        found.status == Status::Completed
    })
    .await;
    replay::find(&house.db, &replay.id).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repaired_consumer_gets_what_it_could_not_do_and_nothing_twice() {
    let house = House::start().await;
    let broken = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&broken);
    let script = move |event: &schemas::Event, _: i64| {
        let odd = event.data_as::<Numbered>().unwrap().n == 1;
        if odd && state.load(Ordering::SeqCst) {
            return Err(Failure::permanent("a bug"));
        }
        Ok(())
    };
    let running = house.run(vec![scripted(script)]).await;
    for n in 0..10 {
        house.publish("a", "k", n % 2).await;
    }
    house.settled("scripted").await;
    assert_eq!(house.dead_letters("scripted").await.len(), 5);
    let what = dry_run(&house).await;
    assert_eq!((what.total, what.done_already, what.would_send), (10, 5, 5));
    broken.store(false, Ordering::SeqCst);
    let started = start(&house, &ALL).await;
    let ended = ended(&house, &started).await;
    assert_eq!((ended.total, ended.done, ended.skipped, ended.dead), (10, 5, 5, 0));
    assert_eq!(house.effects("k").await.len(), 10);
    assert!(house.dead_letters("scripted").await.is_empty());
    assert_eq!(dry_run(&house).await.would_send, 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_replay_does_all_again_and_survives_a_restart() {
    let house = House::start().await;
    let running = house.run(vec![scripted(|_, _| Ok(()))]).await;
    for n in 0..200 {
        house.publish("a", "k", n).await;
    }
    house.settled("scripted").await;
    let force = NewReplay { mode: Mode::Force, rate: Some("400/s".parse().unwrap()), ..ALL };
    let started = start(&house, &force).await;
    eventually(|| async { house.effects("k").await.len() > 220 }).await;
    running.stop().await;
    let house = house.reopened().await;
    let running = house.run(vec![scripted(|_, _| Ok(()))]).await;
    let ended = ended(&house, &started).await;
    assert_eq!((ended.total, ended.done, ended.skipped), (200, 200, 0));
    running.stop().await;
    assert_eq!(house.effects("k").await.len(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_before_the_registration_are_not_done() {
    let house = House::start().await;
    for n in 0..5 {
        house.publish("a", "k", n).await;
    }
    let running = house.run(vec![scripted(|_, _| Ok(()))]).await;
    house.settled("scripted").await;
    // As if it had been registered after the third event.
    let mut tx = house.db.begin().await.unwrap();
    for text in [
        "update consumer_coverage set from_seq = 4 where consumer = 'scripted'",
        "delete from effect where n < 3",
    ] {
        tx.execute(bus::sql(text)).await.unwrap();
    }
    tx.commit().await.unwrap();
    let ended = ended(&house, &start(&house, &ALL).await).await;
    assert_eq!((ended.done, ended.skipped), (3, 2));
    assert_eq!(dry_run(&house).await.would_send, 0, "what a replay did is done");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_paused_resumed_and_cancelled() {
    let house = House::start().await;
    let running = house.run(vec![scripted(|_, _| Ok(()))]).await;
    for n in 0..100 {
        house.publish("a", "k", n).await;
    }
    house.settled("scripted").await;
    let slow = NewReplay { mode: Mode::Force, rate: Some("20/s".parse().unwrap()), ..ALL };
    let started = start(&house, &slow).await;
    let change = |to| replay::change(&house.db, &started.id, to);
    assert_eq!(change(Status::Paused).await.unwrap().unwrap().status, Status::Paused);
    assert!(change(Status::Paused).await.unwrap().is_none());
    assert_eq!(change(Status::Running).await.unwrap().unwrap().status, Status::Running);
    eventually(|| async { house.effects("k").await.len() > 102 }).await;
    assert_eq!(change(Status::Cancelled).await.unwrap().unwrap().status, Status::Cancelled);
    house.settled("scripted").await;
    assert!(house.effects("k").await.len() < 200);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_replay_lets_go_of_the_keys_that_it_held() {
    let house = House::start().await;
    let running = house.run(vec![in_order(|_, _| Ok(()))]).await;
    house.publish("a", "k", 0).await;
    house.settled("in-order").await;
    // Its queue stands still, so the row of the replay stays in front of its key.
    let queue = house.queue("in-order").await;
    pause(&house, queue, true).await;
    let consumer = registry::find(&house.db, "in-order").await.unwrap().unwrap();
    let force = NewReplay { mode: Mode::Force, ..ALL };
    let log = house.log.as_ref();
    let started = replay::start(&house.db, log, &consumer, &force, "test").await.unwrap();
    eventually(|| async {
        replay::find(&house.db, &started.id).await.unwrap().unwrap().handed == 1
    })
    .await;
    house.publish("a", "k", 1).await;
    eventually(|| async {
        let counts = bus::work::counts(&house.db, queue).await.unwrap();
        counts.iter().any(|(state, ..)| state == "behind")
    })
    .await;
    replay::change(&house.db, &started.id, Status::Cancelled).await.unwrap().unwrap();
    pause(&house, queue, false).await;
    house.settled("in-order").await;
    running.stop().await;
    assert_eq!(house.effects("k").await, [0, 1]);
}

async fn pause(house: &House, queue: bus::work::QueueId, paused: bool) {
    let mut tx = house.db.begin().await.unwrap();
    bus::work::set_paused(&mut tx, queue, paused).await.unwrap();
    tx.commit().await.unwrap();
}
