//! The client.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use http::header::USER_AGENT;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use rustls_platform_verifier::ConfigVerifierExt as _;
use tokio::time::{Instant, timeout_at};

use crate::checked_connector::CheckedConnector;
use crate::crypto_provider::install_crypto_provider;
use crate::egress_error::{EgressError, ExchangeError};
use crate::egress_policy::{EgressPolicy, PrivateNetworks};
use crate::lookup::{Lookup, SystemLookup};
use crate::refused_address::RefusedAddress;
use crate::request::{Request, without_owned_headers};
use crate::response::{RESPONSE_BODY_BYTES_MAX, Response, read_body};
use crate::target::Target;

const PRODUCT: &str = concat!("skald/", env!("CARGO_PKG_VERSION"));

/// Sends HTTP to addresses that others chose, within an [`EgressPolicy`].
///
/// Clones share one pool of connections.
#[derive(Clone, Debug)]
pub struct Egress {
    client: Client<HttpsConnector<CheckedConnector>, Full<Bytes>>,
    allow_private: Arc<PrivateNetworks>,
    response_bytes_max: usize,
}

impl Egress {
    /// A client that resolves names as the operating system does.
    ///
    /// # Errors
    /// [`EgressError::Build`] if the system has no root certificates.
    pub fn new(policy: EgressPolicy) -> Result<Egress, EgressError> {
        Egress::with_lookup(policy, Arc::new(SystemLookup::new()))
    }

    /// A client that resolves names by `lookup`. Its answers are checked like any others.
    ///
    /// # Errors
    /// [`EgressError::Build`] if the system has no root certificates.
    pub fn with_lookup(
        policy: EgressPolicy,
        lookup: Arc<dyn Lookup>,
    ) -> Result<Egress, EgressError> {
        install_crypto_provider();
        let allow_private = Arc::new(policy.allow_private);
        let connector = CheckedConnector {
            lookup,
            allow_private: Arc::clone(&allow_private),
            proxy: policy.proxy.map(Arc::new),
            timeout: policy.connect_timeout,
        };
        let tls = ClientConfig::with_platform_verifier().map_err(EgressError::Build)?;
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(policy.idle_timeout)
            .pool_max_idle_per_host(policy.idle_connections_per_host_max)
            .build(connector);
        Ok(Egress { client, allow_private, response_bytes_max: RESPONSE_BODY_BYTES_MAX })
    }

    /// The same client, reading up to `bytes` of each response instead of
    /// [`RESPONSE_BODY_BYTES_MAX`]: for answers that are used and not only shown.
    #[must_use]
    pub fn with_response_bytes_max(mut self, bytes: usize) -> Egress {
        self.response_bytes_max = bytes;
        self
    }

    /// Parses a URL and checks what can be checked without a lookup, when an endpoint is
    /// registered. A name is resolved and checked at every connection.
    ///
    /// # Errors
    /// [`EgressError::InvalidUrl`] unless it is `http` or `https` to port 80, 443 or from 1024 up,
    /// without user name, password and fragment; [`EgressError::RefusedAddress`] if its host is an
    /// address (in any notation) or `localhost`, and the policy does not let that through.
    pub fn check_url(&self, url: &str) -> Result<Target, EgressError> {
        let target = Target::parse(url).map_err(|fault| EgressError::InvalidUrl { fault })?;
        self.check_known_addresses(&target)?;
        Ok(target)
    }

    /// Sends one request and reads the response, whatever its status. Redirects are not followed.
    ///
    /// # Errors
    /// Any [`EgressError`] but `InvalidUrl` and `Build`. After `Timeout` and `Protocol` the other
    /// side may have acted on the request.
    pub async fn send(&self, request: Request) -> Result<Response, EgressError> {
        let mut response = self.send_for_status(request).await?;
        response.cut.take().map_or(Ok(response), Err)
    }

    /// The same for who goes by the status: a body that breaks off, or does not end in time, does not
    /// take back what the head has said. [`Response::cut`] tells of it.
    ///
    /// # Errors
    /// As [`Egress::send`], until the head has come.
    pub async fn send_for_status(&self, request: Request) -> Result<Response, EgressError> {
        let started = Instant::now();
        // Again, because the target may have been checked under another policy; and because a
        // literal address is connected to without asking the resolver.
        self.check_known_addresses(&request.url)?;
        let (target, after) = (request.url.clone(), request.timeout);
        let late = || EgressError::Timeout { host: target.host().to_owned(), after };
        let failed = |source: ExchangeError| EgressError::from_exchange(&target, source);
        let mut message = http::Request::new(Full::new(request.body));
        *message.method_mut() = request.method;
        *message.uri_mut() = request.url.uri().clone();
        *message.headers_mut() = without_owned_headers(request.headers);
        let product = HeaderValue::from_static(PRODUCT);
        message.headers_mut().entry(USER_AGENT).or_insert(product);
        let answer = timeout_at(started + after, self.client.request(message)).await;
        let (head, body) =
            answer.map_err(|_| late())?.map_err(|error| failed(error.into()))?.into_parts();
        let mut kept = BytesMut::new();
        let read = read_body(body, self.response_bytes_max, &mut kept);
        let (truncated, cut) = match timeout_at(started + after, read).await {
            Ok(Ok(truncated)) => (truncated, None),
            Ok(Err(error)) => (false, Some(failed(error.into()))),
            Err(_) => (false, Some(late())),
        };
        Ok(Response {
            status: head.status,
            headers: head.headers,
            body: kept.freeze(),
            truncated,
            cut,
            duration: started.elapsed(),
        })
    }

    fn check_known_addresses(&self, target: &Target) -> Result<(), EgressError> {
        let mut refused = None;
        for address in target.known_addresses() {
            match self.allow_private.check(address) {
                Ok(()) => return Ok(()),
                Err(kind) => {
                    let host = target.host().to_owned();
                    refused.get_or_insert(RefusedAddress { host, address, kind });
                }
            }
        }
        refused.map_or(Ok(()), |refused| Err(EgressError::RefusedAddress(refused)))
    }
}
