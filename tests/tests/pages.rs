//! The pages, in a real browser.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::Method;
use serde_json::json;
use skald_tests::{Browser, House, Participant, Setup, one};

const NASTY: &str = "<script>document.title='owned'</script>";

#[tokio::test(flavor = "multi_thread")]
async fn an_events_life_is_on_its_page_and_a_dead_letter_is_redriven_there() {
    let house = House::start().await;
    house.pull_consumer("ship-order", "com.acme.>", json!({})).await;
    let placed = json!({"type": "com.acme.placed", "subject": NASTY, "data": {"note": NASTY}});
    let seq = house.post("/v1/events", placed).await.json_of(202)["seq"].clone();
    let lease = one(house.lease_with("ship-order", json!({"wait": "5s"})).await);
    house.nak("ship-order", &lease, json!({"error": "no <such> address", "permanent": true})).await;

    let browser = Browser::start().await;
    browser.open(&format!("{}/events/{seq}", house.base())).await;
    assert!(browser.text("h1").await.contains("com.acme.placed"));
    assert!(browser.text(".facts").await.contains(NASTY), "shown as it is, and not run");
    assert_ne!(browser.run("return document.title").await, "owned");
    let consumers = browser.text("#consumers table").await;
    assert!(consumers.contains("no <such> address"), "{consumers}");
    assert!(consumers.contains("ship-order dead 1"), "{consumers}");

    // Asked first: nothing happens without a yes.
    let redrive = "button[data-call*='redrive']";
    browser.click(redrive).await;
    assert!(browser.answer(false).await.contains("ship-order"));
    assert_eq!(house.consumer("ship-order").await["dead"], 1);
    browser.click(redrive).await;
    browser.answer(true).await;
    browser.sees("#consumers table", "ship-order waiting").await;
    let lease = one(house.lease_with("ship-order", json!({"wait": "5s"})).await);
    house.ack("ship-order", &[lease]).await;
    browser.open(&format!("{}/events/{seq}", house.base())).await;
    browser.sees("#consumers table", "ship-order done").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saga_stands_on_its_events_page_with_timeline_and_drawing() {
    let house = House::start().await;
    let shop = Participant::start().await;
    let definition = format!(
        "saga: order
start_on: com.acme.placed
steps:
  - {{ step: charge, post: '{}', undo: {{ post: '{}' }} }}
  - {{ step: reserve, post: '{}', undo: {{ post: '{}' }} }}
",
        shop.url("/charge"),
        shop.url("/refund"),
        shop.url("/refuse"),
        shop.url("/release"),
    );
    let put = house.call(Method::PUT, "/v1/sagas/definitions/order");
    put.typed("application/yaml", definition).send().await.check(201);
    let placed = json!({"type": "com.acme.placed", "id": "o-1", "data": {}});
    let seq = house.post("/v1/events", placed).await.json_of(202)["seq"].clone();
    let browser = Browser::start().await;
    let page = format!("{}/events/{seq}", house.base());
    let mut timeline = String::new();
    for _ in 0..100 {
        browser.open(&page).await;
        if browser.run("return !!document.querySelector('#sagas .compensated')").await == true {
            timeline = browser.text("#sagas .timeline").await;
            break;
        }
    }
    assert!(timeline.contains("charge undone"), "{timeline}");
    assert!(timeline.contains("undo charge undone"), "{timeline}");
    assert!(timeline.contains("reserve refused"), "{timeline}");
    let steps = browser.run("return document.querySelectorAll('#sagas svg rect').length").await;
    assert!(steps.as_i64().unwrap() >= 2, "drawn");
    assert!(browser.text("#sagas svg").await.contains("reserve"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_grows_as_events_come_and_leads_to_older_ones() {
    let house = House::start().await;
    let browser = Browser::start().await;
    browser.open(&format!("{}/", house.base())).await;
    browser.sees("#events", "No events yet").await;
    house.post("/v1/events", json!({"type": "com.acme.first", "subject": NASTY})).await.check(202);
    browser.sees("#events tbody tr:first-child", "com.acme.first").await;
    browser.sees("#events tbody tr:first-child", NASTY).await;
    let many: Vec<_> = (0..60).map(|n| json!({"type": format!("com.acme.n{n}")})).collect();
    for event in many {
        house.post("/v1/events", event).await.check(202);
    }
    browser.sees("#events tbody tr:first-child", "com.acme.n59").await;
    browser.click("#events tbody tr:first-child a").await;
    browser.sees("h1", "com.acme.n59").await;

    browser.open(&format!("{}/events?type=com.acme.*&subject=&source=", house.base())).await;
    browser.sees("#events tbody tr:first-child", "com.acme.n59").await;
    browser.click("a[rel=next]").await;
    browser.sees("#events tbody tr:last-child", "com.acme.first").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_keys_are_needed_a_browser_shows_one_as_its_password() {
    const KEY: &str = "sk_of_the_one_who_looks_0123456789";
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::serve(folder.path(), KEY).environment("SKALD_SECURITY__ADMIN_KEY", KEY);
    let house = setup.start().await;
    let nobody = house.without_key();
    nobody.get("/events").await.problem(401);
    house.post("/v1/events", json!({"type": "com.acme.first"})).await.check(202);
    let browser = Browser::start().await;
    let (host, address) = (house.base(), "/events/1");
    let host = host.strip_prefix("http://").unwrap();
    browser.open(&format!("http://me:{KEY}@{host}{address}")).await;
    browser.sees("h1", "com.acme.first").await;
    // Another page's call carries the same password, and is refused for where it comes from.
    let basic = nobody.call(Method::POST, "/v1/events").json(&json!({"type": "com.acme.forged"}));
    let credentials = BASE64_STANDARD.encode(format!("me:{KEY}"));
    let forged = basic
        .header("authorization", format!("Basic {credentials}"))
        .header("origin", "http://evil.example");
    forged.send().await.problem(403);
}
