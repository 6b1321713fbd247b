//! Webhooks: nobody else pays for one that is slow, busy or broken.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skald_tests::{
    House, Misbehaviour, RawReceiver, Received, Receiver, Setup, ShiftedClock, eventually,
};

use super::publish_many;
use super::webhooks::{path, webhook};

#[tokio::test]
async fn endpoints_that_hang_do_not_slow_a_healthy_one() {
    let house = House::start().await;
    let hanging = RawReceiver::that(Misbehaviour::Hangs).await;
    for _ in 0..100 {
        webhook(&house, &hanging.url(), json!({"timeout": "60s"})).await;
    }
    let healthy = Receiver::answering(&[200]).await;
    webhook(&house, &healthy.url(), json!({})).await;
    publish_many(&house, "t", 20).await;
    eventually("all places of those that hang taken", async || {
        (hanging.connections() >= 1_000).then_some(())
    })
    .await;
    healthy.wait_for(20).await;
    for round in 0..20 {
        let begun = Instant::now();
        house.publish(json!({"type": "t"})).await;
        healthy.wait_for(21 + round).await;
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(2), "the {round}th took {took:?}");
    }
    assert_eq!(hanging.connections(), 1_000, "ten each, and no more");
}

#[tokio::test]
async fn an_endpoint_that_has_too_much_to_do_is_left_alone_as_a_whole() {
    let house = House::start().await;
    let headers = [("retry-after", "2")];
    let receiver = Receiver::refusing_with(&[429, 200], &headers).await;
    let more = json!({"max_concurrent": 1, "retry": ["10ms"]});
    let hook = webhook(&house, &receiver.url(), more).await;
    publish_many(&house, "t", 5).await;
    receiver.wait_for(1).await;
    eventually("held", async || {
        let hook = house.get(&path(&hook, "")).await.json_of(200);
        (hook["health"]["held_until"] != Value::Null).then_some(())
    })
    .await;
    let posted = receiver.wait_for(6).await;
    let pause = posted[1].at - posted[0].at;
    assert!(pause >= Duration::from_millis(1_900), "{pause:?}");
    let rest = posted[5].at - posted[1].at;
    assert!(rest < Duration::from_secs(2), "one pause, not one for each: {rest:?}");
}

#[tokio::test]
async fn endpoints_that_fail_at_the_same_moment_are_judged_each_for_itself() {
    let house = House::start().await;
    let gone = Receiver::answering(&[410]).await;
    let busy = Receiver::refusing_with(&[429], &[("retry-after", "60")]).await;
    let broken = Receiver::answering(&[500]).await;
    let mut hooks = Vec::new();
    for receiver in [&gone, &busy, &broken, &broken, &busy, &gone] {
        hooks.push(webhook(&house, &receiver.url(), json!({"retry": ["1h"]})).await);
    }
    house.publish(json!({"type": "t"})).await;
    let (gone, busy, broken) = ((true, true), (false, true), (false, false));
    for (hook, expected) in hooks.iter().zip([gone, busy, broken, broken, busy, gone]) {
        let found = eventually("failed once", async || {
            let hook = house.get(&path(hook, "")).await.json_of(200);
            (hook["health"]["failing_since"] != Value::Null).then_some(hook)
        })
        .await;
        let is_held = found["health"]["held_until"] != Value::Null;
        let is_gone = found["disabled_reason"] == "gone";
        assert_eq!((is_gone, is_gone || is_held), expected, "{found}");
    }
}

#[tokio::test]
async fn under_a_steady_flow_a_busy_endpoint_gets_no_more_than_was_on_its_way() {
    let house = House::start().await;
    let receiver = Receiver::refusing_with(&[200, 200, 429, 200], &[("retry-after", "2")]).await;
    webhook(&house, &receiver.url(), json!({"retry": ["10ms"]})).await;
    for id in 0..60 {
        house.publish(json!({"type": "t", "id": id.to_string()})).await;
    }
    let refused = receiver.wait_for(3).await[2].at;
    let all = receiver.wait_for(61).await;
    let within =
        |one: &&Received| one.at > refused && one.at - refused < Duration::from_millis(1_800);
    // Ten at once is what it said it can take, and a batch may have been about to begin.
    let meanwhile = all.iter().filter(within).count();
    assert!(meanwhile <= 20, "{meanwhile} of {} came in the pause", all.len());
}

#[tokio::test]
async fn an_endpoint_that_fails_for_five_days_is_warned_of_and_disabled() {
    let folder = tempfile::TempDir::new().unwrap();
    let clock = ShiftedClock::new(folder.path());
    let house = clock.for_process(Setup::dev()).start().await;
    let receiver = Receiver::answering(&[500]).await;
    let retry = json!({"retry": ["1s", "1s", "1s", "1s", "1s"], "max_concurrent": 1});
    let hook = webhook(&house, &receiver.url(), retry).await;
    house.publish(json!({"type": "t"})).await;
    eventually("failing", async || {
        let hook = house.get(&path(&hook, "")).await.json_of(200);
        (hook["health"]["failing_since"] != Value::Null).then_some(())
    })
    .await;
    let warnings = async || {
        let told = house.get("/v1/events?type=dev.skald.webhook.endpoint.failing").await;
        let percent = |one: &Value| one["event"]["data"]["percent"].as_i64().unwrap();
        told.json_of(200)["items"].as_array().unwrap().iter().map(percent).collect::<Vec<_>>()
    };
    for (passed, told) in [("+63h", &[50][..]), ("+94h", &[75, 50])] {
        clock.shift(passed);
        house.publish(json!({"type": "t"})).await;
        eventually("a warning", async || (warnings().await == told).then_some(())).await;
    }
    clock.shift("+123h");
    house.publish(json!({"type": "t"})).await;
    eventually("disabled", async || {
        let hook = house.get(&path(&hook, "")).await.json_of(200);
        (hook["state"] == "disabled" && hook["disabled_reason"] == "failing").then_some(())
    })
    .await;
    assert_eq!(warnings().await, [75, 50]);
}

#[tokio::test]
async fn a_retry_after_in_the_form_of_a_date_is_kept_too() {
    let house = House::start().await;
    let now = u64::try_from(bus::Clock::system().now().as_micros()).unwrap();
    let then = std::time::UNIX_EPOCH + Duration::from_micros(now) + Duration::from_secs(3);
    let date = httpdate::fmt_http_date(then);
    let receiver = Receiver::refusing_with(&[503, 200], &[("retry-after", &date)]).await;
    webhook(&house, &receiver.url(), json!({"retry": ["10ms"]})).await;
    house.publish(json!({"type": "t"})).await;
    let posted = receiver.wait_for(2).await;
    let pause = posted[1].at - posted[0].at;
    assert!(pause >= Duration::from_millis(1_500), "{pause:?}");
}

#[tokio::test]
async fn after_ten_failures_in_a_row_one_request_probes_at_a_time() {
    let house = House::start().await;
    let mut statuses = [500; 12];
    statuses[11] = 200;
    let receiver = Receiver::answering(&statuses).await;
    let hook = webhook(&house, &receiver.url(), json!({"retry": ["50ms", "50ms", "50ms"]})).await;
    publish_many(&house, "t", 30).await;
    let posted = receiver.wait_for(12).await;
    let probe = posted[11].at - posted[10].at;
    assert!(probe >= Duration::from_millis(800), "an open breaker waits: {probe:?}");
    receiver.wait_for(41).await;
    eventually("healthy", async || {
        let hook = house.get(&path(&hook, "")).await.json_of(200);
        let closed = hook["health"]["held_until"] == Value::Null;
        (hook["health"]["status"] == "healthy" && closed).then_some(())
    })
    .await;
}

#[tokio::test]
async fn in_an_ordered_webhook_a_failing_key_holds_back_itself_only() {
    let house = House::start().await;
    let failing = Receiver::answering(&[500, 200]).await;
    let more = json!({"ordered": true, "retry": ["1s"], "max_concurrent": 2});
    webhook(&house, &failing.url(), more).await;
    for (id, key) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b")] {
        house.publish(json!({"type": "t", "id": id, "partitionkey": key})).await;
        if id == "a1" {
            failing.wait_for(1).await;
        }
    }
    let posted = failing.wait_for(5).await;
    let ids: Vec<String> =
        posted.iter().map(|one| one.json()["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, ["a1", "b1", "b2", "a1", "a2"]);
}
