//! An endpoint of someone else's that does not behave.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What it does with each connection after it has read some of the request.
#[derive(Clone, Copy, Debug)]
pub enum Misbehaviour {
    /// Says nothing.
    Hangs,
    /// Closes at once.
    Closes,
    /// Closes in the middle of the body that it announced.
    ClosesEarly,
    /// Says that it is gone, and closes in the middle of the body.
    GoneEarly,
    /// Asks to be left alone for 20 s, and never comes to the end of the body.
    BusyAndHangs,
    /// Sends headers without end.
    EndlessHeaders,
    /// Sends a body without end, as fast as it is read.
    EndlessBody,
    /// Sends one byte of a body now and then.
    DripsBody,
    /// Sends what is no HTTP.
    NoHttp,
}

/// A server on this machine that does not behave.
pub struct RawReceiver {
    address: String,
    connections: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

impl RawReceiver {
    /// Starts one.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn that(misbehaves: Misbehaviour) -> RawReceiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound port").to_string();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(misbehave(stream, misbehaves));
            }
        });
        RawReceiver { address, connections, server }
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Its URL for a client that speaks TLS.
    #[must_use]
    pub fn https_url(&self) -> String {
        format!("https://{}/hook", self.address)
    }

    /// Connections so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for RawReceiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Errors are those of the other side leaving, which is what it ought to do.
async fn misbehave(mut stream: TcpStream, how: Misbehaviour) -> Option<()> {
    let mut request = [0; 16 * 1024];
    let _some = stream.read(&mut request).await.ok()?;
    let head = |length: &str| format!("HTTP/1.1 200 OK\r\n{length}\r\n");
    match how {
        Misbehaviour::Hangs => std::future::pending::<()>().await,
        Misbehaviour::Closes => {}
        Misbehaviour::ClosesEarly => {
            stream.write_all(head("content-length: 100\r\n").as_bytes()).await.ok()?;
            stream.write_all(b"so far").await.ok()?;
        }
        Misbehaviour::GoneEarly => {
            stream
                .write_all(b"HTTP/1.1 410 Gone\r\ncontent-length: 100\r\n\r\nso far")
                .await
                .ok()?;
        }
        Misbehaviour::BusyAndHangs => {
            let head = b"HTTP/1.1 429 Busy\r\nretry-after: 20\r\ncontent-length: 100\r\n\r\n";
            stream.write_all(head).await.ok()?;
            std::future::pending::<()>().await;
        }
        Misbehaviour::EndlessHeaders => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await.ok()?;
            for number in 0_u64.. {
                stream.write_all(format!("x-{number}: and on\r\n").as_bytes()).await.ok()?;
            }
        }
        Misbehaviour::EndlessBody => {
            stream.write_all(head("").as_bytes()).await.ok()?;
            loop {
                stream.write_all(&[b'x'; 4096]).await.ok()?;
            }
        }
        Misbehaviour::DripsBody => {
            stream.write_all(head("content-length: 1000\r\n").as_bytes()).await.ok()?;
            loop {
                stream.write_all(b"x").await.ok()?;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Misbehaviour::NoHttp => stream.write_all(b"220 mail.example ESMTP\r\n").await.ok()?,
    }
    Some(())
}
