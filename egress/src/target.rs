//! A URL that outbound HTTP may be sent to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;
use url::{Host, Url};

/// How long a URL may be. Servers and proxies commonly stop at about this many bytes.
const URL_BYTES_MAX: usize = 2048;

/// The first port that needs no privilege to listen on. Below it, only 80 and 443 speak HTTP; the
/// others are mail, name and file services, which a crafted request body could talk to.
const UNPRIVILEGED_PORT_MIN: u16 = 1024;

/// A URL that passed the checks of [`Egress::check_url`](crate::Egress::check_url).
///
/// It prints as the normalised URL, which may hold a customer's token in its path or query: print
/// [`Target::origin`] in logs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    url: Url,
    /// The same, as the client takes it.
    uri: Uri,
}

impl Target {
    /// Checks everything about a URL that does not depend on the policy.
    pub(crate) fn parse(text: &str) -> Result<Target, UrlFault> {
        if text.len() > URL_BYTES_MAX {
            return Err(UrlFault::TooLong { bytes: text.len(), bytes_max: URL_BYTES_MAX });
        }
        let url = Url::parse(text).map_err(UrlFault::Unparsable)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(UrlFault::Scheme(url.scheme().to_owned()));
        }
        if !url.has_host() {
            return Err(UrlFault::NoHost);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(UrlFault::UserInfo);
        }
        if url.fragment().is_some() {
            return Err(UrlFault::Fragment);
        }
        match url.port_or_known_default() {
            Some(80 | 443 | UNPRIVILEGED_PORT_MIN..) => {}
            port => return Err(UrlFault::Port(port.unwrap_or(0))),
        }
        let uri = url.as_str().parse().map_err(|_| UrlFault::Characters)?;
        Ok(Target { url, uri })
    }

    /// The normalised URL.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The normalised URL as the client takes it.
    pub(crate) fn uri(&self) -> &Uri {
        &self.uri
    }

    /// The normalised URL as text.
    pub fn as_str(&self) -> &str {
        self.url.as_str()
    }

    /// The host: a name in lower case, or an address (IPv6 in brackets).
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// Scheme, host and port, without the path and query: fit for logs.
    pub fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// The addresses that are known without a lookup: the literal one, both of `localhost`, or none.
    pub(crate) fn known_addresses(&self) -> Vec<IpAddr> {
        match self.url.host() {
            Some(Host::Ipv4(address)) => vec![address.into()],
            Some(Host::Ipv6(address)) => vec![address.into()],
            Some(Host::Domain(name)) if is_localhost(name) => {
                vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
            }
            Some(Host::Domain(_)) | None => Vec::new(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// What is wrong with a URL, in words for the person who gave it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlFault {
    /// It does not parse.
    #[error("it cannot be read: {0}")]
    Unparsable(url::ParseError),
    /// It is too long.
    #[error("it has {bytes} bytes, and at most {bytes_max} are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// It is for another protocol.
    #[error("its scheme is `{0}`, and only http and https are allowed")]
    Scheme(String),
    /// It holds characters that HTTP does not know in a URL.
    #[error("it holds characters that must be percent-encoded")]
    Characters,
    /// It names no host.
    #[error("it names no host")]
    NoHost,
    /// It holds a user name or a password, which would end up in logs.
    #[error("it holds a user name or a password")]
    UserInfo,
    /// It holds a fragment, which is never sent.
    #[error("it holds a fragment (`#…`), which would never be sent")]
    Fragment,
    /// Its port belongs to a service that does not speak HTTP.
    #[error("its port is {0}, and only 80, 443 and those from 1024 up are allowed")]
    Port(u16),
}

/// RFC 6761: these names mean this machine, whatever a name server says.
fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_url_is_taken_and_normalised() {
        for (text, normalised) in [
            ("https://Example.COM/hook?a=1", "https://example.com/hook?a=1"),
            ("http://example.com:80", "http://example.com/"),
            ("http://example.com:443/", "http://example.com:443/"),
            ("https://example.com:8443/x", "https://example.com:8443/x"),
            ("http://example.com:1024/", "http://example.com:1024/"),
            // Parsers disagree on who the host is here; the checked one is the connected one.
            ("https://example.com\\@10.0.0.1/", "https://example.com/@10.0.0.1/"),
            ("https://bücher.example/", "https://xn--bcher-kva.example/"),
        ] {
            assert_eq!(Target::parse(text).unwrap().to_string(), normalised);
        }
    }

    #[test]
    fn an_origin_leaves_out_what_may_be_secret() {
        let target = Target::parse("https://example.com:8443/token?key=secret").unwrap();
        assert_eq!(target.origin(), "https://example.com:8443");
    }

    #[test]
    fn a_bad_url_is_explained() {
        let long = format!("https://example.com/{}", "a".repeat(URL_BYTES_MAX));
        for (text, part) in [
            ("", "cannot be read"),
            ("/hook", "cannot be read"),
            ("https://", "cannot be read"),
            ("http://exa mple.com/", "cannot be read"),
            ("http://1.2.3.4.5/", "cannot be read"),
            ("http://[fe80::1%25eth0]/", "cannot be read"),
            ("ftp://example.com/", "scheme is `ftp`"),
            ("file:///etc/passwd", "scheme is `file`"),
            ("gopher://example.com:6379/_", "scheme is `gopher`"),
            ("javascript:alert(1)", "scheme is `javascript`"),
            ("https://user@example.com/", "user name or a password"),
            ("https://:pass@example.com/", "user name or a password"),
            ("https://example.com/#part", "fragment"),
            ("http://example.com:0/", "port is 0"),
            ("http://example.com:22/", "port is 22"),
            ("http://example.com:1023/", "port is 1023"),
            ("http://example.com:65536/", "cannot be read"),
            (long.as_str(), "at most 2048"),
        ] {
            match Target::parse(text) {
                Ok(target) => panic!("{text} was taken as {target}"),
                Err(fault) => assert!(fault.to_string().contains(part), "{text}: {fault}"),
            }
        }
    }

    #[test]
    fn an_address_is_known_in_whatever_form_it_is_written() {
        for text in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://127.0.0.1./",
            "http://%31%32%37.0.0.1/",
            "http://１２７.０.０.１/",
            "http://127。0。0。1/",
        ] {
            let target = Target::parse(text).unwrap();
            assert_eq!(target.known_addresses(), [IpAddr::V4(Ipv4Addr::LOCALHOST)], "{text}");
        }
        for text in ["http://localhost/", "http://LOCALHOST./", "http://a.localhost/"] {
            assert_eq!(Target::parse(text).unwrap().known_addresses().len(), 2, "{text}");
        }
        assert!(Target::parse("http://localhost.example/").unwrap().known_addresses().is_empty());
    }
}
