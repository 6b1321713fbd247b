//! A light endpoint for deliveries: it shares the machine with what is measured, so what it takes the
//! server does not have.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::ensure;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections that may wait to be accepted: thousands are opened at the same moment, and those that find
/// no room try again a second later.
const BACKLOG: u32 = 4_096;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const LOOK: Duration = Duration::from_millis(2);

/// Answers 200 to all that is posted to it, or nothing on an address of its own, and counts.
#[derive(Clone)]
pub(super) struct Sink {
    address: SocketAddr,
    hanging: SocketAddr,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    requests: AtomicUsize,
    hanging: AtomicUsize,
    /// When the event of this id came first.
    arrivals: Mutex<HashMap<String, Instant>>,
}

impl Sink {
    pub(super) async fn start() -> anyhow::Result<Sink> {
        let (listener, hanging) = (listen()?, listen()?);
        let seen = Arc::new(Seen::default());
        let sink = Sink {
            address: listener.local_addr()?,
            hanging: hanging.local_addr()?,
            seen: Arc::clone(&seen),
        };
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    Ok((stream, _)) = listener.accept() => {
                        tokio::spawn(answer(stream, Arc::clone(&seen)));
                    }
                    Ok((stream, _)) = hanging.accept() => {
                        tokio::spawn(hang(stream, Arc::clone(&seen)));
                    }
                    else => return,
                }
            }
        });
        Ok(sink)
    }

    /// Where all is answered.
    pub(super) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Where nothing is.
    pub(super) fn hanging_url(&self) -> String {
        format!("http://{}/hang", self.hanging)
    }

    /// Requests that were answered.
    pub(super) fn requests(&self) -> usize {
        self.seen.requests.load(Ordering::Relaxed)
    }

    /// Requests that hang now.
    pub(super) fn hanging(&self) -> usize {
        self.seen.hanging.load(Ordering::Relaxed)
    }

    /// Waits until so many requests were answered.
    pub(super) async fn reaches(&self, requests: usize, within: Duration) -> anyhow::Result<()> {
        let begun = Instant::now();
        while self.requests() < requests {
            let arrived = self.requests();
            ensure!(begun.elapsed() < within, "{arrived} of {requests} deliveries arrived in time");
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// When each event came first, by its id.
    pub(super) fn arrivals(&self) -> HashMap<String, Instant> {
        self.seen.arrivals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn listen() -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    socket.listen(BACKLOG)
}

/// Reads a request and answers nothing until the other side has had enough.
async fn hang(mut stream: TcpStream, seen: Arc<Seen>) {
    let mut buffer = Vec::with_capacity(8 * 1024);
    if matches!(stream.read_buf(&mut buffer).await, Ok(read) if read > 0) {
        seen.hanging.fetch_add(1, Ordering::Relaxed);
        while matches!(stream.read_buf(&mut buffer).await, Ok(read) if read > 0) {}
        seen.hanging.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers one connection until it ends.
async fn answer(mut stream: TcpStream, seen: Arc<Seen>) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut buffer = Vec::with_capacity(8 * 1024);
    loop {
        let (head, length) = loop {
            if let Some(found) = request(&buffer)
                && buffer.len() >= found.0 + found.1
            {
                break found;
            }
            if stream.read_buf(&mut buffer).await.ok()? == 0 {
                return None;
            }
        };
        if let Some(id) = id(&buffer[head..head + length]) {
            let mut arrivals = seen.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
            arrivals.entry(id).or_insert_with(Instant::now);
        }
        buffer.drain(..head + length);
        seen.requests.fetch_add(1, Ordering::Relaxed);
        stream.write_all(ANSWER).await.ok()?;
    }
}

/// The bytes of the head and of the body, once the head is there.
fn request(buffer: &[u8]) -> Option<(usize, usize)> {
    let head = buffer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&buffer[..head]).ok()?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    Some((head, length.unwrap_or(0)))
}

/// The id of an event whose arrival is asked for: those begin with `timed-`.
fn id(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let from = text.find("\"timed-")? + 1;
    let rest = &text[from..];
    Some(rest[..rest.find('"')?].to_owned())
}
