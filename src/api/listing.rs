//! Pages of lists, and times and positions in queries.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, http};
use bus::{Found, Log, Seq};
use schemas::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::body::Fields;
use crate::api::problem::Problem;

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

    /// What was found, with the cursor that the last of it makes.
    pub(crate) fn of(found: Found<T>, cursor: impl FnOnce(&T) -> String) -> Items<T> {
        let next = found.items.last().filter(|_| found.more).map(cursor);
        Items { items: found.items, next }
    }

    pub(crate) fn map<U>(self, describe: impl FnMut(T) -> U) -> Items<U> {
        Items { items: self.items.into_iter().map(describe).collect(), next: self.next }
    }
}

/// How many items a page has at most.
#[derive(Clone, Copy)]
pub(crate) struct Limit(u16);

impl Limit {
    const DEFAULT: Limit = Limit(50);
    const MAX: i64 = 500;

    /// What the caller says, or else the default.
    pub(crate) fn of(query: &mut Fields) -> Limit {
        let said = query.number("limit", 1, Limit::MAX);
        said.and_then(|said| u16::try_from(said).ok()).map_or(Limit::DEFAULT, Limit)
    }

    pub(crate) fn get(self) -> u16 {
        self.0
    }

    /// To look for one item more than a page has: whether it is found tells if there is a next page.
    pub(crate) fn and_one<N: From<u16>>(self) -> N {
        N::from(self.0 + 1)
    }

    /// The page of what was found so, with the cursor that the last of its items makes.
    pub(crate) fn page<T>(self, mut found: Vec<T>, cursor: impl FnOnce(&T) -> String) -> Items<T> {
        let more = found.len() > usize::from(self.0);
        found.truncate(self.0.into());
        Items::of(Found { items: found, more }, cursor)
    }
}

/// The cursor of a query, as `parse` reads it.
pub(crate) fn cursor<T>(query: &mut Fields, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    let text = query.text("cursor")?;
    let parsed = parse(&text);
    if parsed.is_none() {
        query.fault("cursor", "must be the `next` of a page of this list");
    }
    parsed
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
