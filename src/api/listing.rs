//! Pages of lists, and times and positions in queries.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, http};
use bus::{Log, Seq};
use schemas::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::body::Fields;
use crate::api::problem::Problem;

/// Items of a page, where the caller does not say.
const LIMIT_DEFAULT: i64 = 50;
/// Items of a page at most.
const LIMIT_MAX: i64 = 500;

/// A page of a list.
#[derive(Serialize, ToSchema)]
pub(crate) struct Items<T> {
    pub(crate) items: Vec<T>,
    /// Where the next page starts: given back as `cursor`; null after the last page.
    pub(crate) next: Option<String>,
}

impl<T> Items<T> {
    pub(crate) fn all(items: Vec<T>) -> Items<T> {
        Items { items, next: None }
    }
}

pub(crate) fn limit(query: &mut Fields) -> i64 {
    query.number("limit", 1, LIMIT_MAX).unwrap_or(LIMIT_DEFAULT)
}

/// The position before the first event recorded at or after the time that `name` says.
pub(crate) async fn position(
    query: &mut Fields,
    name: &str,
    log: &dyn Log,
) -> Result<Option<Seq>, Problem> {
    position_at(query.parsed::<Timestamp>(name), log).await
}

/// The position before the first event recorded at or after a time, if there is one.
pub(crate) async fn position_at(
    at: Option<Timestamp>,
    log: &dyn Log,
) -> Result<Option<Seq>, Problem> {
    match at {
        Some(at) => Ok(Some(log.position_at(at).await?)),
        None => Ok(None),
    }
}

/// What a conditional request (RFC 9110) is compared with.
pub(crate) struct Version {
    pub(crate) version: i64,
    pub(crate) updated_at: Timestamp,
}

impl Version {
    pub(crate) fn etag(&self) -> String {
        format!("\"{}\"", self.version)
    }

    /// Refuses a change that was made on the ground of another version. Who names a version need not name
    /// its time as well, which is then not looked at (RFC 9110, section 13.2.2).
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if headers.contains_key(header::IF_MATCH) {
            if tags(headers, &header::IF_MATCH).any(|tag| tag == "*" || tag == self.etag()) {
                return Ok(());
            }
            return Err(Problem::precondition(format!("it is at version {} now", self.etag())));
        }
        if let Some(since) = date(headers, &header::IF_UNMODIFIED_SINCE)
            && self.seconds() > since
        {
            return Err(Problem::precondition("it was changed since"));
        }
        Ok(())
    }

    /// Whether the caller has this version already.
    pub(crate) fn is_known(&self, headers: &HeaderMap) -> bool {
        if headers.contains_key(header::IF_NONE_MATCH) {
            let is_it = |tag: String| tag == "*" || tag.trim_start_matches("W/") == self.etag();
            return tags(headers, &header::IF_NONE_MATCH).any(is_it);
        }
        date(headers, &header::IF_MODIFIED_SINCE).is_some_and(|at| self.seconds() <= at)
    }

    /// The answer, with the version's headers.
    pub(crate) fn answer(&self, status: StatusCode, body: impl Serialize) -> Response {
        let mut response = (status, Json(body)).into_response();
        self.stamp(response.headers_mut());
        response
    }

    pub(crate) fn not_modified(&self) -> Response {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        self.stamp(response.headers_mut());
        response
    }

    fn stamp(&self, headers: &mut HeaderMap) {
        let modified = std::time::UNIX_EPOCH
            + std::time::Duration::from_secs(u64::try_from(self.seconds()).unwrap_or(0));
        for (name, value) in [
            (header::ETAG, self.etag()),
            (header::LAST_MODIFIED, httpdate::fmt_http_date(modified)),
        ] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
    }

    /// HTTP dates have whole seconds; a change within a second counts as that second.
    fn seconds(&self) -> i64 {
        self.updated_at.as_micros().div_euclid(1_000_000)
    }
}

/// All tags of a header, on however many lines. One that is no text is one that nothing matches.
fn tags(headers: &HeaderMap, name: &http::HeaderName) -> impl Iterator<Item = String> {
    let lines = headers.get_all(name).iter();
    let text = lines.map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned());
    let tags =
        text.flat_map(|line| line.split(',').map(|tag| tag.trim().to_owned()).collect::<Vec<_>>());
    tags.collect::<Vec<_>>().into_iter()
}

fn date(headers: &HeaderMap, name: &http::HeaderName) -> Option<i64> {
    let text = headers.get(name)?.to_str().ok()?;
    let at = httpdate::parse_http_date(text).ok()?;
    let since = at.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok()
}
