//! Sagas through `kill -9`: whatever dies in between, each ends, and the participants' books balance.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use skald_tests::{House, Participant, eventually_within};

const SAGAS: usize = 600;
const KILLS: usize = 6;

fn definition(payment: &Participant, stock: &Participant, delivery: &Participant) -> String {
    let retry = "retry: { attempts_max: 30, backoff_min: 20ms, backoff_max: 200ms }";
    let undo = "attempts_max: 50, backoff_min: 20ms, backoff_max: 200ms";
    format!(
        "saga: order
steps:
  - step: charge
    post: '{}'
    {retry}
    undo: {{ post: '{}', {undo}, body: {{ charge: \"{{{{ steps.charge.output.id }}}}\" }} }}
  - together:
      - {{ step: reserve, post: '{}/{{{{ input.stock }}}}', {retry}, undo: {{ post: '{}', {undo} }} }}
      - {{ step: book, post: '{}', {retry}, undo: {{ post: '{}', {undo} }} }}
  - {{ step: confirm, publish: com.acme.confirmed, body: '{{{{ input.n }}}}', no_undo: said }}
",
        payment.url("/charge"),
        payment.url("/refund"),
        stock.url(""),
        stock.url("/release"),
        delivery.url("/fail/1"),
        delivery.url("/cancel"),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_saga_ends_and_the_books_balance_through_kills_at_random() {
    let mut house = House::start().await;
    let (payment, stock) = (Participant::start().await, Participant::start().await);
    let delivery = Participant::start().await;
    let call = house.call(Method::PUT, "/v1/sagas/definitions/order");
    let text = definition(&payment, &stock, &delivery);
    call.typed("application/yaml", text).send().await.check(201);
    let id = |n: usize| format!("o{n}");
    let body = move |n: usize| {
        let stock = if n.is_multiple_of(3) { "refuse" } else { "reserve" };
        json!({"definition": "order", "id": id(n), "input": {"n": n, "stock": stock}})
    };
    let mut next = 0;
    for kill in 1..=KILLS {
        // Started while the server may die at any moment: what was not answered is started again.
        let client = (*house).clone();
        let mine = next..SAGAS * kill / KILLS;
        next = mine.end;
        let starter = tokio::spawn(async move {
            let mut unanswered = Vec::new();
            for n in mine {
                let sent = client.call(Method::POST, "/v1/sagas").json(&body(n)).try_send().await;
                if !sent.is_ok_and(|answer| answer.status.is_success()) {
                    unanswered.push(n);
                }
            }
            unanswered
        });
        let wait = Duration::from_millis(60 + rand::random::<u64>() % 250);
        let _ = tokio::time::timeout(wait, std::future::pending::<()>()).await;
        house.kill_9();
        let unanswered = starter.await.unwrap();
        house.restart().await;
        for n in unanswered {
            let answer = house.post("/v1/sagas", body(n)).await;
            assert!([200, 201].contains(&answer.status.as_u16()), "{}", answer.text());
        }
    }
    let ids: Vec<String> = (0..SAGAS).map(id).collect();
    eventually_within(Duration::from_secs(90), "all sagas end", async || {
        let waited = house.post("/v1/wait", json!({"ids": ids, "timeout": "5s"})).await;
        (waited.json_of(200)["pending"] == json!([])).then_some(())
    })
    .await;
    for n in 0..SAGAS {
        let saga = house.get(&format!("/v1/sagas/{}", id(n))).await.json_of(200);
        let expected = if n % 3 == 0 { "compensated" } else { "completed" };
        assert_eq!(saga["status"], expected, "{saga:#}");
        let wanted = i64::from(expected == "completed");
        for (participant, step) in [(&payment, "charge"), (&stock, "reserve"), (&delivery, "book")]
        {
            let effects = participant.effects();
            let effect = effects.get(&(id(n), step.to_owned())).copied().unwrap_or(0);
            assert_eq!(effect, wanted, "{step} of {}: {saga:#}", id(n));
        }
    }
    let confirmed = confirmed(&house).await;
    assert_eq!(confirmed, (0..SAGAS).filter(|n| n % 3 != 0).collect::<Vec<_>>(), "each told once");
}

/// The numbers of the orders that were announced, in their order.
async fn confirmed(house: &House) -> Vec<usize> {
    let mut found: Vec<usize> = Vec::new();
    let mut after = 0;
    loop {
        let path = format!("/v1/events?type=com.acme.confirmed&limit=500&after={after}");
        let page = house.get(&path).await.json_of(200);
        let items = page["items"].as_array().unwrap();
        let number =
            |item: &Value| usize::try_from(item["event"]["data"].as_u64().unwrap()).unwrap();
        found.extend(items.iter().map(number));
        match items.last() {
            Some(last) => after = last["seq"].as_i64().unwrap(),
            None => break,
        }
    }
    found.sort_unstable();
    found
}
