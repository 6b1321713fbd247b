//! The way out through a proxy: HTTP CONNECT (RFC 9110, 9.3.6) or SOCKS 5 (RFC 1928, 1929).
//!
//! The proxy is told the address that was looked up and checked here, never the name: it would look
//! it up again, and might find another. It is the operator's, so its own address is not checked.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use base64::engine::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;

/// Bytes of an answer to CONNECT at most.
const ANSWER_BYTES_MAX: usize = 8 * 1024;

/// A proxy: `http://[user:password@]host:port` or `socks5://[user:password@]host:port`.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    protocol: Protocol,
    host: String,
    port: u16,
    user: Option<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http,
    Socks5,
}

/// Not the URL of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a proxy is http://HOST:PORT or socks5://HOST:PORT, with user:password@ before it if need be"
)]
pub struct InvalidProxy;

impl FromStr for Proxy {
    type Err = InvalidProxy;

    fn from_str(text: &str) -> Result<Proxy, InvalidProxy> {
        let url = Url::parse(text).map_err(|_| InvalidProxy)?;
        let (protocol, port) = match url.scheme() {
            "http" => (Protocol::Http, 80),
            "socks5" => (Protocol::Socks5, 1080),
            _ => return Err(InvalidProxy),
        };
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(InvalidProxy)?;
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidProxy);
        }
        let decode = |text: &str| {
            let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
            decoded.map(std::borrow::Cow::into_owned).map_err(|_| InvalidProxy)
        };
        let user = match (url.username(), url.password()) {
            ("", None) => None,
            (user, password) => Some((decode(user)?, decode(password.unwrap_or_default())?)),
        };
        if user.as_ref().is_some_and(|(user, password)| user.len().max(password.len()) > 255) {
            return Err(InvalidProxy);
        }
        let host = host.trim_matches(['[', ']']).to_owned();
        Ok(Proxy { protocol, host, port: url.port().unwrap_or(port), user })
    }
}

/// Without the password.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}:{}", self.protocol, self.host, self.port)
    }
}

impl Proxy {
    /// A connection to `address` that the proxy has made.
    pub(crate) async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        match self.protocol {
            Protocol::Http => self.ask_http(&mut stream, address).await?,
            Protocol::Socks5 => self.ask_socks(&mut stream, address).await?,
        }
        Ok(stream)
    }

    async fn ask_http(&self, stream: &mut TcpStream, address: SocketAddr) -> io::Result<()> {
        let mut request = format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n");
        if let Some((user, password)) = &self.user {
            let credentials = BASE64_STANDARD.encode(format!("{user}:{password}"));
            request.push_str(&format!("Proxy-Authorization: Basic {credentials}\r\n"));
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        // One byte after the other: what follows the answer belongs to the tunnel.
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() >= ANSWER_BYTES_MAX {
                return Err(refusal("its answer is too long"));
            }
            answer.push(stream.read_u8().await?);
        }
        let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        match line.split(' ').nth(1) {
            Some(status) if line.starts_with("HTTP/1.") && status.starts_with('2') => Ok(()),
            _ => Err(refusal(&line)),
        }
    }

    async fn ask_socks(&self, stream: &mut TcpStream, address: SocketAddr) -> io::Result<()> {
        self.log_in_to_socks(stream).await?;
        let mut request = vec![5, 1, 0];
        match address.ip() {
            IpAddr::V4(ip) => {
                request.push(1);
                request.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                request.push(4);
                request.extend_from_slice(&ip.octets());
            }
        }
        request.extend_from_slice(&address.port().to_be_bytes());
        stream.write_all(&request).await?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await?;
        if answer[1] != 0 {
            return Err(refusal(&format!("SOCKS 5 reply {}", answer[1])));
        }
        // The address that it connects from, which nobody needs.
        let bytes = match answer[3] {
            1 => 4,
            4 => 16,
            3 => usize::from(stream.read_u8().await?),
            _ => return Err(refusal("its answer is no SOCKS 5")),
        };
        let mut from = vec![0; bytes + 2];
        stream.read_exact(&mut from).await.map(|_| ())
    }

    async fn log_in_to_socks(&self, stream: &mut TcpStream) -> io::Result<()> {
        let method = if self.user.is_some() { 2 } else { 0 };
        stream.write_all(&[5, 1, method]).await?;
        let mut chosen = [0; 2];
        stream.read_exact(&mut chosen).await?;
        if chosen != [5, method] {
            return Err(refusal("it speaks no SOCKS 5, or wants another authentication"));
        }
        let Some((user, password)) = &self.user else { return Ok(()) };
        let mut login = vec![1];
        for text in [user, password] {
            login.push(u8::try_from(text.len()).map_err(io::Error::other)?);
            login.extend_from_slice(text.as_bytes());
        }
        stream.write_all(&login).await?;
        let mut answer = [0; 2];
        stream.read_exact(&mut answer).await?;
        if answer[1] == 0 { Ok(()) } else { Err(refusal("user name or password")) }
    }
}

fn refusal(why: &str) -> io::Error {
    io::Error::new(ErrorKind::ConnectionRefused, format!("the proxy refuses: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_read_and_its_password_is_not_shown() {
        let proxy: Proxy = "http://me:pass%20word@proxy.example:3128".parse().unwrap();
        assert_eq!(proxy.user, Some(("me".to_owned(), "pass word".to_owned())));
        assert_eq!(format!("{proxy:?}"), "Http proxy.example:3128");
        let proxy: Proxy = "socks5://[::1]".parse().unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port), ("::1", 1080));
        for text in ["", "proxy:3128", "https://proxy", "http://proxy/path", "ftp://proxy"] {
            assert_eq!(text.parse::<Proxy>(), Err(InvalidProxy), "{text}");
        }
    }
}
