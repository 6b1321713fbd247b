//! Orders flow while anything fails, for as long as one likes: `SKALD_TEST_CHAOS_SECONDS` (45 each
//! without it) on one node, and on two with three NATS servers and Postgres.
//!
//! `stage` is all processes, `fault` what is done to them, `orders` who publishes, packs and receives,
//! `ending` what must be true when all has come to rest. `SKALD_TEST_SEED` has the same faults drawn
//! again.

mod ending;
mod fault;
mod orders;
mod stage;

use std::fmt::Arguments;
use std::io::Write as _;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use skald_tests::seed;
use tokio::time::{Instant, sleep};

use fault::{Fault, Tally};
use orders::Flow;
use stage::Stage;

/// How long each profile's run lasts.
fn length() -> Duration {
    let seconds = std::env::var("SKALD_TEST_CHAOS_SECONDS").unwrap_or_else(|_| "45".to_owned());
    Duration::from_secs(seconds.parse().expect("SKALD_TEST_CHAOS_SECONDS is a number"))
}

/// Past the capture of the test's output: seed and table are to be seen of runs that pass too.
fn tell(line: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_come_through_on_one_node() {
    run("embedded", Stage::embedded().await, Fault::EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_come_through_on_two_nodes_three_brokers_and_postgres() {
    run("distributed", Stage::distributed().await, Fault::DISTRIBUTED).await;
}

async fn run(profile: &str, mut stage: Stage, kinds: &[Fault]) {
    let seed = seed();
    tell(format_args!("chaos, {profile}: SKALD_TEST_SEED={seed}"));
    let mut random = StdRng::seed_from_u64(seed);
    let flow = Flow::start(&stage).await;
    let (end, mut tally) = (Instant::now() + length(), Tally::default());
    // Each kind once before any comes again.
    let mut deck: Vec<Fault> = Vec::new();
    while Instant::now() < end {
        if deck.is_empty() {
            deck = kinds.to_vec();
        }
        // The moment is drawn, not waited for: any instant must do.
        sleep(Duration::from_millis(random.random_range(200..1_500))).await;
        let fault = deck.swap_remove(random.random_range(0..deck.len()));
        let started = Instant::now();
        fault.strike(&mut stage, &mut random).await;
        stage.well().await;
        tally.note(fault, started.elapsed());
    }
    let done = flow.end(&stage).await;
    ending::assert_all_adds_up(&stage, &done).await;
    for line in tally.table().into_iter().chain(done.table()) {
        tell(format_args!("chaos, {profile}: {line}"));
    }
}
