//! Faults drawn at random under load, one after the other, and the whole of the oracle at the end.

use std::fmt::Arguments;
use std::io::Write as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use skald_tests::seed;
use tokio::time::{Instant, sleep};

use super::fault::{Fault, Probe};
use super::site::{Site, TAKEOVER};
use super::traffic::Traffic;
use super::{leases, ledger};
use crate::load::effects::{assert_counted_once, assert_nothing_accepted_is_lost, whole_log};
use crate::load::workers::drain;

/// So many rounds on each site, unless `SKALD_TEST_FAULT_ROUNDS` says otherwise.
const ROUNDS: usize = 11;

#[tokio::test(flavor = "multi_thread")]
async fn one_nats_server_and_two_nodes_get_over_any_fault() {
    go_through("one server", 1, Fault::WITH_ONE_SERVER).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nats_servers_and_two_nodes_get_over_any_fault() {
    go_through("three servers", 3, Fault::WITH_THREE_SERVERS).await;
}

/// Past the capture of the test's output: recovery times are to be seen of tests that pass too.
fn tell(line: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn rounds() -> usize {
    match std::env::var("SKALD_TEST_FAULT_ROUNDS") {
        Ok(text) => text.parse().expect("SKALD_TEST_FAULT_ROUNDS is a number"),
        Err(_) => ROUNDS,
    }
}

/// Every kind as often as any other, or once more, in an order drawn at random; only those that
/// `SKALD_TEST_FAULT` names, with commas between them, if it does.
fn deck(kinds: &[Fault], rounds: usize, random: &mut StdRng) -> Vec<Fault> {
    let mut all = kinds.to_vec();
    if let Ok(only) = std::env::var("SKALD_TEST_FAULT") {
        all.retain(|kind| only.split(',').any(|name| format!("{kind:?}") == name));
        assert!(!all.is_empty(), "SKALD_TEST_FAULT names some of {kinds:?}");
    }
    all.shuffle(random);
    let mut deck: Vec<Fault> = all.into_iter().cycle().take(rounds).collect();
    deck.shuffle(random);
    deck
}

async fn go_through(name: &str, servers: usize, kinds: &[Fault]) {
    let seed = seed();
    tell(format_args!("faults, {name}: SKALD_TEST_SEED={seed}"));
    let started = Instant::now();
    let mut random = StdRng::seed_from_u64(seed);
    let mut site = Site::start(servers).await;
    let traffic = Traffic::start(&site.clients(), seed);
    let mut probe = Probe::new(&site);

    for (round, fault) in deck(kinds, rounds(), &mut random).into_iter().enumerate() {
        // The moment is drawn, not waited for: any instant must do.
        sleep(Duration::from_micros(random.random_range(200_000..1_200_000))).await;
        let refused = &traffic.refusals;
        let before = refused.publishes.load(Ordering::Relaxed);
        let took = probe.go_through(fault, &mut site, &mut random, &traffic.journal).await;
        let healed = Instant::now();
        site.nats.well().await;
        site.ready().await;
        site.shared().await;
        traffic.flows(TAKEOVER).await;
        // Now, when nobody waits for what it cost any more.
        let told = refused.publishes.load(Ordering::Relaxed) - before;
        tell(format_args!(
            "faults, {name}: {:>2} {:<18} published after {:>4.1} s, recovered after {:>5.1} s, shared again after {:>4.1} s, {told} publishes refused",
            round + 1,
            format!("{fault:?}"),
            took.published.as_secs_f64(),
            took.done.as_secs_f64(),
            healed.elapsed().as_secs_f64(),
        ));
        assert!(took.done <= fault.limit(), "{fault:?}: {took:?}");
        assert!(told == 0 || !fault.is_hidden(), "{fault:?}: {told} publishes were refused");
    }

    let refused = traffic.refusals.leases.load(Ordering::Relaxed);
    let journal = traffic.end(&site.nodes[0]).await;
    drain(&site.nodes[1], &journal).await;
    let log = whole_log(&site.nodes[0]).await;
    assert_eq!(log, whole_log(&site.nodes[1]).await, "both nodes tell the same");
    assert_nothing_accepted_is_lost(&log, &journal);
    ledger::assert_each_once_and_in_order(&site.postgres, &log).await;
    assert_counted_once(&site.nodes[0], log.len()).await;
    let seen = leases::assert_one_at_a_time_and_in_order(&log, &journal);
    tell(format_args!(
        "faults, {name}: {} events, {} leases, {} events leased again, {refused} lease calls refused, {:.0} s in all",
        log.len(),
        seen.leases,
        seen.repeated,
        started.elapsed().as_secs_f64(),
    ));
}
