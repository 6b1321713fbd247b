//! What one saga cannot write stops no other: events that cannot be made, answers as large as an event.

use axum::Router;
use axum::http::StatusCode;
use serde_json::{Value, json};
use skald_tests::{House, Participant, eventually};

use super::sagas::{define, ended, start, step};

/// A participant that says no in almost a mebibyte.
async fn wordy() -> String {
    let body = json!({"detail": "x".repeat(1_048_563)}).to_string();
    let router = Router::new().fallback(async || (StatusCode::UNPROCESSABLE_ENTITY, body));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

/// The life-cycle event of a saga, once it is there.
async fn told(house: &House, kind: &str, id: &str) -> Value {
    eventually(&format!("{kind} of {id} is told"), async || {
        let path = format!("/v1/events?type=dev.skald.saga.{kind}&limit=100");
        let listed = house.get(&path).await.json_of(200);
        let mut items = listed["items"].as_array().unwrap().iter();
        items.find(|item| item["event"]["subject"] == id).map(|item| item["event"]["data"].clone())
    })
    .await
}

#[tokio::test]
async fn an_event_that_cannot_be_made_is_refused_where_it_would_be_published() {
    let mut house = House::start().await;
    let says = "publish: com.acme.done, subject: '{{ input.customer }}', no_undo: said";
    define(
        &house,
        &format!("saga: s\nstart_on: com.acme.placed\nid: '{{{{ event.id }}}}'\ninput: '{{{{ event.data }}}}'\nsteps:\n  - {{ step: say, {says} }}\n"),
    )
    .await;
    for (id, customer) in [("good", "ann"), ("bad", "a\nb"), ("fine", "bob")] {
        let event = json!({"id": id, "type": "com.acme.placed", "data": {"customer": customer}});
        house.publish(event).await;
    }
    for restarted in [false, true] {
        for id in ["s:good", "s:fine"] {
            eventually("it began", async || {
                (house.get(&format!("/v1/sagas/{id}")).await.status == 200).then_some(())
            })
            .await;
            ended(&house, id, "completed").await;
        }
        let saga = ended(&house, "s:bad", "compensated").await;
        let error = saga["error"].as_str().unwrap();
        assert!(error.contains("say: the event cannot be published: /subject"), "{error}");
        let id = format!("later-{restarted}");
        start(&house, "s", &id, json!({"customer": "eve"})).await;
        ended(&house, &id, "completed").await;
        if !restarted {
            house.restart().await;
        }
    }
}

#[tokio::test]
async fn expressions_that_would_be_gigabytes_are_errors() {
    let house = House::start().await;
    let publish = |body: &str| {
        format!(
            "saga: s\nsteps:\n  - {{ step: say, publish: com.acme.x, no_undo: x, body: {body} }}\n"
        )
    };
    // Each would be 50 MB, and minijinja works out constants when a definition is read.
    let many =
        |expression: &str| format!("[{}]", vec![format!("\"{expression}\""); 400].join(", "));
    let put = async |body: &str| {
        let call = house.call(http::Method::PUT, "/v1/sagas/definitions/s");
        call.typed("application/yaml", publish(body)).send().await
    };
    let faults = put(&many("{{ 'a' * 50000000 }}")).await.json_of(422);
    assert!(faults.to_string().contains("multiplies numbers"), "{faults}");
    put(&many("{{ ('a') * 50000000 }}")).await.check(201);
    start(&house, "s", "many", json!({})).await;
    let saga = ended(&house, "many", "compensated").await;
    assert!(saga["error"].as_str().unwrap().contains("multiplies numbers"), "{saga:#}");
    for (id, body) in [
        ("times", "\"{{ input.a * 50000000 }}\"".to_owned()),
        ("lists", many("{{ range(100000) }}")),
        ("texts", format!("\"{}\"", "{{ input.long }}".repeat(1_000))),
    ] {
        put(&body).await.check(201);
        let input = json!({"a": "a", "long": "x".repeat(1_000_000)});
        start(&house, "s", id, input).await;
        let saga = ended(&house, id, "compensated").await;
        let error = saga["error"].as_str().unwrap();
        assert!(error.contains("numbers") || error.contains("1048576 bytes"), "{error}");
    }
}

#[tokio::test]
async fn a_body_as_large_as_an_event_is_refused_and_a_long_id_is_shortened() {
    let house = House::start().await;
    let name = "n".repeat(128);
    let says = "publish: com.acme.done, body: '{{ input }}', no_undo: said";
    define(&house, &format!("saga: s\nsteps:\n  - {{ step: {name}, {says} }}\n")).await;
    start(&house, "s", "large", json!("x".repeat(1_048_500))).await;
    let saga = ended(&house, "large", "compensated").await;
    assert!(saga["error"].as_str().unwrap().contains("the limit is 1048576"), "{}", saga["error"]);
    let id = "i".repeat(128);
    start(&house, "s", &id, json!("small")).await;
    ended(&house, &id, "completed").await;
    let event = eventually("it is published", async || {
        let listed = house.get("/v1/events?type=com.acme.done").await.json_of(200);
        listed["items"].as_array().unwrap().first().map(|item| item["event"].clone())
    })
    .await;
    assert_eq!((&event["data"], &event["partitionkey"]), (&json!("small"), &json!(id)));
}

#[tokio::test]
async fn what_is_too_large_for_a_life_cycle_event_is_cut_there_and_kept_on_the_journal() {
    let house = House::start().await;
    let (p, wordy) = (Participant::start().await, wordy().await);
    let steps =
        [step("a", &p.url("/a"), &p.url("/u"), ""), step("b", "{{ input.url }}", &p.url("/u"), "")];
    define(&house, &format!("saga: s\nevents: steps\nsteps:\n{}", steps.concat())).await;
    start(&house, "s", "wordy", json!({"url": wordy})).await;
    start(&house, "s", "other", json!({"url": p.url("/b")})).await;
    ended(&house, "other", "completed").await;
    let saga = ended(&house, "wordy", "compensated").await;
    assert_eq!(saga["steps"][1]["error"].as_str().unwrap().len(), 1_048_563 + "422: ".len());
    for kind in ["step.refused", "compensating", "compensated"] {
        let error = told(&house, kind, "wordy").await["error"].as_str().unwrap().to_owned();
        assert!(error.len() < 2_010 && error.ends_with("xx…"), "{kind}: {error}");
    }
    let large = p.url("/large/1048500");
    let steps = format!("  - {{ step: a, post: '{large}', no_undo: x }}\n");
    let output = "output: \"{{ steps.a.output }}\"";
    define(&house, &format!("saga: large\nevents: steps\nsteps:\n{steps}{output}\n")).await;
    start(&house, "large", "large", json!({})).await;
    let saga = ended(&house, "large", "completed").await;
    assert_eq!(saga["output"].as_str().unwrap().len(), 1_048_500);
    for kind in ["step.done", "completed"] {
        assert!(told(&house, kind, "large").await.get("output").is_none(), "{kind}");
    }
}

#[tokio::test]
async fn an_answer_that_is_nested_too_deep_is_none() {
    let house = House::start().await;
    let deep = format!("{}1{}", "[".repeat(126), "]".repeat(126));
    let router = Router::new().fallback(async || deep);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/deep", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    define(&house, &format!("saga: s\nsteps:\n{}", step("a", &url, &url, ""))).await;
    start(&house, "s", "one", json!({})).await;
    let saga = eventually("it is tried again", async || {
        let saga = house.get("/v1/sagas/one").await.json_of(200);
        saga["steps"][0]["error"].is_string().then_some(saga)
    })
    .await;
    let error = saga["steps"][0]["error"].as_str().unwrap();
    assert!(error.contains("nested deeper than 100 levels"), "{saga:#}");
}
