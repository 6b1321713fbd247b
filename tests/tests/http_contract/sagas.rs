//! Sagas over HTTP: started, answered, compensated, signalled, waited for.

use http::Method;
use serde_json::{Value, json};
use skald_tests::{Client, House, Participant, eventually};

/// Registers `s` with these steps, given as YAML.
pub(super) async fn define(client: &Client, text: &str) {
    let name = text.lines().next().unwrap().strip_prefix("saga: ").unwrap();
    let call = client.call(Method::PUT, &format!("/v1/sagas/definitions/{name}"));
    call.typed("application/yaml", text.to_owned()).send().await.check(201);
}

/// Starts a saga and answers its id.
pub(super) async fn start(client: &Client, definition: &str, id: &str, input: Value) {
    let body = json!({"definition": definition, "id": id, "input": input});
    client.post("/v1/sagas", body).await.check(201);
}

/// Waits for the end of a saga.
pub(super) async fn ended(client: &Client, id: &str, status: &str) -> Value {
    let saga = client.get(&format!("/v1/sagas/{id}?wait=30s")).await.json_of(200);
    assert_eq!(saga["status"], status, "{saga:#}");
    saga
}

/// A step of YAML that calls `url` and is undone at `undo`.
pub(super) fn step(name: &str, url: &str, undo: &str, more: &str) -> String {
    let retry = "retry: { attempts_max: 4, backoff_min: 10ms, backoff_max: 40ms }";
    format!(
        "  - {{ step: {name}, post: '{url}', {retry}, timeout: 2s, undo: {{ post: '{undo}', \
         attempts_max: 3, backoff_min: 10ms, backoff_max: 20ms, \
         body: {{ made: \"{{{{ steps['{name}'].output.id }}}}\" }} }}{more} }}\n"
    )
}

#[tokio::test]
async fn a_saga_runs_its_steps_and_answers() {
    let house = House::start().await;
    let p = Participant::start().await;
    let text = format!(
        "saga: s\nsteps:\n{}{}output: {{ first: \"{{{{ steps.a.output.id }}}}\", n: '{{{{ input.n }}}}' }}\n",
        step("a", &p.url("/a"), &p.url("/undo"), ", body: { n: '{{ input.n }}' }"),
        step("b", &p.url("/nothing"), &p.url("/undo"), ""),
    );
    define(&house, &text).await;
    start(&house, "s", "one", json!({"n": 7})).await;
    let saga = ended(&house, "one", "completed").await;
    assert_eq!(saga["output"], json!({"first": "one/a/action/1", "n": 7}));
    assert_eq!(saga["steps"][0]["status"], "done");
    assert_eq!(saga["steps"][0]["output"]["got"], json!({"n": 7}), "a number stays one");
    assert_eq!(saga["steps"][1]["output"], Value::Null);
    let call = p.calls()[0].clone();
    for (name, value) in [
        ("idempotency-key", "one/a/action/1"),
        ("skald-saga-id", "one"),
        ("skald-saga-definition", "s"),
        ("skald-step", "a"),
        ("skald-operation", "action"),
        ("skald-outcome", ""),
        ("skald-attempt", "1"),
    ] {
        assert_eq!(call.header(name), value, "{name}");
    }
    assert_eq!(call.header("traceparent").len(), 55);
    let journal = house.get("/v1/sagas/one/journal").await.json_of(200);
    let kinds: Vec<&str> =
        journal["items"].as_array().unwrap().iter().map(|e| e["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["started", "acting", "done", "acting", "done", "completed"]);
    super::assert_time(&journal["items"][0]["at"]);
}

#[tokio::test]
async fn a_refusal_undoes_what_was_done_newest_first() {
    let house = House::start().await;
    let p = Participant::start().await;
    let text = format!(
        "saga: s\nevents: steps\nsteps:\n{}{}{}",
        step("a", &p.url("/a"), &p.url("/undo-a"), ""),
        step("b", &p.url("/b"), &p.url("/undo-b"), ""),
        step("c", &p.url("/refuse"), &p.url("/undo-c"), ""),
    );
    define(&house, &text).await;
    start(&house, "s", "one", json!({})).await;
    let saga = ended(&house, "one", "compensated").await;
    let statuses: Vec<&Value> =
        saga["steps"].as_array().unwrap().iter().map(|step| &step["status"]).collect();
    assert_eq!(statuses, ["undone", "undone", "refused"]);
    assert!(saga["error"].as_str().unwrap().contains("c: 422: no"), "{saga}");
    let lines: Vec<String> = p.calls().into_iter().map(|call| call.line).collect();
    assert_eq!(lines, ["POST /a", "POST /b", "POST /refuse", "POST /undo-b", "POST /undo-a"]);
    let undo = p.calls().pop().unwrap();
    assert_eq!(undo.header("idempotency-key"), "one/a/compensation/1");
    assert_eq!(undo.header("skald-outcome"), "done");
    assert_eq!(undo.body, json!({"made": "one/a/action/1"}));
    assert!(p.effects().values().all(|effect| *effect == 0));
    let kinds = eventually("the life-cycle events", async || {
        let listed = house.get("/v1/events?type=dev.skald.saga.%3E&limit=100").await.json_of(200);
        let items = listed["items"].as_array().unwrap();
        let of = |item: &Value| item["event"]["type"].as_str().unwrap()[15..].to_owned();
        let kinds: Vec<String> = items.iter().rev().map(of).collect();
        (kinds.last().is_some_and(|last| last == "compensated")).then_some(kinds)
    })
    .await;
    assert_eq!(
        kinds,
        [
            "started",
            "step.done",
            "step.done",
            "step.refused",
            "compensating",
            "step.undone",
            "step.undone",
            "compensated"
        ]
    );
}

#[tokio::test]
async fn no_clear_answer_is_tried_again_with_the_same_key_and_then_undone_too() {
    let house = House::start().await;
    let p = Participant::start().await;
    for (id, path) in [("g", "/garbage"), ("e", "/status/409"), ("n", "/status/404")] {
        let text = format!("saga: s-{id}\nsteps:\n{}", step("a", &p.url(path), &p.url("/u"), ""));
        define(&house, &text).await;
        start(&house, &format!("s-{id}"), id, json!({})).await;
        let saga = ended(&house, id, "compensated").await;
        assert_eq!(saga["steps"][0]["attempts"], 4, "{saga:#}");
        let calls: Vec<_> =
            p.calls().into_iter().filter(|call| call.header("skald-saga-id") == id).collect();
        assert_eq!(calls.len(), 5);
        assert!(
            calls[..4].iter().all(|c| c.header("idempotency-key") == format!("{id}/a/action/1"))
        );
        assert_eq!(calls[3].header("skald-attempt"), "4");
        assert_eq!(calls[4].header("skald-outcome"), "unknown");
        assert_eq!(calls[4].body, json!({"made": null}), "what is not known is null");
    }
    let text = format!("saga: heals\nsteps:\n{}", step("a", &p.url("/fail/2"), &p.url("/u"), ""));
    define(&house, &text).await;
    start(&house, "heals", "h", json!({})).await;
    assert_eq!(ended(&house, "h", "completed").await["steps"][0]["attempts"], 3);
}

#[tokio::test]
async fn the_same_start_again_is_the_same_saga_also_from_fifty_clients_at_once() {
    let house = House::start().await;
    let p = Participant::start().await;
    define(&house, &format!("saga: s\nsteps:\n{}", step("a", &p.url("/a"), &p.url("/u"), "")))
        .await;
    let body = json!({"definition": "s", "id": "one", "input": {"n": 1}});
    let calls = (0..50).map(|_| house.post("/v1/sagas", body.clone()));
    let answers = futures::future::join_all(calls).await;
    let created = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!((created, answers.iter().filter(|answer| answer.status == 200).count()), (1, 49));
    ended(&house, "one", "completed").await;
    house.post("/v1/sagas", body.clone()).await.check(200);
    let other = json!({"definition": "s", "id": "one", "input": {"n": 2}});
    house.post("/v1/sagas", other).await.check(409);
    assert_eq!(p.calls().len(), 1);
    house.post("/v1/sagas", json!({"definition": "none"})).await.check(422);
    house.post("/v1/sagas", json!({"definition": "s", "id": "wait"})).await.check(422);
    let faults = house.post("/v1/sagas", json!({"id": "a b", "more": 1})).await.json_of(422);
    assert_eq!(faults["errors"].as_array().unwrap().len(), 3, "{faults}");
}

#[tokio::test]
async fn signals_are_taken_kept_when_early_and_time_out() {
    let house = House::start().await;
    let p = Participant::start().await;
    let text = format!(
        "saga: s\nsteps:\n{}  - {{ step: first, wait_for: {{ signal: ok, timeout: '1h' }} }}\n  - {{ step: second, wait_for: {{ signal: ok, timeout: 1h }} }}\noutput: ['{{{{ steps.first.output.n }}}}', '{{{{ steps.second.output.n }}}}']\n",
        step("a", &p.url("/a"), &p.url("/u"), ""),
    );
    define(&house, &text).await;
    start(&house, "s", "one", json!({})).await;
    house.post("/v1/sagas/one/signals/ok", json!({"n": 1})).await.check(200);
    house.post("/v1/sagas/one/signals/ok", json!({"n": 2})).await.check(200);
    assert_eq!(ended(&house, "one", "completed").await["output"], json!([1, 2]));
    house.post("/v1/sagas/one/signals/ok", json!({})).await.check(409);
    house.post("/v1/sagas/none/signals/ok", json!({})).await.check(404);
    let late = format!(
        "saga: late\nsteps:\n{}  - {{ step: w, wait_for: {{ signal: ok, timeout: 100ms }} }}\n",
        step("a", &p.url("/a"), &p.url("/u"), ""),
    );
    define(&house, &late).await;
    start(&house, "late", "two", json!({})).await;
    let saga = ended(&house, "two", "compensated").await;
    assert_eq!(saga["steps"][1]["status"], "refused");
}

#[tokio::test]
async fn a_callback_settles_a_step_that_answered_later() {
    let house = House::start().await;
    let p = Participant::start().await;
    define(&house, &format!("saga: s\nsteps:\n{}", step("a", &p.url("/later"), &p.url("/u"), "")))
        .await;
    for (id, status) in [("yes", "completed"), ("no", "compensated")] {
        start(&house, "s", id, json!({})).await;
        eventually("it waits", async || {
            let journal = house.get(&format!("/v1/sagas/{id}/journal")).await.text();
            journal.contains("later").then_some(())
        })
        .await;
        let (verb, body) = match id {
            "yes" => ("complete", json!({"output": {"n": 1}})),
            _ => ("refuse", json!({"error": "sold out"})),
        };
        house.post(&format!("/v1/sagas/{id}/steps/a/{verb}"), body.clone()).await.check(200);
        ended(&house, id, status).await;
        house.post(&format!("/v1/sagas/{id}/steps/a/{verb}"), body).await.check(200);
    }
    house.post("/v1/sagas/yes/steps/none/complete", json!({})).await.check(404);
}

#[tokio::test]
async fn events_start_sagas_once_and_are_waited_for() {
    let house = House::start().await;
    let text = "saga: s\nstart_on: com.acme.placed\nid: '{{ event.data.order }}'\ninput: '{{ event.data }}'\nsteps:\n  - { step: paid, wait_for: { event: com.acme.paid, key: '{{ input.order }}', of: '{{ event.data.order }}', timeout: 1h } }\n  - { step: told, publish: com.acme.told, body: '{{ steps.paid.output.data.sum }}', no_undo: said }\n";
    define(&house, text).await;
    for _ in 0..2 {
        house.publish(json!({"type": "com.acme.placed", "data": {"order": "o1"}})).await;
    }
    let saga = eventually("it waits", async || {
        let saga = house.get("/v1/sagas/s:o1").await;
        (saga.status == 200 && saga.text().contains("acting")).then(|| saga.json_of(200))
    })
    .await;
    assert_eq!(saga["input"], json!({"order": "o1"}));
    house.publish(json!({"type": "com.acme.paid", "data": {"order": "other"}})).await;
    house.publish(json!({"type": "com.acme.paid", "data": {"order": "o1", "sum": 5}})).await;
    ended(&house, "s:o1", "completed").await;
    let told = eventually("it is published", async || {
        let listed = house.get("/v1/events?type=com.acme.told").await.json_of(200);
        listed["items"].as_array().unwrap().first().cloned()
    })
    .await;
    assert_eq!(told["event"]["data"], 5);
    assert_eq!(told["event"]["id"], "s:o1/told/action/1");
    let seq = house.get("/v1/events?type=com.acme.placed&after=0").await.json_of(200);
    let seq = seq["items"][0]["seq"].clone();
    let trace = house.get(&format!("/v1/events/{seq}/trace")).await.json_of(200);
    assert_eq!(trace["sagas"][0]["id"], "s:o1", "{trace:#}");
}

#[tokio::test]
async fn locks_serialise_and_children_are_sagas() {
    let house = House::start().await;
    let p = Participant::start().await;
    let child = format!("saga: child\nsteps:\n{}", step("c", &p.url("/c"), &p.url("/u"), ""));
    define(&house, &child).await;
    let text = format!(
        "saga: s\nlock: ['customer:{{{{ input.c }}}}']\nsteps:\n{}  - {{ step: sub, saga: child, input: {{ x: 1 }}, undo: {{ post: '{}' }} }}\n{}",
        step(
            "each",
            &p.url("/e"),
            &p.url("/u"),
            ", for_each: '{{ input.items }}', max_concurrent: 2, body: '{{ item }}'"
        ),
        p.url("/undo-sub"),
        step("last", &p.url("/{{ input.end }}"), &p.url("/u"), ""),
    );
    define(&house, &text).await;
    for n in 0..6 {
        let end = if n % 2 == 0 { "fine" } else { "refuse" };
        start(&house, "s", &format!("s{n}"), json!({"c": "one", "items": [1, 2, 3], "end": end}))
            .await;
    }
    let ids: Vec<String> = (0..6).map(|n| format!("s{n}")).collect();
    let waited = house.post("/v1/wait", json!({"ids": ids, "timeout": "30s"})).await.json_of(200);
    assert_eq!(waited["pending"], json!([]));
    for n in 0..6 {
        let status = if n % 2 == 0 { "completed" } else { "compensated" };
        let saga = ended(&house, &format!("s{n}"), status).await;
        assert_eq!(saga["steps"][1]["name"], "each.0", "{saga:#}");
        let child = house.get(&format!("/v1/sagas/s{n}:sub")).await.json_of(200);
        assert_eq!(
            (&child["status"], &child["parent"]),
            (&json!("completed"), &json!(format!("s{n}")))
        );
    }
    // Under one lock nobody's calls are between another's.
    let order: Vec<String> =
        p.calls().iter().map(|c| c.header("skald-saga-id")[..2].to_owned()).collect();
    let mut runs = order.clone();
    runs.dedup();
    assert_eq!(runs.len(), 6, "{order:?}");
}

#[tokio::test]
async fn lists_are_pages_newest_first() {
    let house = House::start().await;
    define(&house, "saga: s\nsteps: [{ step: nap, sleep: 1ms }]\n").await;
    for n in 0..5 {
        start(&house, "s", &format!("s{n}"), json!({})).await;
        ended(&house, &format!("s{n}"), "completed").await;
    }
    let page = house.get("/v1/sagas?definition=s&status=completed&limit=3").await.json_of(200);
    let ids = |page: &Value| -> Vec<String> {
        let items = page["items"].as_array().unwrap();
        items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&page), ["s4", "s3", "s2"]);
    let next = page["next"].as_str().unwrap();
    let page =
        house.get(&format!("/v1/sagas?definition=s&limit=3&cursor={next}")).await.json_of(200);
    assert_eq!((ids(&page), &page["next"]), (vec!["s1".to_owned(), "s0".to_owned()], &Value::Null));
    house.get("/v1/sagas?status=odd").await.check(422);
}

#[tokio::test]
async fn a_saga_that_an_event_starts_does_not_wait_to_be_found() {
    let house = House::start().await;
    define(
        &house,
        "saga: s\nstart_on: t\nid: '{{ event.id }}'\nsteps:\n  - { step: nap, sleep: 1ms }\n",
    )
    .await;
    let time = |of: &Value, name: &str| {
        of[name].as_str().unwrap().parse::<schemas::Timestamp>().unwrap().as_micros()
    };
    let mut slow = 0;
    for n in 0..16 {
        house.publish(json!({"type": "t", "id": n.to_string()})).await;
        let id = format!("s:{n}");
        eventually("it has begun", async || {
            (house.get(&format!("/v1/sagas/{id}")).await.status == 200).then_some(())
        })
        .await;
        let saga = ended(&house, &id, "completed").await;
        slow += usize::from(time(&saga, "ended_at") - time(&saga, "created_at") > 400_000);
    }
    // A node looks by itself once a second: two of three would be as slow.
    assert!(slow <= 6, "{slow} of 16 were slow");
}

#[tokio::test]
async fn who_waits_for_a_saga_that_no_event_has_started_yet_is_told_of_its_end() {
    let house = House::start().await;
    define(
        &house,
        "saga: s\nstart_on: t\nid: '{{ event.id }}'\nsteps:\n  - { step: nap, sleep: 300ms }\n",
    )
    .await;
    let wait = json!({"ids": ["s:1"], "timeout": "100ms"});
    let waited = house.post("/v1/wait", wait).await.json_of(200);
    assert_eq!(waited["pending"], json!(["s:1"]), "it is not there, and has not ended");
    house.get("/v1/sagas/s:1?wait=20s").await.check(404);
    let wait = json!({"ids": ["s:1"], "timeout": "30s"});
    let event = json!({"type": "t", "id": "1"});
    let (waited, _) = tokio::join!(house.post("/v1/wait", wait), house.publish(event));
    assert_eq!(waited.json_of(200)["pending"], json!([]));
    let saga = house.get("/v1/sagas/s:1").await.json_of(200);
    assert_eq!(saga["status"], "completed");
}
