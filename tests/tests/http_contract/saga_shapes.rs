//! Sagas of every shape: groups, lists, items, conditions, probes, children, and what they tell.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use skald_tests::{Client, House, Participant, eventually};

use super::sagas::{define, ended, start, step};

fn names(p: &Participant, operation: &str) -> Vec<String> {
    let calls = p.calls().into_iter().filter(|call| call.header("skald-operation") == operation);
    calls.map(|call| call.header("skald-step").to_owned()).collect()
}

#[tokio::test]
async fn groups_and_items_run_at_once_within_their_bound() {
    let house = House::start().await;
    let p = Participant::start().await;
    let slow = |name: &str| {
        format!("{{ step: {name}, post: '{0}', undo: {{ post: '{0}' }} }}", p.url("/slow/150"))
    };
    let group = ["a", "b", "c", "d"].map(slow).join(", ");
    let end = format!(
        "  - {{ step: end, post: '{}', undo: {{ post: '{}' }} }}\n",
        p.url("/refuse"),
        p.url("/u")
    );
    for (name, bound, most) in [("free", "", 4), ("bound", "    max_concurrent: 2\n", 2)] {
        define(&house, &format!("saga: {name}\nsteps:\n  - together: [ {group} ]\n{bound}{end}"))
            .await;
        let began = Instant::now();
        start(&house, name, name, json!({})).await;
        ended(&house, name, "compensated").await;
        assert_eq!(p.most_at_once(), 4, "undos of a group run at once too");
        let rounds = u32::try_from(4 / most + 1).unwrap();
        assert!(began.elapsed() >= Duration::from_millis(150) * rounds, "{name}");
    }
    for (name, bound, most) in [("one", "", 1), ("three", ", max_concurrent: 3", 3)] {
        let each = slow("each").trim_end_matches('}').to_owned();
        let text = format!(
            "saga: {name}\nsteps:\n  - {each}, for_each: '{{{{ input.items }}}}'{bound}, body: '{{{{ item }}}}' }}\n{end}"
        );
        define(&house, &text).await;
        start(&house, name, name, json!({"items": [1, 2, 3, 4, 5, 6]})).await;
        let saga = ended(&house, name, "compensated").await;
        assert_eq!(p.most_at_once(), most, "{name}");
        assert_eq!(saga["steps"][6]["name"], "each.5");
        assert_eq!(saga["steps"][6]["status"], "undone", "{saga:#}");
    }
    assert!(p.effects().values().all(|effect| *effect == 0));
}

#[tokio::test]
async fn a_list_in_a_group_is_a_sequence_and_undone_backwards() {
    let house = House::start().await;
    let p = Participant::start().await;
    let part = |name: &str, path: &str| {
        format!("{{ step: {name}, post: '{}', undo: {{ post: '{}' }} }}", p.url(path), p.url("/u"))
    };
    let text = format!(
        "saga: s\nsteps:\n  - {}\n  - together:\n    - [ {}, {}, {} ]\n    - {}\n  - {}\n",
        part("first", "/x"),
        part("a", "/x"),
        part("b", "/x"),
        part("c", "/refuse"),
        part("d", "/slow/200"),
        part("never", "/x"),
    );
    define(&house, &text).await;
    start(&house, "s", "one", json!({})).await;
    let saga = ended(&house, "one", "compensated").await;
    let done = names(&p, "action");
    let at = |name: &str| done.iter().position(|known| known == name).unwrap();
    assert!(at("a") < at("b") && at("b") < at("c"), "{done:?}");
    assert!(!done.contains(&"never".to_owned()));
    // What was still acting is waited for, and undone with the rest; the first step last.
    let undone = names(&p, "compensation");
    let at = |name: &str| undone.iter().position(|known| known == name).unwrap();
    assert!(at("b") < at("a") && at("first") == 3 && undone.len() == 4, "{undone:?}");
    let status = |name: &str| {
        let steps = saga["steps"].as_array().unwrap();
        steps.iter().find(|step| step["name"] == name).unwrap()["status"].clone()
    };
    assert_eq!(
        (status("c"), status("d"), status("never")),
        (json!("refused"), json!("undone"), json!("waiting"))
    );
}

#[tokio::test]
async fn every_method_is_called_and_what_its_condition_excludes_is_skipped() {
    let house = House::start().await;
    let p = Participant::start().await;
    let mut text = "saga: s\nsteps:\n".to_owned();
    for verb in ["post", "put", "patch", "delete", "get"] {
        let body = if verb == "get" { "" } else { ", body: { a: 1 }" };
        text += &format!(
            "  - {{ step: {verb}, {verb}: '{}'{body}, headers: {{ x-own: '{{{{ input.h }}}}' }}, undo: {{ {verb}: '{}' }} }}\n",
            p.url("/x"),
            p.url("/u")
        );
    }
    text += &format!(
        "  - {{ step: not, post: '{}', when: '{{{{ input.no }}}}', undo: {{ post: '{}' }} }}\n",
        p.url("/x"),
        p.url("/u")
    );
    text += "  - { step: nap, sleep: '{{ input.nap }}' }\n";
    text += &format!(
        "  - {{ step: end, post: '{}', undo: {{ post: '{}' }} }}\n",
        p.url("/refuse"),
        p.url("/u")
    );
    define(&house, &text).await;
    let began = Instant::now();
    start(&house, "s", "one", json!({"no": false, "h": "mine", "nap": "300ms"})).await;
    let saga = ended(&house, "one", "compensated").await;
    assert!(began.elapsed() >= Duration::from_millis(300), "it slept");
    let lines: Vec<String> = p.calls().iter().map(|call| call.line.clone()).collect();
    assert_eq!(lines[..5], ["POST /x", "PUT /x", "PATCH /x", "DELETE /x", "GET /x"]);
    assert_eq!(lines[6..], ["GET /u", "DELETE /u", "PATCH /u", "PUT /u", "POST /u"]);
    assert_eq!(p.calls()[3].header("x-own"), "mine");
    assert_eq!(
        (&saga["steps"][5]["status"], &saga["steps"][5]["attempts"]),
        (&json!("skipped"), &json!(0))
    );
}

#[tokio::test]
async fn a_probe_tells_what_became_of_a_step() {
    let house = House::start().await;
    let p = Participant::start().await;
    for (id, probe, status) in
        [("was", "/answer/done", "completed"), ("was-not", "/answer/refused", "compensated")]
    {
        let more = format!(", on_unknown: {{ probe: {{ get: '{}' }} }}", p.url(probe));
        let text = format!(
            "saga: {id}\nsteps:\n{}{}",
            step("before", &p.url("/x"), &p.url("/u"), ""),
            step("a", &p.url("/status/500"), &p.url("/u"), &more)
        );
        define(&house, &text).await;
        start(&house, id, id, json!({})).await;
        let saga = ended(&house, id, status).await;
        let calls = p.calls();
        let probe = calls
            .iter()
            .find(|call| {
                call.header("skald-operation") == "probe" && call.header("skald-saga-id") == id
            })
            .unwrap();
        assert_eq!(probe.header("idempotency-key"), format!("{id}/a/probe/1"));
        assert!(
            saga["steps"][1]["compensation"].is_null(),
            "what never was is not undone: {saga:#}"
        );
    }
}

#[tokio::test]
async fn headers_of_an_answer_override_its_status_and_put_off_the_next_attempt() {
    let house = House::start().await;
    let p = Participant::start().await;
    for (id, path, status) in [
        ("d", "/answer/done", "completed"),
        ("r", "/answer/refused", "compensated"),
        ("t", "/answer/retry", "compensated"),
        ("w", "/after/1", "completed"),
        ("l", "/large/2000000", "compensated"),
    ] {
        let text = format!("saga: s-{id}\nsteps:\n{}", step("a", &p.url(path), &p.url("/u"), ""));
        define(&house, &text).await;
        let began = Instant::now();
        start(&house, &format!("s-{id}"), id, json!({})).await;
        let saga = ended(&house, id, status).await;
        let attempts = saga["steps"][0]["attempts"].as_i64().unwrap();
        let wanted = match id {
            "t" | "l" => 4,
            "w" => 2,
            _ => 1,
        };
        assert_eq!(attempts, wanted, "{saga:#}");
        assert!(id != "w" || began.elapsed() >= Duration::from_secs(1), "Retry-After is honoured");
    }
    define(
        &house,
        &format!("saga: later\nsteps:\n{}", step("a", &p.url("/answer/later"), &p.url("/u"), "")),
    )
    .await;
    start(&house, "later", "later", json!({})).await;
    eventually("it waits", async || {
        let journal = house.get("/v1/sagas/later/journal").await.text();
        journal.contains("\"later\"").then_some(())
    })
    .await;
    let large = json!({"output": "x".repeat(1_100_000)});
    house.post("/v1/sagas/later/steps/a/complete", large.clone()).await.check(413);
    house.post("/v1/sagas/later/signals/x", large).await.check(413);
    house.post("/v1/sagas/later/steps/a/complete", json!({"output": 5})).await.check(200);
    assert_eq!(ended(&house, "later", "completed").await["steps"][0]["output"], 5);
    let large = json!({"definition": "later", "input": "x".repeat(1_100_000)});
    house.post("/v1/sagas", large).await.check(413);
    let deep = (0..120).fold(json!(1), |inner, _| json!([inner]));
    let start = json!({"definition": "later", "input": deep});
    assert_eq!(house.post("/v1/sagas", start).await.faults(), ["/input"]);
}

#[tokio::test]
async fn each_item_waits_for_a_signal_of_its_own() {
    let house = House::start().await;
    let text = "saga: s\nsteps:\n  - { step: ok, for_each: '{{ input.who }}', max_concurrent: 2, wait_for: { signal: ok, timeout: 1h } }\noutput: '{{ steps.ok.output }}'\n";
    define(&house, text).await;
    start(&house, "s", "one", json!({"who": ["ann", "bob", "eve"]})).await;
    for n in 1..=3 {
        house.post("/v1/sagas/one/signals/ok", json!(n)).await.check(200);
    }
    assert_eq!(ended(&house, "one", "completed").await["output"], json!([1, 2, 3]));
}

async fn runs(client: &Client, id: &str, step: usize) {
    eventually("the step runs", async || {
        let saga = client.get(&format!("/v1/sagas/{id}")).await;
        let is_there = saga.status == 200;
        (is_there && saga.json_of(200)["steps"][step]["status"] == "acting").then_some(())
    })
    .await;
}

#[tokio::test]
async fn children_refuse_are_cancelled_with_their_parent_and_undo() {
    let house = House::start().await;
    let p = Participant::start().await;
    let child = format!(
        "saga: child\nsteps:\n{}  - {{ step: wait, wait_for: {{ signal: go }}, when: '{{{{ input.waits }}}}' }}\n{}",
        step("c", &p.url("/x"), &p.url("/u"), ""),
        step("end", &p.url("/{{ input.end }}"), &p.url("/u"), ""),
    );
    define(&house, &child).await;
    let back = format!(
        "saga: back\nsteps:\n{}",
        step("back", &p.url("/back"), &p.url("/u"), ", body: '{{ input }}'")
    );
    define(&house, &back).await;
    let text = format!(
        "saga: s\nsteps:\n  - {{ step: sub, saga: child, input: '{{{{ input }}}}', undo: {{ saga: back, input: {{ of: '{{{{ saga.id }}}}' }} }} }}\n{}",
        step("last", &p.url("/{{ input.last }}"), &p.url("/u"), ""),
    );
    define(&house, &text).await;
    // Refused inside: the child undoes itself, and the parent takes it as a refusal.
    start(&house, "s", "one", json!({"waits": false, "end": "refuse", "last": "x"})).await;
    let saga = ended(&house, "one", "compensated").await;
    assert_eq!(saga["steps"][0]["status"], "refused");
    ended(&house, "one:sub", "compensated").await;
    // Cancelled from above.
    start(&house, "s", "two", json!({"waits": true, "end": "x", "last": "x"})).await;
    runs(&house, "two", 0).await;
    runs(&house, "two:sub", 1).await;
    house.post("/v1/sagas/two/cancel", json!({"reason": "not needed"})).await.check(200);
    assert_eq!(ended(&house, "two", "cancelled").await["error"], "not needed");
    ended(&house, "two:sub", "cancelled").await;
    // Undone by a saga.
    start(&house, "s", "three", json!({"waits": false, "end": "x", "last": "refuse"})).await;
    let saga = ended(&house, "three", "compensated").await;
    assert_eq!(saga["steps"][0]["status"], "undone", "{saga:#}");
    ended(&house, "three:sub", "completed").await;
    let calls = p.calls();
    let back = calls.iter().find(|call| call.line == "POST /back").unwrap();
    assert_eq!(back.body, json!({"of": "three"}));
    // A definition that runs itself is refused.
    let call = house.call(Method::PUT, "/v1/sagas/definitions/child");
    let text = "saga: child\nsteps:\n  - { step: a, saga: s, no_undo: x }\n";
    let refused = call.typed("application/yaml", text).send().await.json_of(422);
    assert!(refused["errors"][0]["detail"].as_str().unwrap().contains("in turn"), "{refused:#}");
}

#[tokio::test]
async fn a_saga_tells_its_life_and_its_steps_where_it_is_asked_to() {
    let house = House::start().await;
    let p = Participant::start().await;
    let text = format!(
        "saga: s\nevents: steps\nsteps:\n{}{}",
        step("a", &p.url("/x"), &p.url("/u"), ""),
        step("b", &p.url("/refuse"), &p.url("/u"), ""),
    );
    define(&house, &text).await;
    start(&house, "s", "one", json!({})).await;
    ended(&house, "one", "compensated").await;
    let told = eventually("all of it is told", async || {
        let page = house.get("/v1/events?type=dev.skald.saga.%3E&after=0").await.json_of(200);
        let items = page["items"].as_array().unwrap().clone();
        (items.len() == 6).then_some(items)
    })
    .await;
    let kinds: Vec<&str> = told
        .iter()
        .map(|item| {
            item["event"]["type"].as_str().unwrap().strip_prefix("dev.skald.saga.").unwrap()
        })
        .collect();
    assert_eq!(
        kinds,
        ["started", "step.done", "step.refused", "compensating", "step.undone", "compensated"]
    );
    for item in &told {
        assert_eq!(
            (&item["event"]["data"]["id"], &item["event"]["subject"]),
            (&json!("one"), &json!("one"))
        );
    }
    let page = house.get("/metrics").await.text();
    for line in [
        "skald_sagas_started_total{definition=\"s\"} 1",
        "skald_sagas_ended_total{definition=\"s\",status=\"compensated\"} 1",
        "skald_saga_step_seconds_count{definition=\"s\",operation=\"action\"} 2",
        "skald_saga_step_seconds_count{definition=\"s\",operation=\"compensation\"} 1",
        "skald_saga_shards_taken_total 16",
        "skald_sagas_open{status=\"stuck\"} 0",
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_that_run_keep_their_version_when_it_is_replaced() {
    let house = House::start().await;
    let old = "saga: s\nsteps:\n  - { step: ok, wait_for: { signal: ok } }\noutput: old\n";
    define(&house, old).await;
    let all: Vec<String> = (0..1_000).map(|n| format!("s{n}")).collect();
    for chunk in all.chunks(100) {
        futures::future::join_all(chunk.iter().map(|id| start(&house, "s", id, json!({})))).await;
    }
    let new = old.replace("output: old", "  - { step: more, sleep: 1ms }\noutput: new");
    define(&house, &new).await;
    start(&house, "s", "newer", json!({})).await;
    for chunk in all.chunks(100) {
        let signal = async |id: &String| {
            house.post(&format!("/v1/sagas/{id}/signals/ok"), json!({})).await.check(200);
        };
        futures::future::join_all(chunk.iter().map(signal)).await;
    }
    house.post("/v1/sagas/newer/signals/ok", json!({})).await.check(200);
    let waited = house.post("/v1/wait", json!({"ids": all, "timeout": "30s"})).await.json_of(200);
    assert_eq!(waited["pending"], json!([]));
    for id in all.iter().step_by(97) {
        let saga: Value = ended(&house, id, "completed").await;
        assert_eq!((&saga["version"], &saga["output"]), (&json!(1), &json!("old")));
    }
    let saga = ended(&house, "newer", "completed").await;
    assert_eq!((&saga["version"], &saga["output"]), (&json!(2), &json!("new")));
}
