//! The way out through a proxy: it is told what was checked, and nothing else.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::routing::post as on_post;
use egress::{Egress, EgressError, EgressPolicy, PrivateNetworks};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::endpoint::{Endpoint, Script, post};

/// A proxy that writes down what it is asked for, connects to the endpoint whatever that is, and
/// passes on.
struct AProxy {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone, Copy)]
enum Speaks {
    Http,
    Socks5,
    HttpAndRefuses,
}

impl AProxy {
    async fn start(speaks: Speaks, endpoint: &Endpoint) -> AProxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound port").to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (noted, to) = (Arc::clone(&asked), endpoint.address);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let noted = Arc::clone(&noted);
                tokio::spawn(async move {
                    let what = match speaks {
                        Speaks::Socks5 => socks(&mut stream).await,
                        Speaks::Http | Speaks::HttpAndRefuses => http(&mut stream).await,
                    };
                    noted.lock().expect("an unpoisoned lock").push(what);
                    match speaks {
                        Speaks::Http => {
                            stream.write_all(b"HTTP/1.1 200 Yes\r\n\r\n").await.expect("a client");
                        }
                        Speaks::Socks5 => {
                            stream
                                .write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])
                                .await
                                .expect("a client");
                        }
                        Speaks::HttpAndRefuses => {
                            stream.write_all(b"HTTP/1.1 403 No\r\n\r\n").await.expect("a client");
                            return;
                        }
                    }
                    let mut onward = TcpStream::connect(to).await.expect("the endpoint");
                    let _ = copy_bidirectional(&mut stream, &mut onward).await;
                });
            }
        });
        AProxy { address, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("an unpoisoned lock").clone()
    }

    /// A client behind it that asks `script` for names and reaches the public internet.
    fn client(&self, scheme: &str, script: &Arc<Script>) -> Egress {
        let policy = EgressPolicy {
            allow_private: PrivateNetworks::Only(Vec::new()),
            proxy: Some(format!("{scheme}://me:secret@{}", self.address).parse().expect("a proxy")),
            idle_connections_per_host_max: 0,
            ..EgressPolicy::DEFAULT
        };
        Egress::with_lookup(policy, script.clone()).expect("a client")
    }
}

async fn http(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a client"));
    }
    String::from_utf8(head).expect("text")
}

async fn socks(stream: &mut TcpStream) -> String {
    let mut greeting = [0; 3];
    stream.read_exact(&mut greeting).await.expect("a client");
    assert_eq!(greeting, [5, 1, 2]);
    stream.write_all(&[5, 2]).await.expect("a client");
    let mut login = [0; 11];
    stream.read_exact(&mut login).await.expect("a client");
    assert_eq!(&login, b"\x01\x02me\x06secret");
    stream.write_all(&[1, 0]).await.expect("a client");
    let mut request = [0; 10];
    stream.read_exact(&mut request).await.expect("a client");
    assert_eq!(request[..4], [5, 1, 0, 1], "an address of version 4, and no name");
    let port = u16::from_be_bytes([request[8], request[9]]);
    format!("{}.{}.{}.{}:{port}", request[4], request[5], request[6], request[7])
}

fn hello() -> Router {
    Router::new().route("/", on_post(|| async { "hello" }))
}

#[tokio::test]
async fn an_http_proxy_is_asked_for_the_checked_address() {
    let endpoint = Endpoint::start(hello()).await;
    let proxy = AProxy::start(Speaks::Http, &endpoint).await;
    let script = Script::new(&[&["10.0.0.1", "93.184.215.14"]]);
    let response = post(&proxy.client("http", &script), "http://hook.example/").await.unwrap();
    assert_eq!(&response.body[..], b"hello");
    let asked = proxy.asked().concat();
    assert!(asked.starts_with("CONNECT 93.184.215.14:80 HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("Proxy-Authorization: Basic bWU6c2VjcmV0\r\n"), "{asked}");
    assert!(!asked.contains("hook.example") && script.lookups() == 1, "{asked}");
}

#[tokio::test]
async fn a_socks_proxy_is_asked_for_the_checked_address() {
    let endpoint = Endpoint::start(hello()).await;
    let proxy = AProxy::start(Speaks::Socks5, &endpoint).await;
    let script = Script::new(&[&["93.184.215.14"]]);
    let response = post(&proxy.client("socks5", &script), "http://hook.example/").await.unwrap();
    assert_eq!(&response.body[..], b"hello");
    assert_eq!(proxy.asked(), ["93.184.215.14:80"]);
}

#[tokio::test]
async fn behind_a_proxy_nothing_inside_is_asked_for() {
    let endpoint = Endpoint::start(hello()).await;
    let proxy = AProxy::start(Speaks::Http, &endpoint).await;
    let script = Script::new(&[&["169.254.169.254"], &["127.0.0.1"]]);
    let egress = proxy.client("http", &script);
    for url in ["http://hook.example/", "http://hook.example/", "http://127.0.0.1:8080/"] {
        let error = post(&egress, url).await.unwrap_err();
        assert!(matches!(error, EgressError::RefusedAddress(_)), "{error}");
    }
    assert!(proxy.asked().is_empty());
}

#[tokio::test]
async fn what_a_proxy_refuses_is_a_passing_connect_error() {
    let endpoint = Endpoint::start(hello()).await;
    let proxy = AProxy::start(Speaks::HttpAndRefuses, &endpoint).await;
    let script = Script::new(&[&["93.184.215.14"]]);
    let error = post(&proxy.client("http", &script), "http://hook.example/").await.unwrap_err();
    assert!(matches!(error, EgressError::Connect { .. }) && !error.is_permanent(), "{error:?}");
    assert_eq!(endpoint.requests(), 0);
}
