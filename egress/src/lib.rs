//! Outbound HTTP to addresses that others chose, which cannot be turned on the inside of the
//! network: webhook endpoints, push consumers and saga participants are all called through here.
//!
//! [`Egress::check_url`] parses a URL into a [`Target`] and refuses what is wrong on its face →
//! [`Egress::send`] resolves the name once, checks every address in the answer and connects to a
//! checked address only → the [`Response`] comes back bounded in time and size, redirects and all.
//!
//! There is no gap between the check and the connection: the connector looks a name up once, checks
//! what it gets and connects to that, so a name that changes its answer (DNS rebinding) gains
//! nothing. A [`Proxy`] is told the checked address, not the name; proxies from the environment are
//! ignored.
//!
//! [`signature`] signs and verifies requests after the Standard Webhooks specification with a shared
//! secret, [`KeyPair`] with a private and a public key.

mod egress;
pub use egress::Egress;

mod egress_policy;
pub use egress_policy::{EgressPolicy, PrivateNetworks};

mod network;
pub use network::{InvalidNetwork, Network};

mod target;
pub use target::{Target, UrlFault};

mod request;
pub use request::{Request, is_reserved_header};

mod response;
pub use response::{RESPONSE_BODY_BYTES_MAX, Response};

mod egress_error;
pub use egress_error::{EgressError, ExchangeError};

mod refused_address;
pub use refused_address::{AddressKind, RefusedAddress};

mod lookup;
pub use lookup::{Lookup, SystemLookup};

pub mod signature;
pub use signature::{InvalidSecret, Secret};

mod key_pair;
pub use key_pair::{InvalidKeyPair, KeyPair, PublicKey};

mod crypto_provider;
pub use crypto_provider::install_crypto_provider;

mod checked_connector;

mod proxy;
pub use proxy::{InvalidProxy, Proxy};

mod retry_after;
