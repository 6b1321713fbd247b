//! Sagas that need a person, and what a person can do.

use serde_json::{Value, json};
use skald_tests::{House, Participant, Setup, eventually};

use super::sagas::{define, ended, start, step};

#[tokio::test]
async fn an_undo_that_keeps_failing_sticks_is_told_and_is_retried_by_a_person() {
    let house = House::start().await;
    let p = Participant::start().await;
    let text = format!(
        "saga: s\nsteps:\n{}{}",
        step("a", &p.url("/a"), &p.url("/status/500"), ""),
        step("b", &p.url("/refuse"), &p.url("/u"), ""),
    );
    define(&house, &text).await;
    start(&house, "s", "one", json!({})).await;
    let saga = ended(&house, "one", "stuck").await;
    assert_eq!(saga["steps"][0]["compensation"]["status"], "stuck", "{saga:#}");
    assert_eq!(saga["steps"][0]["compensation"]["attempts"], 3);
    eventually("it is told", async || {
        let told = house.get("/v1/events?type=dev.skald.saga.stuck").await.json_of(200);
        (told["items"][0]["event"]["data"]["step"] == "a").then_some(())
    })
    .await;
    house.post("/v1/sagas/one/cancel", json!({})).await.check(409);
    p.heal();
    house.post("/v1/sagas/one/retry", json!({})).await.check(200);
    ended(&house, "one", "compensated").await;
    let journal = house.get("/v1/sagas/one/journal").await.json_of(200);
    let entries = journal["items"].as_array().unwrap();
    assert!(entries.iter().any(|e| e["kind"] == "retried" && e["by"] == "local"), "{journal:#}");
    assert!(p.effects().values().all(|effect| *effect == 0));
}

#[tokio::test]
async fn past_the_point_of_no_return_nothing_is_undone_and_cancel_is_refused() {
    let house = House::start().await;
    let p = Participant::start().await;
    let text = format!(
        "saga: s\nsteps:\n{}  - {{ step: pay, post: '{}', no_undo: paid, point_of_no_return: true }}\n  - {{ step: ship, post: '{}', no_undo: gone }}\n",
        step("hold", &p.url("/a"), &p.url("/u"), ""),
        p.url("/pay"),
        p.url("/refuse"),
    );
    define(&house, &text).await;
    start(&house, "s", "one", json!({})).await;
    let saga = ended(&house, "one", "stuck").await;
    assert_eq!(saga["steps"][2]["status"], "refused");
    house.post("/v1/sagas/one/cancel", json!({})).await.check(409);
    house.post("/v1/sagas/one/compensate", json!({"reason": "x"})).await.check(409);
    house.post("/v1/sagas/one/skip", json!({"step": "ship"})).await.check(422);
    house.post("/v1/sagas/one/skip", json!({"step": "none", "reason": "x"})).await.check(404);
    p.heal();
    house.post("/v1/sagas/one/retry", json!({})).await.check(200);
    ended(&house, "one", "completed").await;
    let keys: Vec<String> =
        p.calls().iter().map(|call| call.header("idempotency-key").to_owned()).collect();
    assert_eq!(keys[2..], ["one/ship/action/1", "one/ship/action/2"], "a retry is a new round");
}

#[tokio::test]
async fn a_person_skips_abandons_cancels_and_compensates() {
    let house = House::start().await;
    let p = Participant::start().await;
    let stuck = format!(
        "saga: stuck\nsteps:\n{}{}",
        step("a", &p.url("/status/500"), &p.url("/u"), ", on_unknown: stuck"),
        step("b", &p.url("/b"), &p.url("/u"), ", body: \"{{ steps.a.output }}\""),
    );
    define(&house, &stuck).await;
    start(&house, "stuck", "skipped", json!({})).await;
    ended(&house, "skipped", "stuck").await;
    let body = json!({"step": "a", "output": {"by": "hand"}, "reason": "done by phone"});
    house.post("/v1/sagas/skipped/skip", body).await.check(200);
    let saga = ended(&house, "skipped", "completed").await;
    assert_eq!(saga["steps"][0]["status"], "skipped");
    assert_eq!(saga["steps"][1]["output"]["got"], json!({"by": "hand"}));
    start(&house, "stuck", "gone", json!({})).await;
    ended(&house, "gone", "stuck").await;
    house.post("/v1/sagas/gone/abandon", json!({})).await.check(422);
    house.post("/v1/sagas/gone/abandon", json!({"reason": "too old"})).await.check(200);
    ended(&house, "gone", "abandoned").await;
    let waits = format!(
        "saga: waits\nsteps:\n{}  - {{ step: w, wait_for: {{ signal: never }} }}\n",
        step("a", &p.url("/a"), &p.url("/u"), ""),
    );
    define(&house, &waits).await;
    for (id, verb, status) in [("c", "cancel", "cancelled"), ("d", "compensate", "compensated")] {
        start(&house, "waits", id, json!({})).await;
        eventually("it waits", async || {
            let saga = house.get(&format!("/v1/sagas/{id}")).await.json_of(200);
            (saga["steps"][1]["status"] == "acting").then_some(())
        })
        .await;
        house.post(&format!("/v1/sagas/{id}/abandon"), json!({"reason": "x"})).await.check(409);
        house
            .post(&format!("/v1/sagas/{id}/{verb}"), json!({"reason": "x"}).only(verb))
            .await
            .check(200);
        ended(&house, id, status).await;
    }
    assert_eq!(
        p.effects().iter().filter(|((saga, _), n)| saga != "skipped" && **n != 0).count(),
        0
    );
    house.post("/v1/sagas/none/cancel", json!({})).await.check(404);
}

trait Only {
    fn only(self, verb: &str) -> Value;
}

impl Only for Value {
    /// `cancel` takes no reason.
    fn only(self, verb: &str) -> Value {
        if verb == "cancel" { json!({}) } else { self }
    }
}

#[tokio::test]
async fn deadlines_compensate_and_expressions_that_break_say_which() {
    let house = House::start().await;
    let p = Participant::start().await;
    let text = format!(
        "saga: s\ndeadline: 300ms\nsteps:\n{}  - {{ step: w, wait_for: {{ signal: never }} }}\n",
        step("a", &p.url("/a"), &p.url("/u"), ""),
    );
    define(&house, &text).await;
    start(&house, "s", "one", json!({})).await;
    let saga = ended(&house, "one", "compensated").await;
    assert!(saga["error"].as_str().unwrap().contains("deadline"), "{saga:#}");
    let text = format!(
        "saga: x\nsteps:\n{}{}",
        step("a", &p.url("/a"), &p.url("/u"), ""),
        step("b", &p.url("/b"), &p.url("/u"), ", body: \"{{ steps.a.output.not.there }}\""),
    );
    define(&house, &text).await;
    start(&house, "x", "two", json!({})).await;
    let saga = ended(&house, "two", "compensated").await;
    let error = saga["error"].as_str().unwrap();
    assert!(error.contains("steps.a.output.not.there"), "{error}");
    assert_eq!(saga["steps"][0]["status"], "undone");
}

#[tokio::test]
async fn a_variable_that_a_restart_has_not_is_told_and_waits_for_a_person() {
    let folder = tempfile::tempdir().unwrap();
    let p = Participant::start().await;
    let setup = || Setup::dev().data(folder.path());
    let with = || setup().environment("SKALD_SAGAS__ENV", "PAY").environment("PAY", p.url(""));
    let text = "saga: s\nsteps:\n  - { step: a, post: '{{ env.PAY }}/status/500', undo: { post: '{{ env.PAY }}/u' } }\n";
    let mut house = with().start().await;
    define(&house, text).await;
    start(&house, "s", "one", json!({})).await;
    eventually("it is tried", async || p.calls().first().map(|_| ())).await;
    house.terminate().await;
    let mut house = setup().start().await;
    let saga = ended(&house, "one", "stuck").await;
    assert!(saga["error"].as_str().unwrap().contains("env.PAY"), "{saga:#}");
    assert_eq!(saga["steps"][0]["stuck"], true, "{saga:#}");
    let again = house.post("/v1/sagas/one/retry", json!({})).await.json_of(200);
    assert_eq!(again["status"], "stuck", "{again:#}");
    house.terminate().await;
    let house = with().start().await;
    p.heal();
    house.post("/v1/sagas/one/retry", json!({})).await.check(200);
    ended(&house, "one", "completed").await;
    assert!(p.calls().iter().all(|call| call.header("idempotency-key") == "one/a/action/1"));
}

#[tokio::test]
async fn what_was_announced_stays_when_the_output_cannot_be_filled_in() {
    let house = House::start().await;
    let p = Participant::start().await;
    let text = format!(
        "saga: s\nsteps:\n{}  - {{ step: say, publish: com.acme.said, no_undo: said }}\noutput: '{{{{ steps.a.output.nope }}}}'\n",
        step("a", &p.url("/a"), &p.url("/u"), ""),
    );
    define(&house, &text).await;
    start(&house, "s", "one", json!({})).await;
    let saga = ended(&house, "one", "completed").await;
    assert!(saga["error"].as_str().unwrap().contains("steps.a.output.nope"), "{saga:#}");
    let journal = house.get("/v1/sagas/one/journal").await.json_of(200);
    let last = journal["items"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["kind"], &last["error"]), (&json!("completed"), &saga["error"]));
}

#[tokio::test]
async fn a_refused_step_is_not_skipped_while_the_saga_compensates() {
    let house = House::start().await;
    let p = Participant::start().await;
    let text = format!(
        "saga: s\nsteps:\n{}{}",
        step("a", &p.url("/a"), &p.url("/status/500"), ""),
        step("b", &p.url("/refuse"), &p.url("/u"), ""),
    );
    define(&house, &text).await;
    start(&house, "s", "one", json!({})).await;
    ended(&house, "one", "stuck").await;
    let skip = |step: &str| json!({"step": step, "output": {"x": 1}, "reason": "x"});
    house.post("/v1/sagas/one/skip", skip("b")).await.check(409);
    house.post("/v1/sagas/one/skip", skip("a")).await.check(200);
    ended(&house, "one", "compensated").await;
    assert!(p.calls().iter().all(|call| call.header("idempotency-key") != "one/b/compensation/1"));
}

#[tokio::test]
async fn an_attempt_that_waits_for_its_time_is_not_counted() {
    let house = House::start().await;
    let p = Participant::start().await;
    let retry = "retry: { backoff_min: 1h, backoff_max: 1h }";
    let text = format!(
        "saga: s\nsteps:\n  - {{ step: a, post: '{}', {retry}, undo: {{ post: '{}' }} }}\n",
        p.url("/status/500"),
        p.url("/u")
    );
    define(&house, &text).await;
    start(&house, "s", "one", json!({})).await;
    let saga = eventually("it is answered", async || {
        let saga = house.get("/v1/sagas/one").await.json_of(200);
        saga["steps"][0]["error"].is_string().then_some(saga)
    })
    .await;
    assert_eq!(saga["steps"][0]["attempts"], 1, "{saga:#}");
    p.heal();
    house.post("/v1/sagas/one/retry", json!({})).await.check(200);
    assert_eq!(ended(&house, "one", "completed").await["steps"][0]["attempts"], 2);
}

#[tokio::test]
async fn what_cannot_be_sent_waits_for_a_person_and_is_not_undone() {
    let house = House::start().await;
    let p = Participant::start().await;
    let text = format!(
        "saga: s\nsteps:\n  - step: a\n    post: '{}'\n    headers: {{ x-note: '{{{{ input.note }}}}' }}\n    undo: {{ post: '{}' }}\n",
        p.url("/a"),
        p.url("/u"),
    );
    define(&house, &text).await;
    start(&house, "s", "one", json!({"note": "two\r\nlines"})).await;
    let saga = ended(&house, "one", "stuck").await;
    assert!(saga["steps"][0]["error"].as_str().unwrap().contains("x-note"), "{saga:#}");
    assert!(p.calls().is_empty(), "nothing was sent, so nothing is undone");
}
