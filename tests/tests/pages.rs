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

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_is_wrong_is_told_beside_its_form() {
    let house = House::start().await;
    let browser = Browser::start().await;
    for (query, field, why) in [
        ("type=a..b&subject=o-1", "type: ", "dot-separated"),
        ("subject=o-1&foo=1", "foo: ", ""),
        ("subject=o-1&cursor=zzz", "cursor: ", "must be the `next`"),
    ] {
        let page = format!("/events?{query}");
        assert_eq!(house.get(&page).await.status, 422);
        browser.open(&format!("{}{page}", house.base())).await;
        let faults = browser.text(".faults").await;
        assert!(faults.starts_with(field) && faults.contains(why), "{faults}");
        let subject = browser.run("return document.querySelector('[name=subject]').value").await;
        assert_eq!(subject, "o-1", "the form is still there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn older_goes_on_below_what_is_shown_and_keeps_the_pages_own_filter() {
    const HREF: &str = "return document.getElementById('older').getAttribute('href')";
    const LAST: &str =
        "return [...document.querySelectorAll('#events tbody a')].at(-1).textContent";
    let house = House::start().await;
    let publish = async |ids: std::ops::Range<u32>| {
        let event = |id: u32| {
            json!({"specversion": "1.0", "type": "a.b", "source": "/", "subject": "o-1",
                "id": id.to_string()})
        };
        house.publish_batch(&ids.map(event).collect::<Vec<_>>()).await
    };
    publish(0..60).await;
    let browser = Browser::start().await;
    browser.open(&format!("{}/events", house.base())).await;
    assert_eq!(browser.run(HREF).await, "/events?cursor=11", "Skald's own events are there too");
    // Live events push others out at the foot of the page.
    browser.sees("#events tbody tr:first-child a", "60").await;
    publish(60..360).await;
    browser.sees("#events tbody tr:first-child a", "360").await;
    let last: i64 = browser.run(LAST).await.as_str().unwrap().parse().unwrap();
    assert_eq!(browser.run(HREF).await, format!("/events?cursor={last}"));
    browser.click("#older").await;
    browser.sees("#events tbody tr:first-child a", &(last - 1).to_string()).await;

    browser.open(&format!("{}/events?subject=o-1&type=", house.base())).await;
    assert_eq!(browser.run(HREF).await, "/events?subject=o-1&cursor=311");
    browser.open(&format!("{}/events/7", house.base())).await;
    let subject = browser.run("return document.querySelector('.facts a').getAttribute('href')");
    assert_eq!(subject.await, "/events?subject=o-1");
    browser.open(&format!("{}/events?subject=o-2", house.base())).await;
    browser.sees("#events", "No event matches.").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_is_shown_as_it_was_written_and_neighbours_are_those_there_are() {
    let house = House::start().await;
    let number = r#"{"type": "a.b", "data": {"n": 12345678901234567890123, "f": 1.10}}"#;
    let call = house.call(Method::POST, "/v1/events").typed("application/json", number);
    call.send().await.check(202);
    let binary = json!({"type": "a.b", "datacontenttype": "image/png", "data_base64": "AAECAw=="});
    house.post("/v1/events", binary).await.check(202);
    let browser = Browser::start().await;
    let neighbours = async || {
        let ways = "return [...document.querySelectorAll('.way a')].map((a) => a.rel).join()";
        browser.run(ways).await
    };
    browser.open(&format!("{}/events/1", house.base())).await;
    browser.sees("details pre", "\"n\": 12345678901234567890123,\n  \"f\": 1.10").await;
    assert_eq!(neighbours().await, "next");
    assert!(browser.text(".facts time").await.ends_with(" UTC"));
    browser.open(&format!("{}/events/2", house.base())).await;
    browser.sees("details summary", "Data: 4 bytes, in base64").await;
    browser.sees("details pre", "AAECAw==").await;
    assert_eq!(neighbours().await, "prev");
    house.post("/v1/events", json!({"type": "a.b"})).await.check(202);
    browser.open(&format!("{}/events/3", house.base())).await;
    browser.sees("main", "It carries no data.").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_narrow_screen_tables_scroll_in_their_own_box_and_words_stay_whole() {
    let mut house = House::start().await;
    house.pull_consumer("ship-order-to-the-other-side-of-the-world", "a.>", json!({})).await;
    let long = "o-".repeat(300);
    let placed = json!({"type": "a.b", "subject": long, "data": {"note": "word ".repeat(200)}});
    house.post("/v1/events", placed).await.check(202);
    let lease =
        house.lease_with("ship-order-to-the-other-side-of-the-world", json!({"wait": "5s"}));
    let lease = one(lease.await);
    let error = json!({"error": "insufficiently documented", "permanent": true});
    house.claim("ship-order-to-the-other-side-of-the-world");
    house.nak("ship-order-to-the-other-side-of-the-world", &lease, error).await;
    let browser = Browser::start().await;
    for page in ["/events", "/events/1"] {
        browser.open(&format!("{}{page}", house.base())).await;
        browser.run("document.documentElement.style.width = '390px'").await;
        let wide = "return [...document.querySelectorAll('main, main > *, section > *')]
            .filter((one) => one.getBoundingClientRect().right > 391).map((one) => one.outerHTML)";
        assert_eq!(browser.run(wide).await, json!([]), "{page}");
    }
    let told = "return document.querySelector('td.error').getBoundingClientRect().width > 150";
    assert_eq!(browser.run(told).await, true, "no letter stands alone");
    let names = "return document.querySelector('[data-call=\"/v1/replays\"]').ariaLabel";
    assert!(browser.run(names).await.as_str().unwrap().starts_with("Replay for "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_is_told() {
    let mut house = House::start().await;
    house.post("/v1/events", json!({"type": "a.b"})).await.check(202);
    let browser = Browser::start().await;
    browser.open(&format!("{}/events", house.base())).await;
    browser.sees("#events", "a.b").await;
    house.kill_9();
    browser.sees("#told", "The server does not answer. It is tried again.").await;
    house.restart().await;
    browser.open(&format!("{}/events/1", house.base())).await;
    browser.sees("#consumers table", "count-events").await;
    house.kill_9();
    browser.click("[data-call='/v1/replays']").await;
    browser.answer(true).await;
    browser.sees("#told", "The server does not answer.").await;
    house.restart().await;
}
