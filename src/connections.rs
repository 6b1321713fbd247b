//! Connections of clients: so many at most, and none that is held without saying what it is for.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt as _};

/// From the end of one request, or the start of the connection, to the end of the next one's head.
/// Longer than clients and proxies keep connections that nothing comes over, so that it is they who
/// close them, and no request meets a connection that is being closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
/// Connections at once, however many files there may be.
const CONNECTIONS_MAX: usize = 100_000;
/// Pause after the system had no connection to give: it has no more descriptors, most likely.
const PAUSE: Duration = Duration::from_millis(100);

/// How many connections there may be, and how long each may be silent.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    connections_max: usize,
    head_timeout: Duration,
}

impl Limits {
    /// Connections have half of the files that the process may open, the other half is for its own.
    pub(crate) fn of_process() -> Limits {
        let files = getrlimit(Resource::Nofile).current;
        let most = files.and_then(|files| usize::try_from(files / 2).ok()).unwrap_or(usize::MAX);
        Limits { connections_max: most.min(CONNECTIONS_MAX), head_timeout: HEAD_TIMEOUT }
    }
}

/// Answers the clients of `listener` until `stop`; what has begun then is answered still. Clients that
/// come when there are as many as may be wait until others are gone.
pub(crate) async fn answer<S>(
    listener: TcpListener,
    service: S,
    limits: Limits,
    stop: CancellationToken,
) where
    S: Service<Request<Body>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let connections = TaskTracker::new();
    let next = async || {
        let place = Arc::clone(&places).acquire_owned().await.ok()?;
        Some((accept(&listener).await, place))
    };
    while let Some(Some((stream, place))) = stop.run_until_cancelled(next()).await {
        let served = serve(stream, service.clone(), limits.head_timeout, stop.clone());
        connections.spawn(async move {
            served.await;
            drop(place);
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) if is_of_the_client(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "taking a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// The client was gone before it was taken.
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn serve<S>(stream: TcpStream, service: S, head_timeout: Duration, stop: CancellationToken)
where
    S: Service<Request<Body>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let _ = stream.set_nodelay(true); // Events of a stream are small and not to be kept back.
    let asked = Arc::new(AtomicBool::new(false));
    let has_asked = Arc::clone(&asked);
    let service = service.map_request(move |request: Request<Incoming>| {
        has_asked.store(true, Ordering::Relaxed);
        request.map(Body::new)
    });
    let mut http = Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(head_timeout);
    http.http2().timer(TokioTimer::new()).keep_alive_interval(head_timeout);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut connection = std::pin::pin!(connection);
    // Before it is known which version is spoken, neither looks at the time.
    let silent = async {
        tokio::time::sleep(head_timeout).await;
        if asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = silent => return,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(error, "a connection ended");
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const HEAD: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    /// Answers `ok`, and is patient for 300 ms.
    async fn clients_of(connections_max: usize) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = Limits { connections_max, head_timeout: Duration::from_millis(300) };
        let router = Router::new().route("/", get(|| async { "ok" }));
        tokio::spawn(answer(listener, router, limits, CancellationToken::new()));
        address
    }

    /// What comes until the server closes, if it does.
    async fn to_the_end(stream: &mut TcpStream) -> String {
        let mut told = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut told));
        read.await.expect("the server closes").unwrap();
        String::from_utf8(told).unwrap()
    }

    #[tokio::test]
    async fn who_says_nothing_or_half_of_it_is_left() {
        let address = clients_of(10).await;
        // Nothing, the beginning of either version, half a head, and nothing more after an answer.
        for said in [&b""[..], b"P", b"PRI * HT", b"GET / HTTP/1.1\r\nho", HEAD] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(said).await.unwrap();
            let told = to_the_end(&mut stream).await;
            assert_eq!(told.ends_with("ok"), said == HEAD, "{told}");
        }
    }

    #[tokio::test]
    async fn more_than_there_are_places_wait_for_one() {
        let address = clients_of(1).await;
        let held = TcpStream::connect(address).await.unwrap();
        let mut next = TcpStream::connect(address).await.unwrap();
        next.write_all(HEAD).await.unwrap();
        let mut told = [0; 8];
        let early = tokio::time::timeout(Duration::from_millis(100), next.read(&mut told)).await;
        assert!(early.is_err(), "{early:?}");
        drop(held);
        assert!(to_the_end(&mut next).await.ends_with("ok"));
    }
}
