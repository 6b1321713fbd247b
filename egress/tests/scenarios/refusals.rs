//! What may not be reached, whatever it is called and however it is written.

use crate::endpoint::{Endpoint, Script, only, open, post};
use axum::Router;
use axum::routing::post as on_post;
use egress::{Egress, EgressError, EgressPolicy, Request};
use http::{HeaderMap, Method};

fn hello() -> Router {
    Router::new().route("/", on_post(|| async { "hello" }))
}

#[test]
fn every_notation_of_an_inside_address_is_refused_at_registration() {
    let egress = Egress::new(EgressPolicy::DEFAULT).unwrap();
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "017700000001",
        "127.0.0.1.",
        "%31%32%37.0.0.1",
        "１２７.０.０.１",
        "localhost",
        "LOCALHOST.",
        "anything.localhost",
        "0",
        "0.0.0.0",
        "10.0.0.1",
        "0xa000001",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "100.64.0.1",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "192.0.2.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "[::]",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::127.0.0.1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b::169.254.169.254]",
        "[64:ff9b:1::a00:1]",
        "[2001::1]",
        "[2001:db8::1]",
        "[2002:7f00:1::]",
        "[2002:a9fe:a9fe::1]",
        "[fc00::1]",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[fec0::1]",
        "[ff02::1]",
    ] {
        let error = egress.check_url(&format!("http://{host}/hook")).unwrap_err();
        assert!(matches!(error, EgressError::RefusedAddress(_)), "{host}: {error}");
        assert!(error.is_permanent() && error.kind() == "refused_address");
    }
}

#[test]
fn public_addresses_and_names_are_taken_at_registration() {
    let egress = Egress::new(EgressPolicy::DEFAULT).unwrap();
    for url in ["https://example.com/", "http://8.8.8.8:8080/", "https://[2606:4700::1111]/"] {
        assert_eq!(egress.check_url(url).unwrap().as_str(), url);
    }
}

#[test]
fn a_wrong_url_is_a_permanent_error() {
    let error = Egress::new(EgressPolicy::DEFAULT).unwrap().check_url("ftp://a/").unwrap_err();
    assert!(error.is_permanent());
    assert_eq!(
        error.to_string(),
        "the URL is not allowed: its scheme is `ftp`, and only http and https are allowed"
    );
}

#[tokio::test]
async fn a_literal_address_checked_under_another_policy_is_refused_when_sent() {
    let endpoint = Endpoint::start(hello()).await;
    let url = open().check_url(&endpoint.url("127.0.0.1", "/")).unwrap();
    let request = Request {
        method: Method::POST,
        url,
        headers: HeaderMap::new(),
        body: bytes::Bytes::new(),
        timeout: std::time::Duration::from_secs(20),
    };
    let error = Egress::new(EgressPolicy::DEFAULT).unwrap().send(request).await.unwrap_err();
    assert_eq!(error.to_string(), "127.0.0.1 is refused: 127.0.0.1 is a loopback address");
    assert_eq!(endpoint.requests(), 0);
}

#[tokio::test]
async fn a_name_with_only_inside_addresses_is_refused() {
    let endpoint = Endpoint::start(hello()).await;
    let script = Script::new(&[&["127.0.0.1", "10.0.0.1"]]);
    let egress = only(&[], &script);
    let error = post(&egress, &endpoint.url("hook.example", "/")).await.unwrap_err();
    assert_eq!(error.to_string(), "hook.example is refused: 127.0.0.1 is a loopback address");
    assert!(error.is_permanent());
    assert_eq!((script.lookups(), endpoint.requests()), (1, 0));
}

#[tokio::test]
async fn a_connection_goes_only_to_the_allowed_addresses_of_a_name() {
    let allowed = Endpoint::start(hello()).await;
    let inside =
        Endpoint::start_on(&format!("127.0.0.2:{}", allowed.address.port()), hello()).await;
    let script = Script::new(&[&["127.0.0.2", "127.0.0.1", "::1"]]);
    let egress = only(&["127.0.0.1/32"], &script);
    post(&egress, &allowed.url("hook.example", "/")).await.unwrap();
    assert_eq!((script.lookups(), allowed.requests(), inside.requests()), (1, 1, 0));
}

#[tokio::test]
async fn a_name_that_changes_its_answer_never_leads_inside() {
    let allowed = Endpoint::start(hello()).await;
    let inside =
        Endpoint::start_on(&format!("127.0.0.2:{}", allowed.address.port()), hello()).await;
    let script = Script::new(&[&["127.0.0.1"], &["127.0.0.2"], &["127.0.0.1"], &["127.0.0.2"]]);
    let egress = only(&["127.0.0.1/32"], &script);
    let url = allowed.url("rebind.example", "/");

    // One lookup for one exchange: the answer that is checked is the one that is used.
    assert!(post(&egress, &url).await.is_ok());
    assert_eq!((script.lookups(), allowed.requests()), (1, 1));
    assert!(matches!(post(&egress, &url).await, Err(EgressError::RefusedAddress(_))));
    assert!(post(&egress, &url).await.is_ok());
    assert!(matches!(post(&egress, &url).await, Err(EgressError::RefusedAddress(_))));
    assert_eq!((script.lookups(), allowed.requests(), inside.requests()), (4, 2, 0));
}
