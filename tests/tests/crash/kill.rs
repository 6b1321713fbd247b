//! `kill -9` at moments drawn at random, under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use skald_tests::{Client, House, seed};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::load::effects::{
    assert_counted_once, assert_each_done_once_and_in_order, assert_nothing_accepted_is_lost,
    whole_log,
};
use crate::load::journal::Journal;
use crate::load::producers::Producer;
use crate::load::workers::{self, CONSUMER, drain};

const ROUNDS: usize = 22;
const PRODUCERS: usize = 3;
const WORKERS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_nothing_is_lost_repeated_or_out_of_order() {
    let seed = seed();
    eprintln!("SKALD_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut house = House::start().await;
    let policy = json!({"ordered": true, "attempts_max": 100});
    house.pull_consumer(CONSUMER, "crash.>", policy).await;
    let journal = Arc::new(Journal::default());
    let mut producers: Vec<Producer> =
        (0..PRODUCERS).map(|name| Producer::new(name, seed)).collect();

    for _ in 0..ROUNDS {
        let stop = Arc::new(AtomicBool::new(false));
        let client = Client::clone(&house);
        let producing: Vec<JoinHandle<Producer>> = producers
            .drain(..)
            .map(|producer| {
                let (client, journal) = (client.clone(), Arc::clone(&journal));
                tokio::spawn(producer.run(client, journal, Arc::clone(&stop)))
            })
            .collect();
        let working: Vec<JoinHandle<()>> = (0..WORKERS)
            .map(|_| {
                let (client, journal) = (client.clone(), Arc::clone(&journal));
                tokio::spawn(workers::work(client, journal, Arc::clone(&stop), random.random()))
            })
            .collect();
        // The moment is drawn, not waited for: any instant must do.
        let moment = Instant::now() + Duration::from_micros(random.random_range(150_000..700_000));
        tokio::time::sleep_until(moment).await;
        house.kill_9();
        stop.store(true, Ordering::Relaxed);
        producers = joined(producing).await;
        joined(working).await;
        house.restart().await;
    }

    for producer in producers {
        producer.finish(&house, &journal).await;
    }
    drain(&house, &journal).await;
    let log = whole_log(&house).await;
    assert!(journal.accepted_count() > ROUNDS * 10, "there was a load");
    assert_nothing_accepted_is_lost(&log, &journal);
    assert_counted_once(&house, log.len()).await;
    assert_each_done_once_and_in_order(&log, &journal);
    eprintln!("{} events, {} leases and answers", log.len(), journal.read().len());
    let figures = house.consumer(CONSUMER).await;
    assert_eq!((&figures["in_flight"], &figures["dead"]), (&json!(0), &json!(0)), "{figures}");
}

async fn joined<T>(tasks: Vec<JoinHandle<T>>) -> Vec<T> {
    join_all(tasks).await.into_iter().map(|task| task.expect("no panic")).collect()
}
