//! How an exchange can fail.

use std::error::Error;
use std::io;
use std::time::Duration;

use crate::checked_connector::LookupFailed;
use crate::refused_address::RefusedAddress;
use crate::target::{Target, UrlFault};

/// How an exchange can fail before there is a response. Messages hold no path and no query.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EgressError {
    /// The client could not be built, for instance because no root certificates are installed.
    #[error("building the HTTP client")]
    Build(#[source] rustls::Error),
    /// The URL is wrong on its face. Permanent.
    #[error("the URL is not allowed: {fault}")]
    InvalidUrl {
        /// What is wrong with it.
        fault: UrlFault,
    },
    /// The host has no address that the policy lets through. Permanent.
    #[error(transparent)]
    RefusedAddress(RefusedAddress),
    /// The name could not be resolved.
    #[error("looking up {host}")]
    Dns {
        /// The name.
        host: String,
        /// What the resolver says.
        #[source]
        source: ExchangeError,
    },
    /// No connection came about, or not within the connect timeout.
    #[error("connecting to {host}")]
    Connect {
        /// The name or address.
        host: String,
        /// What the connector says.
        #[source]
        source: ExchangeError,
    },
    /// The TLS handshake failed, for instance because of the certificate.
    #[error("agreeing on TLS with {host}")]
    Tls {
        /// The name or address.
        host: String,
        /// What the TLS library says.
        #[source]
        source: ExchangeError,
    },
    /// The exchange was not over in time. The other side may have acted on the request.
    #[error("{host} did not complete the exchange within {after:?}")]
    Timeout {
        /// The name or address.
        host: String,
        /// The timeout of the request.
        after: Duration,
    },
    /// The exchange broke off, or what came back is not HTTP. The other side may have acted on
    /// the request.
    #[error("exchanging messages with {host}")]
    Protocol {
        /// The name or address.
        host: String,
        /// What the HTTP library says.
        #[source]
        source: ExchangeError,
    },
}

impl EgressError {
    /// Whether trying again is pointless until somebody changes the URL or the policy.
    pub fn is_permanent(&self) -> bool {
        match self {
            EgressError::InvalidUrl { .. } | EgressError::RefusedAddress(_) => true,
            EgressError::Build(_)
            | EgressError::Dns { .. }
            | EgressError::Connect { .. }
            | EgressError::Tls { .. }
            | EgressError::Timeout { .. }
            | EgressError::Protocol { .. } => false,
        }
    }

    /// A word for the `error.type` of spans and metrics; one of eight.
    pub fn kind(&self) -> &'static str {
        match self {
            EgressError::Build(_) => "build",
            EgressError::InvalidUrl { .. } => "invalid_url",
            EgressError::RefusedAddress(_) => "refused_address",
            EgressError::Dns { .. } => "dns",
            EgressError::Connect { .. } => "connect",
            EgressError::Tls { .. } => "tls",
            EgressError::Timeout { .. } => "timeout",
            EgressError::Protocol { .. } => "protocol",
        }
    }

    /// Says what went wrong with an exchange, by what lies at the bottom of the client's error.
    pub(crate) fn from_exchange(target: &Target, source: ExchangeError) -> EgressError {
        let host = target.host().to_owned();
        if let Some(refused) = cause::<RefusedAddress>(&source) {
            EgressError::RefusedAddress(refused.clone())
        } else if cause::<LookupFailed>(&source).is_some() {
            EgressError::Dns { host, source }
        } else if cause::<rustls::Error>(&source).is_some() {
            EgressError::Tls { host, source }
        } else if source.is_connect() {
            EgressError::Connect { host, source }
        } else {
            EgressError::Protocol { host, source }
        }
    }
}

/// What the HTTP library says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// Until the head of the response had come.
    #[error(transparent)]
    Request(#[from] hyper_util::client::legacy::Error),
    /// While the body was read.
    #[error("reading the body")]
    Body(#[from] hyper::Error),
}

impl ExchangeError {
    fn is_connect(&self) -> bool {
        matches!(self, ExchangeError::Request(error) if error.is_connect())
    }
}

/// The first cause of the given type, also inside I/O errors, which hide theirs.
fn cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}
