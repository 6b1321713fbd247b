//! The log: durable, ordered, each `(source, id)` once, readable from anywhere.

use std::sync::Arc;
use std::time::Duration;

use bus::{Log, PublishError, Read, Retention, Seq, tail};
use futures::StreamExt;
use schemas::{Patterns, Timestamp};

use crate::house::{House, event, scripted};

fn types(pattern: &str) -> Patterns {
    Patterns::from(pattern.parse::<schemas::Pattern>().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_read_in_the_order_of_their_receipts() {
    let house = House::start().await;
    let events = (0..500).map(|n| event("a.b", "k", n)).collect();
    let receipts = house.log.publish_all(events).await.unwrap();
    let events = house.events().await;
    let read: Vec<_> = events.iter().map(|e| (e.seq, e.event.id.clone())).collect();
    let told: Vec<_> = receipts.iter().map(|r| (r.seq, r.id.clone())).collect();
    assert!(read == told, "{} of {} in their order", read.len(), told.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_is_one_event() {
    let house = House::start().await;
    let one = event("a", "k", 1);
    let first = house.log.publish(one.clone()).await.unwrap();
    let batch = vec![event("a", "k", 2), one.clone(), one.clone()];
    let receipts = house.log.publish_all(batch).await.unwrap();
    assert_eq!((receipts[1].seq, receipts[1].duplicate), (first.seq, true));
    assert_eq!((receipts[2].seq, receipts[2].duplicate), (first.seq, true));
    assert!(!receipts[0].duplicate);
    assert_eq!(house.head().await, receipts[0].seq);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_tenant_can_take_the_event_of_another() {
    let house = House::start().await;
    let one = event("a", "k", 1);
    let of = |tenant| one.clone().with_extension("tenant", tenant);
    let events = vec![one.clone(), of("acme"), of("beta"), of("acme"), one.clone()];
    let receipts = house.log.publish_all(events.clone()).await.unwrap();
    let duplicates: Vec<bool> = receipts.iter().map(|receipt| receipt.duplicate).collect();
    assert_eq!(duplicates, [false, false, false, true, true]);
    let read: Vec<_> = house.events().await.iter().map(|e| e.event.clone()).collect();
    assert_eq!(read, events[..3]);
    // A consumer on a log that may hold an event twice does not take one for the other either.
    let running = house.run(vec![scripted(|_, _| Ok(()))]).await;
    house.settled("scripted").await;
    running.stop().await;
    assert_eq!(house.effects("k").await, [1, 1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_is_there_after_a_restart_as_it_was() {
    let house = House::start().await;
    let mut published = Vec::new();
    for n in 0..20 {
        let event = event("a.b", "k", n).with_extension("tenant", "t").with_extension("n", 7);
        house.log.publish(event.clone()).await.unwrap();
        published.push(event);
    }
    let before = house.log.state().await.unwrap();
    let house = house.reopened().await;
    assert_eq!(house.log.state().await.unwrap(), before);
    let read: Vec<_> = house.events().await.iter().map(|e| e.event.clone()).collect();
    assert_eq!(read, published);
    assert_eq!(house.publish("a", "k", 99).await.seq, before.last.next());
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_publishers_each_get_their_own_receipt() {
    let house = House::start().await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..200 {
        let log = Arc::clone(&house.log);
        tasks.spawn(async move {
            let event = event("a", "k", n);
            let receipt = log.publish(event.clone()).await.unwrap();
            (event.id, receipt)
        });
    }
    let mut seqs = std::collections::BTreeSet::new();
    while let Some(result) = tasks.join_next().await {
        let (id, receipt) = result.unwrap();
        assert_eq!(receipt.id, id);
        assert!(seqs.insert(receipt.seq));
    }
    assert_eq!(seqs.len(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_by_type_finds_the_same_from_memory_and_from_the_file() {
    let house = House::start().await;
    for n in 0..300 {
        let kind = if n % 50 == 0 { "rare.one" } else { "common.one" };
        house.publish(kind, "k", n).await;
    }
    let wanted = ["rare.*", "common.>", ">", "none.such"];
    let read = |log: Arc<dyn Log>, pattern: &'static str| async move {
        let mut seqs = Vec::new();
        let mut after = Seq::ZERO;
        let last = log.state().await.unwrap().last;
        while after < last {
            let page = log.read(Read::after(after).types(types(pattern)).limit(7)).await.unwrap();
            assert!(page.through > after && page.events.len() <= 7);
            seqs.extend(page.events.iter().map(|event| event.seq));
            after = page.through;
        }
        seqs
    };
    let mut from_memory = Vec::new();
    for pattern in wanted {
        from_memory.push(read(Arc::clone(&house.log), pattern).await);
    }
    let house = house.reopened().await;
    for (pattern, expected) in wanted.into_iter().zip(from_memory) {
        assert_eq!(read(Arc::clone(&house.log), pattern).await, expected, "{pattern}");
        let count = house.log.count(Seq::ZERO, Seq::MAX, &types(pattern)).await.unwrap();
        assert_eq!(count, expected.len() as u64, "{pattern}");
        let all = Read::after(Seq::ZERO).types(types(pattern)).limit(1_000);
        let back = house.log.read_back(all).await.unwrap();
        let mut back: Vec<Seq> = back.events.iter().map(|event| event.seq).collect();
        back.reverse();
        assert_eq!(back, expected, "{pattern}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_leads_to_the_first_event_recorded_at_or_after_it() {
    let house = House::start().await;
    let mut times = Vec::new();
    for n in 0..10 {
        let seq = house.publish("a", "k", n).await.seq;
        let found = house.log.get(&[seq]).await.unwrap();
        times.push((seq, found[0].recorded_at));
    }
    for (seq, at) in &times {
        let first = times.iter().find(|(_, other)| other == at).unwrap().0;
        assert_eq!(house.log.position_at(*at).await.unwrap(), first.previous(), "{seq}");
    }
    let later = Timestamp::from_micros(times[9].1.as_micros() + 1);
    assert_eq!(house.log.position_at(later).await.unwrap(), times[9].0);
    assert_eq!(house.log.position_at(Timestamp::from_micros(0)).await.unwrap(), Seq::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_brings_what_is_there_and_then_what_comes() {
    let house = House::start().await;
    house.publish("a", "k", 1).await;
    let mut events = Box::pin(tail(Arc::clone(&house.log), Seq::ZERO, Patterns::any()));
    assert_eq!(events.next().await.unwrap().unwrap().seq, Seq::new(1));
    house.publish("a", "k", 2).await;
    assert_eq!(events.next().await.unwrap().unwrap().seq, Seq::new(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_and_nothing_of_it_recorded() {
    let house = House::start().await;
    let large = event("a", "k", 1).with_json("x".repeat(1024 * 1024)).unwrap();
    let refused = house.log.publish_all(vec![event("a", "k", 0), large]).await;
    assert!(matches!(refused, Err(PublishError::EventTooLarge { index: 1, .. })), "{refused:?}");
    let many = (0..1_001).map(|n| event("a", "k", n)).collect();
    let refused = house.log.publish_all(many).await;
    assert!(matches!(refused, Err(PublishError::BatchTooLarge { events: 1_001, .. })));
    assert_eq!(house.head().await, Seq::ZERO);
}

fn rule(pattern: &str, max_age: Option<u64>, max_bytes: Option<u64>) -> Retention {
    let max_age = max_age.map(Duration::from_secs);
    Retention { types: pattern.parse().unwrap(), max_age, max_bytes }
}

/// Prunes until `events` are gone: on a cluster, servers that lag may not know the last ones yet.
async fn pruned_all(
    house: &House,
    rules: &[Retention],
    consumed: Seq,
    now: Timestamp,
    events: u64,
) -> bus::Pruned {
    let mut all = bus::Pruned::default();
    for _ in 0..100 {
        let pruned = house.log.prune(rules, consumed, now).await.unwrap();
        all.events += pruned.events;
        all.held_back = pruned.held_back;
        all.missed_through = all.missed_through.max(pruned.missed_through);
        if all.events >= events {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn age_waits_for_consumers_and_size_does_not() {
    let house = House::start().await;
    for n in 0..100 {
        house.publish(if n % 2 == 0 { "old.a" } else { "kept" }, "k", n).await;
    }
    let later = Timestamp::from_micros(house.clock.now().as_micros() + 3 * 3_600_000_000);
    let by_age = [rule("old.>", Some(3_600), None)];
    let pruned = house.log.prune(&by_age, Seq::ZERO, later).await.unwrap();
    assert_eq!((pruned.events, pruned.held_back), (0, 50));
    let pruned = pruned_all(&house, &by_age, house.head().await, later, 50).await;
    assert_eq!((pruned.events, pruned.held_back), (50, 0));
    assert_eq!(house.log.count(Seq::ZERO, Seq::MAX, &types("old.>")).await.unwrap(), 0);
    assert_eq!(house.log.count(Seq::ZERO, Seq::MAX, &types("kept")).await.unwrap(), 50);
    assert_eq!(house.log.pruned_through().await.unwrap().len(), 1);

    let by_size = [rule("kept", None, Some(0))];
    let pruned = pruned_all(&house, &by_size, Seq::ZERO, later, 50).await;
    assert_eq!((pruned.events, pruned.missed_through), (50, Some(Seq::new(100))));
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_are_never_used_twice() {
    let house = House::start().await;
    for n in 0..10 {
        house.publish("a", "k", n).await;
    }
    let all = [rule(">", None, Some(0))];
    pruned_all(&house, &all, Seq::ZERO, house.clock.now(), 10).await;
    let house = house.reopened().await;
    assert_eq!(house.log.state().await.unwrap().first, Seq::new(11));
    assert_eq!(house.publish("a", "k", 11).await.seq, Seq::new(11));
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_large_events_are_short_and_lead_through_all() {
    let house = House::start().await;
    for n in 0..30 {
        let large = event("large", "k", n).with_json("x".repeat(900_000)).unwrap();
        house.log.publish(large).await.unwrap();
    }
    let all = Read::after(Seq::ZERO).until(Seq::new(30)).types(types("large")).limit(500);
    let (mut forward, mut back) = (Vec::new(), Vec::new());
    let mut rest = all.clone();
    while rest.after < rest.until {
        let page = house.log.read(rest.clone()).await.unwrap();
        assert!(page.events.len() <= 10, "{}", page.events.len());
        forward.extend(page.events.iter().map(|event| event.seq.get()));
        rest.after = page.through;
    }
    let mut rest = all;
    while rest.after < rest.until {
        let page = house.log.read_back(rest.clone()).await.unwrap();
        assert!(page.events.len() <= 10, "{}", page.events.len());
        back.extend(page.events.iter().map(|event| event.seq.get()));
        rest.until = page.through.previous();
    }
    back.reverse();
    assert!(forward.iter().copied().eq(1..=30), "{forward:?}");
    assert_eq!(forward, back);
}
