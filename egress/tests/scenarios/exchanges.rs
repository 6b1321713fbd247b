//! What a request looks like to the other side, and how much of an answer is taken.

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use crate::endpoint::{Endpoint, Script, only, open, post, post_within};
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post as on_post};
use bytes::Bytes;
use egress::{EgressError, RESPONSE_BODY_BYTES_MAX, Request};
use futures::{StreamExt, stream};
use http::header::{CONTENT_LENGTH, HOST, LOCATION, RETRY_AFTER, TRANSFER_ENCODING};
use http::{HeaderValue, Method};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const SHORT: Duration = Duration::from_millis(200);

/// Sends the given parts and then nothing, without ending.
fn stalls_after(parts: Vec<Bytes>) -> Body {
    let parts = stream::iter(parts.into_iter().map(Ok::<_, Infallible>));
    Body::from_stream(parts.chain(stream::pending()))
}

#[tokio::test]
async fn a_request_arrives_as_it_was_built_except_for_the_headers_of_the_connection() {
    let echo = |headers: HeaderMap, body: String| async move {
        let read = |name: &str| {
            let value = headers.get(name).map(|value| value.to_str().unwrap_or("?").to_owned());
            format!("{name}={}", value.unwrap_or_default())
        };
        let names = ["user-agent", "host", "content-length", "transfer-encoding", "x-own"];
        format!("{}\n{body}", names.map(read).join("\n"))
    };
    let endpoint = Endpoint::start(Router::new().route("/hook", on_post(echo))).await;
    let egress = open();
    let mut headers = HeaderMap::new();
    headers.insert("x-own", HeaderValue::from_static("kept"));
    headers.insert(HOST, HeaderValue::from_static("inside.example"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("1"));
    headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    let response = egress
        .send(Request {
            method: Method::POST,
            url: egress.check_url(&endpoint.url("127.0.0.1", "/hook")).unwrap(),
            headers,
            body: Bytes::from_static(b"hello"),
            timeout: Duration::from_secs(20),
        })
        .await
        .unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let expected = format!(
        "user-agent=skald/{version}\nhost={}\ncontent-length=5\ntransfer-encoding=\nx-own=kept\nhello",
        endpoint.address
    );
    assert_eq!(response.status, StatusCode::OK);
    assert_eq!(String::from_utf8_lossy(&response.body), expected);
    assert!(!response.truncated && response.duration < Duration::from_secs(20));
}

#[tokio::test]
async fn a_failing_status_is_a_response_with_its_retry_after() {
    let busy = || async { (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "17")], "busy") };
    let endpoint = Endpoint::start(Router::new().route("/", on_post(busy))).await;
    let response = post(&open(), &endpoint.url("127.0.0.1", "/")).await.unwrap();
    assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.retry_after(0), Some(Duration::from_secs(17)));
    assert_eq!(&response.body[..], b"busy");
}

#[tokio::test]
async fn a_redirect_is_returned_and_not_followed() {
    let router = Router::new()
        .route("/", on_post(|| async { (StatusCode::FOUND, [(LOCATION, "/secret")]) }))
        .route("/secret", get(|| async { "secret" }));
    let endpoint = Endpoint::start(router).await;
    let response = post(&open(), &endpoint.url("127.0.0.1", "/")).await.unwrap();
    assert_eq!(response.status, StatusCode::FOUND);
    assert_eq!(response.headers[LOCATION], "/secret");
    assert_eq!(endpoint.requests(), 1);
}

#[tokio::test]
async fn the_timeout_covers_a_body_that_never_ends() {
    let slow = || async { stalls_after(vec![Bytes::from_static(b"part")]) };
    let endpoint = Endpoint::start(Router::new().route("/", on_post(slow))).await;
    let error = post_within(&open(), &endpoint.url("127.0.0.1", "/"), SHORT).await.unwrap_err();
    assert_eq!(error.to_string(), "127.0.0.1 did not complete the exchange within 200ms");
    assert!(!error.is_permanent() && error.kind() == "timeout");
    assert_eq!(endpoint.requests(), 1);
}

#[tokio::test]
async fn the_timeout_covers_an_answer_that_never_begins() {
    let silent = || std::future::pending::<()>();
    let endpoint = Endpoint::start(Router::new().route("/", on_post(silent))).await;
    let error = post_within(&open(), &endpoint.url("127.0.0.1", "/"), SHORT).await.unwrap_err();
    assert!(matches!(error, EgressError::Timeout { .. }), "{error:?}");
}

#[tokio::test]
async fn a_long_body_is_cut_without_waiting_for_its_end() {
    let long = || async { stalls_after(vec![Bytes::from(vec![b'a'; 1000]); 66]) };
    let endpoint = Endpoint::start(Router::new().route("/", on_post(long))).await;
    let response = post(&open(), &endpoint.url("127.0.0.1", "/")).await.unwrap();
    assert!(response.truncated);
    assert_eq!(response.body.len(), RESPONSE_BODY_BYTES_MAX);
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_whole() {
    let full = || async { vec![b'a'; RESPONSE_BODY_BYTES_MAX] };
    let endpoint = Endpoint::start(Router::new().route("/", on_post(full))).await;
    let response = post(&open(), &endpoint.url("127.0.0.1", "/")).await.unwrap();
    assert!(!response.truncated);
    assert_eq!(response.body.len(), RESPONSE_BODY_BYTES_MAX);
}

#[tokio::test]
async fn a_port_nobody_listens_on_is_a_passing_connect_error_without_the_path() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = post(&open(), &format!("http://{address}/token")).await.unwrap_err();
    assert!(matches!(error, EgressError::Connect { .. }), "{error:?}");
    assert!(!error.is_permanent());
    let mut cause: Option<&dyn Error> = Some(&error);
    while let Some(error) = cause {
        assert!(!error.to_string().contains("token"), "{error}");
        cause = error.source();
    }
}

#[tokio::test]
async fn a_name_without_an_answer_is_a_passing_dns_error() {
    for script in [Script::new(&[]), Script::new(&[&[]])] {
        let error = post(&only(&[], &script), "http://hook.example/").await.unwrap_err();
        assert!(matches!(error, EgressError::Dns { .. }), "{error:?}");
        assert!(!error.is_permanent());
        assert_eq!(error.to_string(), "looking up hook.example");
    }
}

/// Accepts one connection, reads something and answers with `answer`.
async fn answer_once(answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("a bound listener").port();
    tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.expect("a connection");
        let mut received = [0; 4096];
        let _ = connection.read(&mut received).await;
        let _ = connection.write_all(answer).await;
        let _ = connection.shutdown().await;
    });
    port
}

#[tokio::test]
async fn a_server_that_does_not_speak_tls_is_a_tls_error() {
    let port = answer_once(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let error = post(&open(), &format!("https://127.0.0.1:{port}/")).await.unwrap_err();
    assert!(matches!(error, EgressError::Tls { .. }), "{error:?}");
    assert!(!error.is_permanent());
}

#[tokio::test]
async fn an_answer_that_is_not_http_or_breaks_off_is_a_protocol_error() {
    for answer in [
        &b"220 mail.example ready\r\n"[..],
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
        b"",
    ] {
        let port = answer_once(answer).await;
        let error = post(&open(), &format!("http://127.0.0.1:{port}/")).await.unwrap_err();
        assert!(matches!(error, EgressError::Protocol { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn exchanges_one_after_another_share_a_connection() {
    let peer = |axum::extract::ConnectInfo(peer): axum::extract::ConnectInfo<
        std::net::SocketAddr,
    >| async move { peer.to_string() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let router = Router::new().route("/", on_post(peer));
    let service = router.into_make_service_with_connect_info::<std::net::SocketAddr>();
    let server = tokio::spawn(async move { axum::serve(listener, service).await });
    let egress = open();
    let first = post(&egress, &url).await.unwrap();
    let second = post(&egress.clone(), &url).await.unwrap();
    assert_eq!(first.body, second.body);
    server.abort();
}
