//! Work: leased to one at a time, within limits, ended once.

use std::collections::HashSet;
use std::time::Duration;

use bus::work::{
    self, Claim, Claimed, Ending, LeaseToken, NewWork, Outcome, QueueId, SharedLimit, Verdict,
    WorkId,
};
use bus::{Policy, Seq, Span};

use crate::house::House;

const LEASE: Duration = Duration::from_secs(60);

async fn queue(house: &House, name: &str, policy: &Policy) -> QueueId {
    let mut tx = house.db.begin().await.unwrap();
    let queue = work::define(&mut tx, "test", name, policy, &[]).await.unwrap();
    tx.commit().await.unwrap();
    queue
}

async fn put(house: &House, rows: impl IntoIterator<Item = NewWork>) {
    let mut tx = house.db.begin().await.unwrap();
    rows.into_iter().for_each(|row| tx.enqueue(row));
    tx.commit().await.unwrap();
}

async fn claim(house: &House, max: usize) -> Vec<Claimed> {
    claim_for(house, max, LEASE).await
}

async fn claim_for(house: &House, max: usize, lease: Duration) -> Vec<Claimed> {
    let claim = Claim { kind: "test", queue: None, max, lease, owner: None };
    work::claim(&house.db, &claim).await.unwrap()
}

async fn settle(house: &House, rows: &[(WorkId, LeaseToken)], outcome: Outcome) -> Vec<Verdict> {
    let answers: Vec<_> = rows.iter().map(|(id, token)| (*id, *token, outcome.clone())).collect();
    let mut tx = house.db.begin().await.unwrap();
    let settled = work::settle(&mut tx, None, &answers).await.unwrap();
    tx.commit().await.unwrap();
    settled.iter().map(|row| row.verdict).collect()
}

fn leases(rows: &[Claimed]) -> Vec<(WorkId, LeaseToken)> {
    rows.iter().map(|row| (row.id, row.token)).collect()
}

fn failed(delay: Option<Duration>) -> Outcome {
    Outcome::Failed { error: "no".into(), permanent: false, delay }
}

const DONE: Outcome = Outcome::Done { output: None };

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_leased_to_one_at_a_time() {
    let house = House::start().await;
    let queue = queue(&house, "q", &Policy::DEFAULT).await;
    put(&house, (0..500).map(|_| NewWork::in_queue(queue))).await;
    let mut seen = HashSet::new();
    let (a, b) = tokio::join!(claim(&house, 300), claim(&house, 300));
    // Of two at once, one may find the queue taken and get nothing.
    let rest = claim(&house, 500).await;
    for row in a.iter().chain(&b).chain(&rest) {
        assert!(seen.insert(row.id));
    }
    assert_eq!(seen.len(), 500);
    assert!(claim(&house, 10).await.is_empty());
    let a = if a.is_empty() { b } else { a };
    let verdicts = settle(&house, &leases(&a), DONE).await;
    assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Done));
    let again = settle(&house, &leases(&a), DONE).await;
    assert!(again.iter().all(|verdict| *verdict == Verdict::Expired));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_token_changes_nothing() {
    let house = House::start().await;
    let queue = queue(&house, "q", &Policy::DEFAULT).await;
    put(&house, [NewWork::in_queue(queue)]).await;
    let rows = claim(&house, 1).await;
    let forged: LeaseToken = "0123456789abcdef".parse().unwrap();
    assert_eq!(settle(&house, &[(rows[0].id, forged)], DONE).await, [Verdict::Expired]);
    let mut tx = house.db.begin().await.unwrap();
    let extended = work::extend(&mut tx, queue, &[(rows[0].id, forged)], LEASE).await.unwrap();
    assert!(extended[0].expires_at.is_none());
    tx.commit().await.unwrap();
    assert_eq!(settle(&house, &leases(&rows), DONE).await, [Verdict::Done]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_answered_in_time_comes_back() {
    let house = House::start().await;
    let policy = Policy { attempts_max: 2, ..Policy::DEFAULT };
    let queue = queue(&house, "q", &policy).await;
    put(&house, [NewWork { seq: Some(Seq::new(1)), ..NewWork::in_queue(queue) }]).await;
    for attempt in 1..=2 {
        let rows = claim_for(&house, 1, Duration::ZERO).await;
        assert_eq!(rows[0].attempt, attempt);
        assert_eq!(settle(&house, &leases(&rows), DONE).await, [Verdict::Expired]);
        let mut tx = house.db.begin().await.unwrap();
        let rescued = work::rescue(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        let expected = if attempt == 2 { Verdict::Dead } else { Verdict::Again };
        assert_eq!(rescued[0].verdict, expected);
    }
    assert!(claim(&house, 1).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extended_lease_lasts() {
    let house = House::start().await;
    let queue = queue(&house, "q", &Policy::DEFAULT).await;
    put(&house, [NewWork::in_queue(queue)]).await;
    let rows = claim_for(&house, 1, Duration::from_millis(200)).await;
    let mut tx = house.db.begin().await.unwrap();
    let extended = work::extend(&mut tx, queue, &leases(&rows), LEASE).await.unwrap();
    assert!(extended[0].expires_at > Some(rows[0].expires_at));
    tx.commit().await.unwrap();
    tokio::time::sleep(Duration::from_millis(250)).await;
    let mut tx = house.db.begin().await.unwrap();
    assert!(work::rescue(&mut tx).await.unwrap().is_empty());
    drop(tx);
    assert_eq!(settle(&house, &leases(&rows), DONE).await, [Verdict::Done]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_due_after_its_delay_and_the_last_one_is_dead() {
    let house = House::start().await;
    let policy = Policy { attempts_max: 2, ..Policy::DEFAULT };
    let queue = queue(&house, "q", &policy).await;
    put(&house, [NewWork::in_queue(queue)]).await;
    let rows = claim(&house, 1).await;
    let hour = Some(Duration::from_secs(3_600));
    assert_eq!(settle(&house, &leases(&rows), failed(hour)).await, [Verdict::Again]);
    assert!(claim(&house, 1).await.is_empty());
    let due = work::next_due(&house.db, "test", None).await.unwrap().unwrap();
    assert!(due.as_micros() > house.clock.now().as_micros() + 3_500_000_000);
    // An hour later, by the clock that all times come from.
    house.clock.not_before(due);
    let rows = claim(&house, 1).await;
    assert_eq!(rows[0].attempt, 2);
    assert_eq!(settle(&house, &leases(&rows), failed(None)).await, [Verdict::Dead]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_are_leased_than_may_run_at_once() {
    let house = House::start().await;
    let policy = Policy { max_concurrent: Some(3), ..Policy::DEFAULT };
    let queue = queue(&house, "q", &policy).await;
    put(&house, (0..10).map(|_| NewWork::in_queue(queue))).await;
    let rows = claim(&house, 10).await;
    assert_eq!(rows.len(), 3);
    assert!(claim(&house, 10).await.is_empty());
    settle(&house, &leases(&rows[..2]), DONE).await;
    assert_eq!(claim(&house, 10).await.len(), 2);
    settle(&house, &leases(&rows[2..]), failed(Some(Duration::from_secs(60)))).await;
    assert_eq!(claim(&house, 10).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_kept_over_all_claims() {
    let house = House::start().await;
    let policy = Policy { rate: Some("0.5/s".parse().unwrap()), burst: 4, ..Policy::DEFAULT };
    let queue = queue(&house, "q", &policy).await;
    put(&house, (0..100).map(|_| NewWork::in_queue(queue))).await;
    assert_eq!(claim(&house, 100).await.len(), 4);
    assert!(claim(&house, 100).await.is_empty());
    let due = work::next_due(&house.db, "test", None).await.unwrap().unwrap();
    house.clock.not_before(due);
    assert_eq!(claim(&house, 100).await.len(), 1);
    let later = house.clock.now().as_micros() + 60_000_000;
    house.clock.not_before(schemas::Timestamp::from_micros(later));
    assert_eq!(claim(&house, 100).await.len(), 4, "saved up to the burst and no further");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_that_is_raised_counts_at_once() {
    let house = House::start().await;
    let rate = |rate: &str| Policy { rate: Some(rate.parse().unwrap()), ..Policy::DEFAULT };
    let before = queue(&house, "q", &rate("2/h")).await;
    put(&house, (0..10).map(|_| NewWork::in_queue(before))).await;
    while !claim(&house, 1).await.is_empty() {}
    queue(&house, "q", &rate("1000/s")).await;
    let soon = house.clock.now().as_micros() + 100_000;
    house.clock.not_before(schemas::Timestamp::from_micros(soon));
    assert!(!claim(&house, 1).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_concurrency_that_comes_and_goes_counts_what_is_under_way() {
    let house = House::start().await;
    let at_once = |max| Policy { max_concurrent: max, ..Policy::DEFAULT };
    let q = queue(&house, "q", &at_once(Some(1))).await;
    put(&house, (0..20).map(|_| NewWork::in_queue(q))).await;
    let first = claim(&house, 10).await;
    queue(&house, "q", &at_once(None)).await;
    settle(&house, &leases(&first), DONE).await;
    let unlimited = claim(&house, 5).await;
    assert_eq!(unlimited.len(), 5);
    queue(&house, "q", &at_once(Some(1))).await;
    assert!(claim(&house, 10).await.is_empty(), "five are under way");
    settle(&house, &leases(&unlimited), DONE).await;
    let again = claim(&house, 10).await;
    assert_eq!(again.len(), 1);
    settle(&house, &leases(&again), DONE).await;
    assert_eq!(claim(&house, 10).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_queue_takes_no_place_from_others() {
    let house = House::start().await;
    let narrow = Policy { max_concurrent: Some(1), ..Policy::DEFAULT };
    for index in 0..200 {
        let queue = queue(&house, &format!("hanging-{index}"), &narrow).await;
        put(&house, (0..5).map(|_| NewWork::in_queue(queue))).await;
    }
    // Every one of them leases its one place, and keeps it.
    let mut hanging = 0;
    while hanging < 200 {
        let rows = claim(&house, 64).await;
        assert!(!rows.is_empty());
        hanging += rows.len();
    }
    let healthy = queue(&house, "healthy", &Policy::DEFAULT).await;
    put(&house, (0..10).map(|_| NewWork::in_queue(healthy))).await;
    let rows = claim(&house, 64).await;
    assert_eq!(rows.len(), 10);
    assert!(rows.iter().all(|row| row.queue == healthy));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_key_are_leased_one_after_the_other() {
    let house = House::start().await;
    let queue = queue(&house, "q", &Policy::DEFAULT).await;
    let row = |seq: i64, key: &str| NewWork {
        seq: Some(Seq::new(seq)),
        key: Some(key.into()),
        ..NewWork::in_queue(queue)
    };
    put(&house, [row(1, "a"), row(2, "a"), row(3, "b")]).await;
    put(&house, [row(4, "a")]).await;
    let mut order = Vec::new();
    loop {
        let rows = claim(&house, 10).await;
        if rows.is_empty() {
            break;
        }
        order.push(rows.iter().map(|row| row.seq.unwrap().get()).collect::<Vec<_>>());
        settle(&house, &leases(&rows), DONE).await;
    }
    assert_eq!(order, [vec![1, 3], vec![2], vec![4]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_of_the_process_before_are_free_at_once_and_those_given_away_are_not() {
    let house = House::start().await;
    let queue = queue(&house, "q", &Policy::DEFAULT).await;
    put(&house, (0..2).map(|_| NewWork::in_queue(queue))).await;
    let claim = Claim { kind: "test", queue: None, max: 1, lease: LEASE, owner: Some("me") };
    let owned = work::claim(&house.db, &claim).await.unwrap();
    let given = self::claim(&house, 1).await;
    let mut tx = house.db.begin().await.unwrap();
    work::free_owned(&mut tx, None).await.unwrap();
    let rescued = work::rescue(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(rescued.iter().map(|row| row.id).collect::<Vec<_>>(), [owned[0].id]);
    assert_eq!(settle(&house, &leases(&given), DONE).await, [Verdict::Done]);
    assert_eq!(settle(&house, &leases(&owned), DONE).await, [Verdict::Expired]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_queue_takes_rows_and_gives_none() {
    let house = House::start().await;
    let queue = queue(&house, "q", &Policy::DEFAULT).await;
    for paused in [true, false] {
        let mut tx = house.db.begin().await.unwrap();
        work::set_paused(&mut tx, queue, paused).await.unwrap();
        tx.enqueue(NewWork::in_queue(queue));
        tx.commit().await.unwrap();
        let expected = if paused { 0 } else { 2 };
        assert_eq!(claim(&house, 10).await.len(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_taken_once() {
    let house = House::start().await;
    let queue = queue(&house, "q", &Policy::DEFAULT).await;
    let named = || NewWork { name: Some("once".into()), ..NewWork::in_queue(queue) };
    put(&house, [named(), named()]).await;
    put(&house, [named()]).await;
    assert_eq!(claim(&house, 10).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_length_is_the_callers() {
    let house = House::start().await;
    let queue = queue(&house, "q", &Policy::DEFAULT).await;
    put(&house, [NewWork::in_queue(queue)]).await;
    let rows = claim_for(&house, 1, Duration::from_secs(7_200)).await;
    let ahead = rows[0].expires_at.as_micros() - house.clock.now().as_micros();
    assert!((7_190_000_000..=Span(Duration::from_secs(7_200)).micros()).contains(&ahead));
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_that_share_limits_share_their_places() {
    let house = House::start().await;
    let mut tx = house.db.begin().await.unwrap();
    let daily = SharedLimit::Rate("1000/d".parse().unwrap(), 5);
    work::define_limit(&mut tx, "daily", &daily).await.unwrap();
    work::define_limit(&mut tx, "at-once", &SharedLimit::Concurrency(3)).await.unwrap();
    let mut queues = Vec::new();
    for name in ["a", "b"] {
        let policy = Policy { rate: Some("50/s".parse().unwrap()), burst: 50, ..Policy::DEFAULT };
        let shared = ["daily", "at-once"];
        queues.push(work::define(&mut tx, "test", name, &policy, &shared).await.unwrap());
    }
    for queue in &queues {
        (0..10).for_each(|_| tx.enqueue(NewWork::in_queue(*queue)));
    }
    tx.commit().await.unwrap();
    let first = claim(&house, 100).await;
    assert_eq!(first.len(), 3, "three at once");
    settle(&house, &leases(&first), DONE).await;
    let second = claim(&house, 100).await;
    assert_eq!(second.len(), 2, "five a day");
    settle(&house, &leases(&second), DONE).await;
    assert!(claim(&house, 100).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ending_can_be_waited_for() {
    let house = House::start().await;
    let queue = queue(&house, "q", &Policy { attempts_max: 1, ..Policy::DEFAULT }).await;
    let rows: Vec<NewWork> = (0..2).map(|_| NewWork::in_queue(queue)).collect();
    let ids: Vec<WorkId> = rows.iter().map(|row| row.id).collect();
    put(&house, rows).await;
    let pending = work::wait(&house.db, &ids, Duration::from_millis(20)).await.unwrap();
    assert_eq!(pending, [Ending::Pending, Ending::Pending]);
    let rows = claim(&house, 2).await;
    let end = async {
        let output = Outcome::Done { output: Some("7".into()) };
        settle(&house, &[(ids[0], rows[0].token)], output).await;
        settle(&house, &[(ids[1], rows[1].token)], failed(None)).await;
    };
    let waiting = work::wait(&house.db, &ids, Duration::from_secs(20));
    let (endings, ()) = tokio::join!(waiting, end);
    let expected = [Ending::Done(Some("7".into())), Ending::Dead(Some("no".into()))];
    assert_eq!(endings.unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_not_taken_again_right_after_its_end() {
    let house = House::start().await;
    let queue = queue(&house, "q", &Policy::DEFAULT).await;
    let named = || NewWork { name: Some("once".into()), ..NewWork::in_queue(queue) };
    put(&house, [named()]).await;
    let rows = claim(&house, 1).await;
    settle(&house, &leases(&rows), DONE).await;
    put(&house, [named()]).await;
    assert!(claim(&house, 1).await.is_empty());
}
