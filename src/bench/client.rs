//! A light HTTP client: client and server share the machine, so what the client takes the server
//! does not have.
//!
//! One connection, one request at a time, bytes made beforehand; of the answer only the status and
//! the length are looked at.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longest answer that is taken: 1 MiB.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// A kept connection.
pub(super) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(address).await.context("connecting")?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, buffer: Vec::with_capacity(16 * 1024) })
    }

    /// Sends a whole request and reads the whole answer; returns its status.
    pub(super) async fn send(&mut self, request: &[u8]) -> anyhow::Result<u16> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            let read = self.stream.read_buf(&mut self.buffer).await?;
            ensure!(read > 0, "the connection was closed");
            if let Some(answer) = parse(&self.buffer)?
                && self.buffer.len() >= answer.bytes
            {
                return Ok(answer.status);
            }
            ensure!(self.buffer.len() <= ANSWER_BYTES_MAX, "the answer is too long");
        }
    }
}

/// A request without a body.
pub(super) fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes()
}

/// A request with `body`.
pub(super) fn with_body(method: &str, path: &str, media_type: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {media_type}\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

struct Answer {
    status: u16,
    /// Of head and body.
    bytes: usize,
}

/// What the head says; `None` before all of it is there.
fn parse(buffer: &[u8]) -> anyhow::Result<Option<Answer>> {
    const END: &[u8] = b"\r\n\r\n";
    let Some(end) = buffer.windows(END.len()).position(|window| window == END) else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&buffer[..end])?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let status = status.context("the answer has no status")?;
    let length = length.context("the answer has no length")?;
    Ok(Some(Answer { status, bytes: end + END.len() + length }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_as_long_as_its_head_says() {
        let head = b"HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\n\r\n";
        let answer = parse(head).unwrap().unwrap();
        assert_eq!((answer.status, answer.bytes), (202, head.len() + 5));
        assert!(parse(&head[..20]).unwrap().is_none());
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
