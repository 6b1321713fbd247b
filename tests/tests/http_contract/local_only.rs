//! Without keys, only this machine is answered, and no web page reaches it.

use http::Method;
use serde_json::json;
use skald_tests::{Answer, House};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[track_caller]
fn assert_refused(answer: &Answer) {
    assert!([403, 421].contains(&answer.status.as_u16()), "{answer:?}");
    answer.problem(answer.status.as_u16());
}

#[tokio::test]
async fn only_loopback_names_are_answered() {
    let house = House::start().await;
    let port = house.base().rsplit(':').next().unwrap().to_owned();
    let with_host = async |host: String| {
        house.call(Method::GET, "/v1/events").header("host", &host).send().await
    };
    for host in ["127.0.0.1", "localhost", "[::1]"] {
        with_host(format!("{host}:{port}")).await.check(200);
        with_host(host.to_owned()).await.check(200);
    }
    for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1"] {
        assert_refused(&with_host(format!("{host}:{port}")).await);
        assert_refused(&with_host(host.to_owned()).await);
    }
}

#[tokio::test]
async fn whatever_names_the_host_must_name_this_machine() {
    let house = House::start().await;
    let address = house.base().trim_start_matches("http://").to_owned();
    let status = async |head: &str| {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    let local = "GET http://localhost/v1/events HTTP/1.1\r\nhost: localhost\r\n";
    assert_eq!(status(local).await, "200");
    assert_eq!(status("GET /v1/events HTTP/1.1\r\n").await, "400");
    let absolute = "GET http://evil.example/v1/events HTTP/1.1\r\nhost: localhost\r\n";
    assert_eq!(status(absolute).await, "403");
    let twice = "GET /v1/events HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n";
    assert_eq!(status(twice).await, "403");
}

#[tokio::test]
async fn a_link_that_is_followed_shows_what_it_leads_to() {
    let house = House::start().await;
    let follow = async |method: Method| {
        let call = house.call(method, "/v1/events").header("sec-fetch-site", "cross-site");
        call.header("sec-fetch-mode", "navigate").json(&json!({"type": "t"})).send().await
    };
    follow(Method::GET).await.check(200);
    assert_refused(&follow(Method::POST).await);
}

#[tokio::test]
async fn cross_origin_calls_of_browsers_are_refused() {
    let house = House::start().await;
    let post = async |name: &str, value: &str| {
        let call = house.call(Method::POST, "/v1/events").header(name, value);
        call.json(&json!({"type": "forged"})).send().await
    };
    assert_refused(&post("origin", "https://evil.example").await);
    assert_refused(&post("origin", "null").await);
    assert_refused(&post("origin", "http://localhost:1").await);
    assert_refused(&post("sec-fetch-site", "cross-site").await);
    assert_refused(&post("sec-fetch-site", "same-site").await);
    assert_eq!(house.get("/v1/events").await.json_of(200)["items"], json!([]));
    let own = house.base();
    post("origin", &own).await.check(202);
    post("sec-fetch-site", "same-origin").await.check(202);
}

#[tokio::test]
async fn no_answer_invites_other_origins() {
    let house = House::start().await;
    let preflight = house
        .call(Method::OPTIONS, "/v1/events")
        .header("origin", "https://evil.example")
        .header("access-control-request-method", "POST")
        .send()
        .await;
    assert_eq!(preflight.header("access-control-allow-origin"), "", "{preflight:?}");
    let answer = house.call(Method::GET, "/v1/events").header("origin", "https://evil.example");
    assert_eq!(answer.send().await.header("access-control-allow-origin"), "");
}

#[tokio::test]
async fn forms_of_web_pages_publish_nothing() {
    let house = House::start().await;
    for media in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
        let call = house.call(Method::POST, "/v1/events").typed(media, r#"{"type":"forged"}"#);
        call.send().await.problem(415);
    }
}
