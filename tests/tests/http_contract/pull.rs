//! Pull consumers: leases and the answers for them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skald_tests::{House, Lease, eventually, one};

use super::{assert_time, figures, publish_many};

async fn house_with(policy: Value) -> House {
    let house = House::start().await;
    house.pull_consumer("c", "t", policy).await;
    house
}

#[tokio::test]
async fn a_lease_holds_the_event_and_what_proves_it() {
    let house = house_with(json!({})).await;
    let receipt = house.publish(json!({"type": "t", "id": "e1", "data": 7})).await;
    let lease = one(house.lease("c").await);
    for member in ["id", "token"] {
        assert!(!lease.whole[member].to_string().is_empty(), "{lease:?}");
        assert!(!lease.whole[member].is_null(), "{lease:?}");
    }
    assert_eq!((json!(lease.seq), lease.attempt), (receipt["seq"].clone(), 1));
    assert_eq!((&lease.event["id"], &lease.event["data"]), (&json!("e1"), &json!(7)));
    assert_time(&lease.whole["expires_at"]);
    assert_eq!(house.ack("c", std::slice::from_ref(&lease)).await, ["ok"]);
    figures(&house, "c", &[("waiting", 0), ("in_flight", 0)]).await;
    assert_eq!(house.ack("c", &[lease]).await, ["expired"], "an ended lease holds no more");
}

#[tokio::test]
async fn a_leased_event_is_not_leased_again_until_the_lease_ends() {
    let house = house_with(json!({})).await;
    house.publish(json!({"type": "t"})).await;
    let terms = json!({"max": 10, "lease": "500ms", "wait": "10s"});
    let first = one(house.lease_with("c", terms.clone()).await);
    let started = Instant::now();
    let second = one(house.lease_with("c", terms).await);
    assert!(started.elapsed().as_millis() >= 300, "{:?}", started.elapsed());
    assert_eq!((second.seq, second.attempt), (first.seq, 2));
    assert_eq!(house.ack("c", &[first]).await, ["expired"]);
    assert_eq!(house.ack("c", &[second]).await, ["ok"]);
}

#[tokio::test]
async fn two_that_lease_at_once_never_get_the_same_event() {
    let house = house_with(json!({})).await;
    publish_many(&house, "t", 200).await;
    let take = async || {
        let mut seqs = Vec::new();
        loop {
            let leases = house.lease_with("c", json!({"max": 7, "wait": "300ms"})).await;
            if leases.is_empty() {
                return seqs;
            }
            assert!(leases.len() <= 7);
            assert!(house.ack("c", &leases).await.iter().all(|result| result == "ok"));
            seqs.extend(leases.iter().map(|lease| lease.seq));
        }
    };
    let (a, b, c, d) = tokio::join!(take(), take(), take(), take());
    let mut all = [a, b, c, d].concat();
    all.sort_unstable();
    assert_eq!(all, (1..=200).collect::<Vec<i64>>());
}

#[tokio::test]
async fn forged_tokens_and_ids_are_expired_and_change_nothing() {
    let house = house_with(json!({})).await;
    publish_many(&house, "t", 2).await;
    let leases = eventually("both are leased", async || {
        let leases = house.lease_with("c", json!({"max": 2, "lease": "60s"})).await;
        if leases.len() == 1 {
            house.nak("c", &leases[0], json!({"delay": "0ms"})).await;
        }
        (leases.len() == 2).then_some(leases)
    })
    .await;
    // One digit of the token is another; one of the id is.
    let mut forged = [leases[0].proof(), leases[1].proof()];
    forged[0]["token"] = json!(with_another_end(&forged[0]["token"]));
    forged[1]["id"] = json!(with_another_end(&forged[1]["id"]));
    for verb in ["ack", "nak", "extend"] {
        let mut body = json!({"leases": forged});
        if verb == "extend" {
            body["lease"] = json!("60s");
        }
        assert_eq!(house.settle("c", verb, body).await, ["expired", "expired"], "{verb}");
    }
    figures(&house, "c", &[("in_flight", 2)]).await;
    assert_eq!(house.ack("c", &leases).await, ["ok", "ok"]);
}

fn with_another_end(of: &Value) -> String {
    let text = of.as_str().unwrap();
    let (start, end) = text.split_at(text.len() - 1);
    format!("{start}{}", if end == "1" { "2" } else { "1" })
}

#[tokio::test]
async fn a_lease_of_another_consumer_is_expired() {
    let house = house_with(json!({})).await;
    house.pull_consumer("d", "t", json!({})).await;
    house.publish(json!({"type": "t"})).await;
    let (of_c, of_d) = (one(house.lease("c").await), one(house.lease("d").await));
    assert_eq!(house.ack("d", std::slice::from_ref(&of_c)).await, ["expired"]);
    assert_eq!(house.ack("c", &[of_c]).await, ["ok"]);
    assert_eq!(house.ack("d", &[of_d]).await, ["ok"]);
}

#[tokio::test]
async fn whatever_the_error_holds_the_event_is_refused() {
    let house = house_with(json!({"backoff_min": "10ms"})).await;
    house.publish(json!({"type": "t", "id": "e"})).await;
    let lease = one(house.lease("c").await);
    assert_eq!(house.nak("c", &lease, json!({"error": "a\0b"})).await, "ok");
    let event = house.get("/v1/events/1").await.json_of(200);
    let consumers = event["consumers"].as_array().unwrap().iter();
    let told = consumers.clone().find(|consumer| consumer["name"] == "c").unwrap();
    assert_eq!(told["last_error"], "a\u{fffd}b");
    let again = house.lease_with("c", json!({"max": 1, "wait": "20s"})).await;
    assert_eq!(house.ack("c", &again).await, ["ok"]);
}

#[tokio::test]
async fn of_two_answers_to_a_lease_in_one_call_the_first_counts() {
    let house = house_with(json!({})).await;
    house.publish(json!({"type": "t"})).await;
    let lease = one(house.lease("c").await);
    let twice = json!({"leases": [lease.proof(), lease.proof()]});
    let answer = house.post("/v1/consumers/c/ack", twice).await.json_of(200);
    let results =
        ["ok", "expired"].map(|result| json!({"id": lease.whole["id"], "result": result}));
    assert_eq!(answer["leases"], json!(results));
    figures(&house, "c", &[("in_flight", 0), ("retrying", 0)]).await;
}

#[tokio::test]
async fn garbled_leases_are_a_fault_or_expired_but_never_ok() {
    let house = house_with(json!({})).await;
    for lease in [json!({"id": "x", "token": "y"}), json!({"id": 1, "token": null}), json!({})] {
        let answer = house.post("/v1/consumers/c/ack", json!({"leases": [lease]})).await;
        match answer.status.as_u16() {
            200 => assert_eq!(answer.json()["leases"][0]["result"], "expired", "{answer:?}"),
            _ => assert!(!answer.faults().is_empty()),
        }
    }
    house.publish(json!({"type": "t"})).await;
    let lease = one(house.lease("c").await);
    let unknown = json!({"leases": [lease.proof()], "colour": "red"});
    assert_eq!(house.post("/v1/consumers/c/ack", unknown).await.faults(), ["/colour"]);
    let answer = house.post("/v1/consumers/c/lease", json!({"max": 0, "lease": "x"})).await;
    let mut faults = answer.faults();
    faults.sort();
    assert_eq!(faults, ["/lease", "/max"]);
    house.ack("c", &[lease]).await;
}

#[tokio::test]
async fn a_waiting_lease_is_answered_as_soon_as_an_event_arrives() {
    let house = house_with(json!({})).await;
    let started = Instant::now();
    let empty = house.lease_with("c", json!({"max": 1, "wait": "300ms"})).await;
    assert!(empty.is_empty() && started.elapsed().as_millis() >= 250, "{:?}", started.elapsed());

    let started = Instant::now();
    let (leases, receipt) = tokio::join!(
        house.lease_with("c", json!({"max": 1, "wait": "20s"})),
        house.publish(json!({"type": "t"}))
    );
    assert!(started.elapsed().as_secs() < 15, "{:?}", started.elapsed());
    assert_eq!(receipt["seq"], one(leases.clone()).seq);
    house.ack("c", &leases).await;
}

#[tokio::test]
async fn a_waiting_lease_ends_with_its_consumer() {
    let house = house_with(json!({})).await;
    let started = Instant::now();
    let ended = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(house.delete("/v1/consumers/c").await.status, 204);
    };
    let body = json!({"max": 1, "wait": "20s"});
    let (answer, ()) = tokio::join!(house.post("/v1/consumers/c/lease", body), ended);
    answer.problem(404);
    assert!(started.elapsed().as_secs() < 15, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_nak_brings_the_event_back_after_its_delay() {
    let house = house_with(json!({"backoff_min": "1h", "backoff_max": "1h"})).await;
    house.publish(json!({"type": "t"})).await;
    let first = one(house.lease("c").await);
    let started = Instant::now();
    assert_eq!(house.nak("c", &first, json!({"delay": "400ms", "error": "busy"})).await, "ok");
    figures(&house, "c", &[("retrying", 1), ("in_flight", 0)]).await;
    let second = one(house.lease("c").await);
    assert!(started.elapsed().as_millis() >= 350, "{:?}", started.elapsed());
    assert_eq!((second.seq, second.attempt), (first.seq, 2));
    assert_eq!(house.ack("c", &[second]).await, ["ok"]);
}

#[tokio::test]
async fn a_nak_without_a_delay_backs_off_as_the_policy_says() {
    let house = house_with(json!({"backoff_min": "400ms", "backoff_max": "1s"})).await;
    house.publish(json!({"type": "t"})).await;
    let started = Instant::now();
    let first = one(house.lease("c").await);
    house.nak("c", &first, json!({})).await;
    let second = one(house.lease("c").await);
    assert!(started.elapsed().as_millis() >= 300, "less 20 % jitter: {:?}", started.elapsed());
    house.ack("c", &[second]).await;
}

#[tokio::test]
async fn an_extended_lease_lasts_longer() {
    let house = house_with(json!({})).await;
    house.publish(json!({"type": "t"})).await;
    let lease = one(house.lease_with("c", json!({"max": 1, "lease": "2s", "wait": "10s"})).await);
    let body = json!({"leases": [lease.proof()], "lease": "60s"});
    assert_eq!(house.settle("c", "extend", body).await, ["ok"]);
    let again = house.lease_with("c", json!({"max": 1, "wait": "3s"})).await;
    assert!(again.is_empty(), "{again:?}");
    assert_eq!(house.ack("c", &[lease]).await, ["ok"]);
}

#[tokio::test]
async fn an_ack_may_carry_an_output() {
    let house = house_with(json!({})).await;
    house.publish(json!({"type": "t"})).await;
    let lease = one(house.lease("c").await);
    let body = json!({"leases": [lease.proof_with(&json!({"output": {"sum": 3}}))]});
    assert_eq!(house.settle("c", "ack", body).await, ["ok"]);
}

#[tokio::test]
async fn leases_survive_a_restart_and_may_be_answered_after_it() {
    let mut house = house_with(json!({})).await;
    house.publish(json!({"type": "t"})).await;
    let lease = one(house.lease_with("c", json!({"max": 1, "lease": "60s", "wait": "10s"})).await);
    house.restart().await;
    assert_eq!(house.ack("c", &[lease]).await, ["ok"]);
    figures(&house, "c", &[("in_flight", 0), ("waiting", 0)]).await;
}

#[tokio::test]
async fn events_of_a_key_come_one_after_the_other_when_order_is_asked_for() {
    let mut house = house_with(json!({"ordered": true})).await;
    for (id, subject) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("a3", "a")] {
        house.publish(json!({"type": "t", "id": id, "subject": subject})).await;
    }
    figures(&house, "c", &[("waiting", 4)]).await;
    let first = lease_until(&house, 2).await;
    assert_eq!(ids(&first), ["a1", "b1"]);
    let a1 = first.iter().find(|lease| lease.event["id"] == "a1").unwrap();
    let b1 = first.iter().find(|lease| lease.event["id"] == "b1").unwrap();
    house.nak("c", a1, json!({"delay": "0ms"})).await;
    house.ack("c", std::slice::from_ref(b1)).await;
    let again = one(house.lease("c").await);
    assert_eq!((&again.event["id"], again.attempt), (&json!("a1"), 2), "a2 waits for a1");
    house.ack("c", &[again]).await;
    let next = one(house.lease("c").await);
    assert_eq!(next.event["id"], "a2");
    house.nak("c", &next, json!({"permanent": true, "error": "bad"})).await;
    let last = one(house.lease("c").await);
    assert_eq!(last.event["id"], "a3", "a dead letter holds up nobody");
    house.ack("c", &[last]).await;
    house.claim("c");
}

async fn lease_until(house: &House, count: usize) -> Vec<Lease> {
    let mut leases = Vec::new();
    while leases.len() < count {
        let more = house.lease("c").await;
        assert!(!more.is_empty(), "{leases:?}");
        leases.extend(more);
    }
    leases
}

fn ids(leases: &[Lease]) -> Vec<&str> {
    let mut ids: Vec<&str> = leases.iter().filter_map(|l| l.event["id"].as_str()).collect();
    ids.sort_unstable();
    ids
}
