//! Reads the bodies that webhooks are made and changed by.

use std::collections::BTreeMap;
use std::time::Duration;

use bus::{Seal, Span};
use schemas::{Filter, Patterns};
use serde_json::Value;
use utoipa::ToSchema;
use webhooks::{Endpoint, Manner, Scheme, SigningSecret, TIMEOUT_MAX};

use crate::api::State;
use crate::api::body::Fields;
use crate::api::problem::Problem;

const URL_BYTES_MAX: usize = 2_048;
const DESCRIPTION_BYTES_MAX: usize = 1_024;
const METADATA_BYTES_MAX: usize = 16 * 1_024;
const HEADERS_MAX: usize = 20;
const HEADER_BYTES_MAX: usize = 4_096;
/// Waits of a retry schedule at most, and the longest one.
const RETRIES_MAX: usize = 30;
const RETRY_WAIT_MAX: Duration = Duration::from_hours(7 * 24);
const OVERLAP_MAX: Duration = Duration::from_hours(7 * 24);
const OVERLAP_DEFAULT: Duration = Duration::from_hours(24);
const CONCURRENT_MAX: i64 = 1_000;

/// Headers that are Skald's or the connection's to set.
const RESERVED_PREFIXES: [&str; 4] = ["webhook-", "x-forwarded-", "ce-", "skald-"];

/// A webhook to be made; or, each field optional, changed.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "describes the body, which `Fields` reads with all its faults at once"
)]
pub(crate) struct WantedBody {
    /// `https://…`
    url: String,
    /// Patterns such as `com.acme.order.*` and `com.acme.>`.
    types: Vec<String>,
    #[schema(value_type = Option<Object>)]
    filter: Option<Value>,
    description: Option<String>,
    /// Gets events with this `tenant` only; without one, events without.
    tenant: Option<String>,
    /// A value given as it is shown, `***`, stays as it was.
    headers: Option<BTreeMap<String, String>>,
    /// Such as `50/s`.
    rate: Option<String>,
    max_concurrent: Option<i64>,
    timeout: Option<String>,
    /// The waits between attempts.
    retry: Option<Vec<String>>,
    ordered: Option<bool>,
    /// `v1`, HMAC-SHA256 with a secret that both know, or `v1a`, ed25519.
    signature: Option<String>,
    /// `whsec_…`, or `whsk_…` for `v1a`; made where it is absent.
    secret: Option<String>,
    #[schema(value_type = Option<Object>)]
    metadata: Option<Value>,
}

/// A rotation.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body, which `Fields` reads")]
pub(crate) struct RotateBody {
    secret: Option<String>,
    /// `v1` or `v1a`; as before where it is absent.
    signature: Option<String>,
    /// How long the old secrets sign on; 24 h.
    overlap: Option<String>,
}

/// A filter and an event to try it on.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body, which `Fields` reads")]
pub(crate) struct FilterTestBody {
    #[schema(value_type = Object)]
    filter: Value,
    #[schema(value_type = Object)]
    event: Value,
}

/// What a webhook shall be.
pub(crate) struct Wanted {
    pub(crate) url: String,
    pub(crate) types: Patterns,
    pub(crate) filter: Option<Filter>,
    pub(crate) description: Option<String>,
    pub(crate) tenant: Option<String>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) manner: Manner,
    pub(crate) metadata: Option<Value>,
    pub(crate) secret: Option<SigningSecret>,
}

impl Wanted {
    /// Reads a whole webhook, or a change of `known`: what is not given stays, `null` is as if it
    /// had never been given.
    pub(crate) fn read(fields: &mut Fields, state: &State, known: Option<&Endpoint>) -> Wanted {
        let keeps = |fields: &Fields, name: &str| known.filter(|_| !fields.has(name));
        let url = match keeps(fields, "url") {
            Some(known) => Some(known.url.clone()),
            None => read_url(fields, state),
        };
        let types = match keeps(fields, "types") {
            Some(known) => Some(known.types.clone()),
            None => read_types(fields),
        };
        let filter = match keeps(fields, "filter") {
            Some(known) => known.filter.clone(),
            None => read_filter(fields),
        };
        let description = match keeps(fields, "description") {
            Some(known) => known.description.clone(),
            None => bounded(fields, "description", DESCRIPTION_BYTES_MAX),
        };
        let tenant = match keeps(fields, "tenant") {
            Some(known) => known.tenant.clone(),
            None => bounded(fields, "tenant", 128),
        };
        let headers = read_headers(fields, state, known);
        let metadata = match keeps(fields, "metadata") {
            Some(known) => known.metadata.clone(),
            None => read_metadata(fields),
        };
        let mut manner = read_manner(fields, known.map(|known| &known.manner));
        let scheme = known.map(|known| known.manner.signature);
        let (signature, secret) = read_secret(fields, scheme.unwrap_or_default());
        if scheme.is_some_and(|scheme| scheme != signature) {
            fields.fault("signature", "is changed by rotate");
        }
        manner.signature = signature;
        Wanted {
            url: url.unwrap_or_default(),
            types: types.unwrap_or_else(Patterns::any),
            filter,
            description,
            tenant,
            headers,
            manner,
            metadata,
            secret,
        }
    }
}

/// What seals secrets.
pub(crate) fn seal(state: &State) -> Result<&Seal, Problem> {
    let missing = || Problem::fault("/secret", "cannot be stored without security.encryption_key");
    state.seal.as_ref().ok_or_else(missing)
}

/// The scheme and the secret, if one is given, which has to be of that scheme.
pub(crate) fn read_secret(fields: &mut Fields, known: Scheme) -> (Scheme, Option<SigningSecret>) {
    let scheme: Option<Scheme> = fields.parsed("signature");
    let secret: Option<SigningSecret> = fields.parsed("secret");
    let of_secret = secret.as_ref().map(SigningSecret::scheme);
    if let (Some(scheme), Some(of_secret)) = (scheme, of_secret)
        && scheme != of_secret
    {
        let begins = if scheme == Scheme::V1 { "whsec_" } else { "whsk_" };
        fields.fault("secret", format!("must begin with {begins}, as the signature is given"));
    }
    (scheme.or(of_secret).unwrap_or(known), secret)
}

pub(crate) fn read_overlap(fields: &mut Fields) -> Span {
    let overlap = fields.parsed("overlap").unwrap_or(Span(OVERLAP_DEFAULT));
    if overlap.0 > OVERLAP_MAX {
        fields.fault("overlap", format!("must not exceed {}", Span(OVERLAP_MAX)));
    }
    overlap
}

pub(crate) fn read_filter(fields: &mut Fields) -> Option<Filter> {
    let filter = fields.value("filter")?;
    Filter::parse(&filter).map_err(|faults| fields.faults_of("filter", faults)).ok()
}

fn read_url(fields: &mut Fields, state: &State) -> Option<String> {
    let url = bounded(fields, "url", URL_BYTES_MAX);
    let url = fields.require("url", url)?;
    state.egress.check_url(&url).map_err(|error| fields.fault("url", error.to_string())).ok()?;
    Some(url)
}

fn read_types(fields: &mut Fields) -> Option<Patterns> {
    let patterns = fields.list("types", Patterns::MAX, |item| match item {
        Value::String(text) => {
            text.parse().map_err(|error: schemas::InvalidPattern| error.to_string())
        }
        _ => Err("must be a string".to_owned()),
    });
    let patterns = fields.require("types", patterns)?;
    Patterns::new(patterns).map_err(|error| fields.fault("types", error.to_string())).ok()
}

fn bounded(fields: &mut Fields, name: &str, bytes_max: usize) -> Option<String> {
    let text = fields.text(name)?;
    if text.is_empty() || text.len() > bytes_max {
        fields.fault(name, format!("must have 1 to {bytes_max} bytes"));
        return None;
    }
    if text.chars().any(char::is_control) {
        fields.fault(name, "must not hold control characters");
        return None;
    }
    Some(text)
}

fn read_metadata(fields: &mut Fields) -> Option<Value> {
    let metadata = fields.value("metadata")?;
    if !metadata.is_object() {
        fields.fault("metadata", "must be an object");
    } else if metadata.to_string().len() > METADATA_BYTES_MAX {
        fields.fault("metadata", format!("must not exceed {METADATA_BYTES_MAX} bytes"));
    }
    Some(metadata)
}

/// Those of `known` where none are given; a value given as it is shown stays too, so that what was
/// read can be changed and sent back.
fn read_headers(
    fields: &mut Fields,
    state: &State,
    known: Option<&Endpoint>,
) -> BTreeMap<String, String> {
    let known = known.map_or(Ok(BTreeMap::new()), |known| known.open_headers(state.seal.as_ref()));
    if !fields.has("headers") {
        return known.unwrap_or_else(|error| {
            fields.fault("headers", format!("cannot be kept: {error}; give them anew"));
            BTreeMap::new()
        });
    }
    let mut known = known.unwrap_or_default();
    let Some(headers) = fields.value("headers") else { return BTreeMap::new() };
    let Value::Object(headers) = headers else {
        fields.fault("headers", "must be an object");
        return BTreeMap::new();
    };
    if headers.len() > HEADERS_MAX {
        fields.fault("headers", format!("must not be more than {HEADERS_MAX}"));
    }
    let mut read = BTreeMap::new();
    for (name, value) in headers {
        let fault = header_fault(&name, &value);
        let pointer = format!("headers/{}", name.replace('~', "~0").replace('/', "~1"));
        let lower = name.to_ascii_lowercase();
        let value = match (fault, value) {
            (Some(fault), _) => Err(fault),
            (None, Value::String(value)) if value == HIDDEN && is_sensitive(&lower) => known
                .remove(&lower)
                .ok_or_else(|| "is hidden, and there is no such value to keep".to_owned()),
            (None, Value::String(value)) => Ok(value),
            (None, _) => Err("must be a string".to_owned()),
        };
        match value {
            Err(fault) => fields.fault(&pointer, fault),
            Ok(value) => {
                if read.insert(lower, value).is_some() {
                    fields.fault(&pointer, "is given twice");
                }
            }
        }
    }
    read
}

fn header_fault(name: &str, value: &Value) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    if name.len() > 128 || lower.parse::<http::HeaderName>().is_err() {
        return Some("is no name of a header".to_owned());
    }
    let prefixed = RESERVED_PREFIXES.iter().any(|prefix| lower.starts_with(prefix));
    if prefixed || egress::is_reserved_header(&lower) {
        return Some("is reserved".to_owned());
    }
    let Value::String(value) = value else { return None };
    if value.len() > HEADER_BYTES_MAX {
        return Some(format!("must not exceed {HEADER_BYTES_MAX} bytes"));
    }
    let plain = http::HeaderValue::from_str(value).is_ok() && value.is_ascii();
    (!plain).then(|| "must be visible ASCII".to_owned())
}

fn read_manner(fields: &mut Fields, known: Option<&Manner>) -> Manner {
    let mut manner = known.cloned().unwrap_or_default();
    let default = Manner::default();
    if fields.has("rate") {
        manner.rate = fields.parsed("rate");
    }
    if fields.has("max_concurrent") {
        let number = fields.number("max_concurrent", 1, CONCURRENT_MAX);
        let number = number.and_then(|number| u32::try_from(number).ok());
        manner.max_concurrent = number.unwrap_or(default.max_concurrent);
    }
    if fields.has("timeout") {
        manner.timeout = fields.parsed("timeout").unwrap_or(default.timeout);
        if manner.timeout.0.is_zero() || manner.timeout.0 > TIMEOUT_MAX {
            fields.fault(
                "timeout",
                format!("must be longer than 0 and at most {}", Span(TIMEOUT_MAX)),
            );
        }
    }
    if fields.has("ordered") {
        manner.ordered = fields.flag("ordered");
    }
    if fields.has("retry") {
        manner.retry = read_retry(fields).unwrap_or(default.retry);
    }
    manner
}

/// An empty list means one attempt.
fn read_retry(fields: &mut Fields) -> Option<Vec<Span>> {
    match fields.value("retry")? {
        Value::Array(items) if items.len() <= RETRIES_MAX => {
            let mut waits = Vec::with_capacity(items.len());
            for (index, item) in items.iter().enumerate() {
                let wait = item.as_str().map(str::parse::<Span>);
                match wait {
                    Some(Ok(wait)) if wait.0 <= RETRY_WAIT_MAX => waits.push(wait),
                    _ => {
                        let most = Span(RETRY_WAIT_MAX);
                        let rule = format!("must be a duration of at most {most}, such as 30s");
                        fields.fault(&format!("retry/{index}"), rule);
                    }
                }
            }
            Some(waits)
        }
        _ => {
            fields.fault("retry", format!("must be a list of up to {RETRIES_MAX} durations"));
            None
        }
    }
}

/// What is shown instead of a header that looks like a credential.
const HIDDEN: &str = "***";

fn is_sensitive(name: &str) -> bool {
    const SENSITIVE: [&str; 7] =
        ["auth", "key", "token", "secret", "cookie", "password", "credential"];
    SENSITIVE.iter().any(|word| name.contains(word))
}

/// Headers as they are shown: what looks like a credential is not.
pub(crate) fn redacted(mut headers: BTreeMap<String, String>) -> BTreeMap<String, String> {
    for (_, value) in headers.iter_mut().filter(|(name, _)| is_sensitive(name)) {
        HIDDEN.clone_into(value);
    }
    headers
}
