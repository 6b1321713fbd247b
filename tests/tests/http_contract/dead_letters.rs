//! Dead letters: what was given up, and the ways to put it right.

use http::Method;
use serde_json::{Value, json};
use skald_tests::{House, one};

use super::{assert_time, cloud_event, figures};

const PATH: &str = "/v1/consumers/c/dead-letters";

/// A house whose consumer `c` has given up the events `0`, `1`, …, each with the error given.
async fn house_with(errors: &[&str]) -> House {
    let mut house = House::start().await;
    house.claim("c");
    house.pull_consumer("c", "t", json!({})).await;
    for (n, error) in errors.iter().enumerate() {
        house.publish(cloud_event("/t", &n.to_string(), "t")).await;
        let lease = one(house.lease("c").await);
        let more = json!({"permanent": true, "error": error});
        assert_eq!(house.nak("c", &lease, more).await, "ok");
    }
    figures(&house, "c", &[("dead", i64::try_from(errors.len()).unwrap())]).await;
    house
}

async fn letters(house: &House, query: &str) -> Vec<Value> {
    let listed = house.get(&format!("{PATH}{query}")).await.json_of(200);
    listed["items"].as_array().unwrap().clone()
}

fn event_ids(letters: &[Value]) -> Vec<&str> {
    letters.iter().filter_map(|letter| letter["event"]["id"].as_str()).collect()
}

async fn redrive(house: &House, body: Value) -> Value {
    house.post(&format!("{PATH}/redrive"), body).await.json_of(202)
}

/// Leases all that is there and acks it; answers the ids of the events.
async fn drain(house: &House, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    while ids.len() < count {
        let leases = house.lease("c").await;
        assert!(!leases.is_empty(), "{ids:?}");
        house.ack("c", &leases).await;
        ids.extend(leases.iter().map(|l| l.event["id"].as_str().unwrap().to_owned()));
    }
    ids.sort();
    ids
}

#[tokio::test]
async fn a_permanent_failure_is_a_dead_letter_with_its_event_and_error() {
    let house = house_with(&["no such customer"]).await;
    let letter = one(letters(&house, "").await);
    assert_eq!(letter["seq"], 1);
    assert_eq!((&letter["event"]["id"], &letter["attempts"]), (&json!("0"), &json!(1)));
    assert_eq!(letter["error"], "no such customer");
    assert!(letter["id"].as_str().is_some_and(|id| id.contains('_')), "{letter}");
    assert_time(&letter["first_failed_at"]);
    assert_time(&letter["last_failed_at"]);
}

#[tokio::test]
async fn attempts_that_are_used_up_end_in_a_dead_letter() {
    let mut house = House::start().await;
    house.claim("c");
    house.pull_consumer("c", "t", json!({"attempts_max": 2})).await;
    house.publish(json!({"type": "t"})).await;
    for attempt in 1..=2 {
        let lease = one(house.lease("c").await);
        assert_eq!(lease.attempt, attempt);
        house.nak("c", &lease, json!({"delay": "0ms", "error": format!("no {attempt}")})).await;
    }
    figures(&house, "c", &[("dead", 1), ("retrying", 0)]).await;
    let letter = one(letters(&house, "").await);
    assert_eq!((&letter["attempts"], &letter["error"]), (&json!(2), &json!("no 2")));
}

#[tokio::test]
async fn leases_that_nobody_answers_use_up_attempts_too() {
    let mut house = House::start().await;
    house.claim("c");
    house.pull_consumer("c", "t", json!({"attempts_max": 1})).await;
    house.publish(json!({"type": "t"})).await;
    let lease =
        one(house.lease_with("c", json!({"max": 1, "lease": "200ms", "wait": "10s"})).await);
    figures(&house, "c", &[("dead", 1), ("in_flight", 0)]).await;
    assert_eq!(house.ack("c", &[lease]).await, ["expired"]);
}

#[tokio::test]
async fn dead_letters_are_listed_newest_first_by_error_and_by_time() {
    let house = house_with(&["card refused", "timeout", "card expired"]).await;
    assert_eq!(event_ids(&letters(&house, "").await), ["2", "1", "0"]);
    assert_eq!(event_ids(&letters(&house, "?error=card").await), ["2", "0"]);
    assert_eq!(event_ids(&letters(&house, "?error=card%20exp").await), ["2"]);
    assert!(letters(&house, "?error=%25").await.is_empty(), "no wildcards");
    let last = letters(&house, "?limit=1").await[0]["last_failed_at"].clone();
    let since = format!("?since={}", last.as_str().unwrap());
    assert_eq!(event_ids(&letters(&house, &since).await), ["2"]);
    let page = house.get(&format!("{PATH}?limit=2")).await.json_of(200);
    let next = page["next"].as_str().unwrap();
    assert_eq!(event_ids(&letters(&house, &format!("?limit=2&cursor={next}")).await), ["0"]);
}

#[tokio::test]
async fn groups_come_in_pages_and_are_chosen_like_the_letters() {
    let house = house_with(&["timeout", "card refused", "timeout", "card expired"]).await;
    let groups = async |query: &str| {
        let page = house.get(&format!("{PATH}/groups{query}")).await.json_of(200);
        let items = page["items"].as_array().unwrap().iter();
        let counted = items.map(|group| format!("{} {}", group["count"], group["error"]));
        (counted.collect::<Vec<_>>(), page["next"].as_str().map(str::to_owned))
    };
    let (first, next) = groups("?limit=2").await;
    assert_eq!(first, ["2 \"timeout\"", "1 \"card expired\""]);
    let rest = groups(&format!("?limit=2&cursor={}", next.unwrap())).await;
    assert_eq!(rest, (vec!["1 \"card refused\"".to_owned()], None));
    let chosen = groups("?error=card&limit=1").await;
    assert_eq!(chosen, (vec!["1 \"card expired\"".to_owned()], Some("1".to_owned())));
    house.get(&format!("{PATH}/groups?cursor=x")).await.problem(422);
}

#[tokio::test]
async fn those_named_are_redriven_and_tried_from_the_first_attempt() {
    let house = house_with(&["a", "b", "c"]).await;
    let all = letters(&house, "").await;
    let body = json!({"ids": [all[0]["id"], all[2]["id"]]});
    assert_eq!(redrive(&house, body.clone()).await, json!({"redriven": 2}));
    let leases = house.lease("c").await;
    assert!(leases.iter().all(|lease| lease.attempt == 1), "{leases:?}");
    house.ack("c", &leases).await;
    let rest = drain(&house, 2 - leases.len()).await;
    assert!(rest.len() + leases.len() == 2);
    figures(&house, "c", &[("dead", 1)]).await;
    assert_eq!(redrive(&house, body).await["redriven"], 0, "they are dead no more");
}

#[tokio::test]
async fn all_of_an_error_are_redriven_after_a_dry_run_that_does_nothing() {
    let house = house_with(&["timeout", "refused", "timeout"]).await;
    let dry = json!({"all": true, "error": "timeout", "dry_run": true});
    let told = house.post(&format!("{PATH}/redrive"), dry).await;
    assert!(told.status.is_success(), "{told:?}");
    assert_eq!(told.json()["redriven"], 2);
    figures(&house, "c", &[("dead", 3)]).await;
    let body = json!({"all": true, "error": "timeout"});
    assert_eq!(redrive(&house, body).await, json!({"redriven": 2}));
    assert_eq!(drain(&house, 2).await, ["0", "2"]);
    assert_eq!(redrive(&house, json!({"all": true})).await, json!({"redriven": 1}));
    assert_eq!(drain(&house, 1).await, ["1"]);
}

#[tokio::test]
async fn an_edited_event_is_what_is_tried() {
    let house = house_with(&["bad amount"]).await;
    let letter = one(letters(&house, "").await);
    let mut edited = letter["event"].clone();
    edited["data"] = json!({"amount": 5});
    let body = json!({"id": letter["id"], "event": edited});
    assert_eq!(redrive(&house, body).await, json!({"redriven": 1}));
    let lease = one(house.lease("c").await);
    assert_eq!(lease.event["data"], json!({"amount": 5}));
    assert_eq!((lease.seq, &lease.event["id"]), (1, &json!("0")));
    house.ack("c", &[lease]).await;
    let stored = house.get("/v1/events/1").await.json_of(200);
    assert_eq!(stored["event"]["data"], json!({"id": "0"}), "the log is never changed");
}

#[tokio::test]
async fn an_edited_event_that_is_no_event_is_refused() {
    let house = house_with(&["bad"]).await;
    let letter = one(letters(&house, "").await);
    let body = json!({"id": letter["id"], "event": {"type": "a..b"}});
    let faults = house.post(&format!("{PATH}/redrive"), body).await.faults();
    assert!(faults.contains(&"/event/type".to_owned()), "{faults:?}");
    figures(&house, "c", &[("dead", 1)]).await;
}

#[tokio::test]
async fn what_fails_again_is_a_dead_letter_again() {
    let house = house_with(&["first"]).await;
    redrive(&house, json!({"all": true})).await;
    let lease = one(house.lease("c").await);
    house.nak("c", &lease, json!({"permanent": true, "error": "second"})).await;
    figures(&house, "c", &[("dead", 1)]).await;
    assert_eq!(one(letters(&house, "").await)["error"], "second");
}

#[tokio::test]
async fn those_given_up_for_good_are_gone() {
    let house = house_with(&["a", "b", "c"]).await;
    let first = letters(&house, "").await[0]["id"].clone();
    let delete = async |body: Value| {
        let answer = house.call(Method::DELETE, PATH).json(&body).send().await;
        assert!(answer.status.is_success(), "{answer:?}");
    };
    delete(json!({"ids": [first]})).await;
    assert_eq!(event_ids(&letters(&house, "").await), ["1", "0"]);
    delete(json!({"all": true, "error": "a"})).await;
    assert_eq!(event_ids(&letters(&house, "").await), ["1"]);
    delete(json!({"all": true})).await;
    assert!(letters(&house, "").await.is_empty());
    figures(&house, "c", &[("dead", 0), ("waiting", 0), ("retrying", 0)]).await;
    assert_eq!(redrive(&house, json!({"all": true})).await["redriven"], 0);
    // It is still told that the consumer never got past it.
    let event = house.get("/v1/events/1").await.json_of(200);
    let told = json!({"name": "c", "state": "dead", "attempts": 1, "last_error": "a"});
    assert_eq!(
        event["consumers"].as_array().unwrap().iter().find(|c| c["name"] == "c"),
        Some(&told)
    );
}

#[tokio::test]
async fn an_empty_list_of_ids_never_means_all() {
    let house = house_with(&["a", "b"]).await;
    let none = json!({"ids": []});
    let redriven = house.post(&format!("{PATH}/redrive"), none.clone()).await;
    assert!(redriven.status == 422 || redriven.json()["redriven"] == 0, "{redriven:?}");
    let deleted = house.call(Method::DELETE, PATH).json(&none).send().await;
    assert!(deleted.status == 422 || deleted.json()["deleted"] == 0, "{deleted:?}");
    figures(&house, "c", &[("dead", 2)]).await;
}

#[tokio::test]
async fn a_redrive_says_which_or_all() {
    let house = house_with(&["a"]).await;
    for body in [json!({}), json!({"all": false}), json!({"ids": "x"}), json!({"colour": 1})] {
        let answer = house.post(&format!("{PATH}/redrive"), body.clone()).await;
        assert_eq!(answer.status, 422, "{body}: {answer:?}");
    }
    house
        .post("/v1/consumers/nobody/dead-letters/redrive", json!({"all": true}))
        .await
        .problem(404);
    house.get("/v1/consumers/nobody/dead-letters").await.problem(404);
    figures(&house, "c", &[("dead", 1)]).await;
}

#[tokio::test]
async fn an_edited_event_is_taken_as_it_is_written() {
    let house = house_with(&["bad amount"]).await;
    let letter = one(letters(&house, "").await);
    let id = letter["id"].as_str().unwrap();
    let data = r#"{"z":12345678901234567890123.10,"a":99999999999999999999,"b":1.0}"#;
    let source = letter["event"]["source"].as_str().unwrap();
    let event = |kind: &str| {
        format!(
            r#"{{"specversion":"1.0","id":"0","source":"{source}","type":"{kind}","data":{data}}}"#
        )
    };
    let redrive = async |event: String, more: &str| {
        let body = format!(r#"{{"id":"{id}","event":{event}{more}}}"#);
        let call = house.call(Method::POST, &format!("{PATH}/redrive"));
        call.typed("application/json", body).send().await
    };
    let reserved = redrive(event("dev.skald.forged"), "").await;
    assert_eq!(reserved.faults(), ["/event/type"]);
    let other = event("t").replace(r#""id":"0""#, r#""id":"1""#);
    assert_eq!(redrive(other, r#","dry_run":true"#).await.faults(), ["/event"]);
    redrive(event("t"), "").await.check(202);
    let leased = house.post("/v1/consumers/c/lease", json!({})).await.expect(200);
    assert!(leased.text().contains(data), "{}", leased.text());
}
