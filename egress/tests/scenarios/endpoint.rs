//! A web server on this machine, and a name service that says what it is told.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Request as Received;
use axum::middleware::{Next, from_fn};
use bytes::Bytes;
use egress::{
    Egress, EgressError, EgressPolicy, Lookup, Network, PrivateNetworks, Request, Response,
};
use futures::future::BoxFuture;
use http::{HeaderMap, Method};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A running server; it stops when dropped.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    requests: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

impl Endpoint {
    /// Serves `router` on a free port of 127.0.0.1.
    pub(crate) async fn start(router: Router) -> Endpoint {
        Endpoint::start_on("127.0.0.1:0", router).await
    }

    /// Serves `router` on the given address.
    pub(crate) async fn start_on(address: &str, router: Router) -> Endpoint {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&requests);
        let router = router.layer(from_fn(move |received: Received, next: Next| {
            counter.fetch_add(1, Ordering::SeqCst);
            next.run(received)
        }));
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("a running server");
        });
        Endpoint { address, requests, server }
    }

    pub(crate) fn url(&self, host: &str, path: &str) -> String {
        format!("http://{host}:{}{path}", self.address.port())
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Answers each lookup with the next of the given answers, and the last one for ever.
pub(crate) struct Script {
    answers: Mutex<VecDeque<Vec<IpAddr>>>,
    lookups: AtomicUsize,
}

impl Script {
    pub(crate) fn new(answers: &[&[&str]]) -> Arc<Script> {
        let parse = |answer: &&[&str]| {
            answer.iter().map(|address| address.parse().expect("an address")).collect()
        };
        let answers = Mutex::new(answers.iter().map(parse).collect());
        Arc::new(Script { answers, lookups: AtomicUsize::new(0) })
    }

    pub(crate) fn lookups(&self) -> usize {
        self.lookups.load(Ordering::SeqCst)
    }
}

impl Lookup for Script {
    fn lookup(&self, _host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock().expect("an unpoisoned lock");
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        Box::pin(async move { answer.ok_or_else(|| io::Error::other("no such name")) })
    }
}

/// A client as a developer has it.
pub(crate) fn open() -> Egress {
    Egress::new(EgressPolicy { allow_private: PrivateNetworks::All, ..EgressPolicy::DEFAULT })
        .expect("a client")
}

/// A client that reaches the public internet and these networks, and asks `script` for names.
pub(crate) fn only(networks: &[&str], script: &Arc<Script>) -> Egress {
    let networks: Vec<Network> =
        networks.iter().map(|network| network.parse().expect("a network")).collect();
    let policy = EgressPolicy {
        allow_private: PrivateNetworks::Only(networks),
        // Each exchange connects anew, so each asks for the name.
        idle_connections_per_host_max: 0,
        ..EgressPolicy::DEFAULT
    };
    Egress::with_lookup(policy, script.clone()).expect("a client")
}

/// Posts `hello` with a timeout that nothing here is meant to reach.
pub(crate) async fn post(egress: &Egress, url: &str) -> Result<Response, EgressError> {
    post_within(egress, url, Duration::from_secs(20)).await
}

pub(crate) async fn post_within(
    egress: &Egress,
    url: &str,
    timeout: Duration,
) -> Result<Response, EgressError> {
    let request = Request {
        method: Method::POST,
        url: egress.check_url(url)?,
        headers: HeaderMap::new(),
        body: Bytes::from_static(b"hello"),
        timeout,
    };
    egress.send(request).await
}
