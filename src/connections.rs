//! Connections of clients: so many at most, and none that is held without saying what it is for.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
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
use tower::ServiceExt as _;

use crate::api::Front;

/// From the end of one request, or the start of the connection, to the end of the next one's head.
/// Longer than clients and proxies keep connections that nothing comes over, so that it is they who
/// close them, and no request meets a connection that is being closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
/// Connections at once, however many files there may be.
const PLACES_MAX: usize = 100_000;
/// Pause after the system had no connection to give: it has no more descriptors, most likely.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers the clients of `listener` until `stop`; what has begun then is answered still. Connections
/// have half of the files that the process may open, the other half is for its own: clients that come
/// then wait until others are gone.
pub(crate) async fn answer(listener: TcpListener, front: Front, stop: CancellationToken) {
    let files = getrlimit(Resource::Nofile).current;
    let most = files.and_then(|files| usize::try_from(files / 2).ok());
    let places = Arc::new(Semaphore::new(most.unwrap_or(PLACES_MAX).min(PLACES_MAX)));
    let connections = TaskTracker::new();
    while let Some(stream) = stop.run_until_cancelled(accept(&listener)).await {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
        let served = serve(stream, front.clone(), stop.clone());
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

async fn serve(stream: TcpStream, front: Front, stop: CancellationToken) {
    let _ = stream.set_nodelay(true); // Events of a stream are small and not to be kept back.
    let asked = Arc::new(AtomicBool::new(false));
    let has_asked = Arc::clone(&asked);
    let service = front.map_request(move |request: Request<Incoming>| {
        has_asked.store(true, Ordering::Relaxed);
        request.map(Body::new)
    });
    let mut http = Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    http.http2().timer(TokioTimer::new()).keep_alive_interval(HEAD_TIMEOUT);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut connection = std::pin::pin!(connection);
    // Before it is known which version is spoken, neither looks at the time.
    let silent = async {
        tokio::time::sleep(HEAD_TIMEOUT).await;
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
