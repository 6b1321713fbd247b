//! What is large comes in short pages: no answer is larger than memory should bear.

use http::Method;
use serde_json::{Value, json};
use skald_tests::House;

use super::{cloud_event, seq};

const EVENTS: usize = 160;
/// 8 MiB of 200 kB, and one more.
const OF_A_PAGE: usize = 43;

/// A house with many events of 200 kB of type `t`.
async fn house() -> House {
    let mut house = House::start().await;
    house.claim("c");
    house.pull_consumer("c", "t", json!({})).await;
    let large = |n: usize| {
        let mut event = cloud_event("/t", &n.to_string(), "t");
        event["data"] = json!("x".repeat(200_000));
        event
    };
    for batch in (0..EVENTS).map(large).collect::<Vec<_>>().chunks(40) {
        house.try_publish_batch(batch).await.check(202);
    }
    house
}

/// All items of a list, and the length of its longest page.
async fn walk(house: &House, list: &str) -> (Vec<Value>, usize) {
    let (mut items, mut longest, mut path) = (Vec::new(), 0, format!("{list}limit=500"));
    loop {
        let page = house.get(&path).await.json_of(200);
        let these = page["items"].as_array().unwrap();
        longest = longest.max(these.len());
        items.extend(these.iter().cloned());
        let Some(next) = page["next"].as_str() else { return (items, longest) };
        path = format!("{list}limit=500&cursor={next}");
    }
}

#[tokio::test]
async fn pages_of_large_events_are_short_and_lead_through_all() {
    let house = house().await;
    for (list, newest_first) in [("/v1/events?", true), ("/v1/events?after=0&", false)] {
        let (items, longest) = walk(&house, list).await;
        let mut seqs: Vec<i64> = items.iter().map(seq).collect();
        if newest_first {
            seqs.reverse();
        }
        assert!(seqs.is_sorted() && seqs.len() == EVENTS, "{list}: {seqs:?}");
        assert!(longest <= OF_A_PAGE, "{list}: {longest}");
    }
}

#[tokio::test]
async fn leases_of_large_events_are_fewer_and_the_rest_is_as_good_as_new() {
    let house = house().await;
    let mut left: i64 = EVENTS.try_into().unwrap();
    while left > 0 {
        let wanted = json!({"max": 1000, "lease": "30s", "wait": "10s"});
        let answer = house.post("/v1/consumers/c/lease", wanted).await.json_of(200);
        let leases = answer["leases"].as_array().unwrap();
        assert!((1..=64).contains(&leases.len()), "{}", leases.len());
        assert!(leases.iter().all(|lease| lease["attempt"] == 1));
        left -= i64::try_from(leases.len()).unwrap();
        let answers: Vec<Value> = leases
            .iter()
            .map(|lease| json!({"id": lease["id"], "token": lease["token"], "permanent": true}))
            .collect();
        house.post("/v1/consumers/c/nak", json!({"leases": answers})).await.check(200);
    }
    assert_eq!(left, 0, "each was leased once");
    let (letters, longest) = walk(&house, "/v1/consumers/c/dead-letters?").await;
    assert_eq!(letters.len(), EVENTS);
    assert!(longest <= OF_A_PAGE, "{longest}");
}

#[tokio::test]
async fn pages_of_sagas_with_large_inputs_are_short() {
    let house = House::start().await;
    let text = "saga: s\nsteps:\n  - { step: w, wait_for: { signal: go } }\n";
    let definition = house.call(Method::PUT, "/v1/sagas/definitions/s");
    definition.typed("application/yaml", text.to_owned()).send().await.check(201);
    for n in 0..60 {
        let input = json!({"n": n, "x": "x".repeat(200_000)});
        house.post("/v1/sagas", json!({"definition": "s", "input": input})).await.check(201);
    }
    let (sagas, longest) = walk(&house, "/v1/sagas?").await;
    assert_eq!(sagas.len(), 60);
    assert!(longest <= OF_A_PAGE, "{longest}");
    assert!(sagas.iter().rev().enumerate().all(|(n, saga)| saga["input"]["n"] == n));
}
