//! A small client of the HTTP API.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use reqwest::header::HeaderValue;
use reqwest::{Method, RequestBuilder, Response, Url};
use serde_json::Value;

use super::problem::Problem;

/// Answers come at once or not at all, except for streams and long polls.
const TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Which server, and with which key.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Server")]
pub(super) struct ServerArgs {
    /// The server's address.
    #[arg(
        long,
        env = "SKALD_URL",
        default_value = "http://127.0.0.1:8080",
        global = true,
        value_name = "URL",
        value_parser = server
    )]
    url: Url,
    /// The key to present, `sk_…`; an empty one is none.
    #[arg(long, env = "SKALD_KEY", hide_env_values = true, global = true, value_name = "KEY")]
    key: Option<String>,
}

/// Reads the address of a server.
fn server(text: &str) -> Result<Url, String> {
    if text.is_empty() {
        return Err("it is empty; SKALD_URL and --url start with http:// or https://".to_owned());
    }
    let url = text.parse::<Url>().ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.ok_or_else(|| "SKALD_URL and --url start with http:// or https://".to_owned())
}

/// A client of one server. Clones share connections.
#[derive(Clone, Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    key: Option<String>,
}

impl ServerArgs {
    /// A client of that server.
    pub(super) fn client(self) -> anyhow::Result<Client> {
        Client::new(self.url, self.key)
    }
}

impl Client {
    /// A client of the server at `base`, which shows `key`.
    pub(super) fn new(base: Url, key: Option<String>) -> anyhow::Result<Client> {
        let key = key.filter(|key| !key.is_empty());
        if let Some(key) = &key {
            let is_header = HeaderValue::from_str(key).is_ok();
            anyhow::ensure!(
                is_header,
                "the key that SKALD_KEY or --key gives holds line ends or other control characters"
            );
        }
        egress::install_crypto_provider();
        anyhow::ensure!(!base.cannot_be_a_base(), "{base} is no address of a server");
        let http = reqwest::Client::builder()
            .user_agent(concat!("skald-cli/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .context("preparing to call the server")?;
        Ok(Client { http, base, key })
    }

    /// The address of `/v1/` and these segments, each escaped.
    pub(super) fn address(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        // The base was checked to be one that has segments.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push("v1").extend(segments);
        }
        url
    }

    /// A request that is not sent yet, without a limit in time.
    pub(super) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.http.request(method, url);
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// `GET` of these segments with this query.
    pub(super) async fn get(
        &self,
        segments: &[&str],
        query: &[(&str, Option<String>)],
    ) -> anyhow::Result<Value> {
        parse(&self.get_text(segments, query).await?)
    }

    /// Like [`Client::get`], as the server wrote it: numbers of events are not rounded.
    pub(super) async fn get_text(
        &self,
        segments: &[&str],
        query: &[(&str, Option<String>)],
    ) -> anyhow::Result<String> {
        let mut url = self.address(segments);
        append(&mut url, query);
        self.text(self.request(Method::GET, url)).await
    }

    /// `method` on these segments, with a body if there is one.
    pub(super) async fn send(
        &self,
        method: Method,
        segments: &[&str],
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let request = self.request(method, self.address(segments));
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        parse(&self.text(request).await?)
    }

    /// `PUT` of a text of this media type.
    pub(super) async fn put_text(
        &self,
        segments: &[&str],
        media_type: &str,
        text: String,
    ) -> anyhow::Result<Value> {
        let request = self.request(Method::PUT, self.address(segments));
        parse(&self.text(request.header("content-type", media_type).body(text)).await?)
    }

    async fn text(&self, request: RequestBuilder) -> anyhow::Result<String> {
        let answer = self.checked(request.timeout(TIMEOUT)).await?;
        let body = answer.bytes().await.with_context(|| format!("reading from {}", self.base))?;
        String::from_utf8(body.into())
            .context("the server answered with something that is not text")
    }

    /// Sends; an answer that is not 2xx is a [`Problem`].
    pub(super) async fn checked(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let answer = request.send().await.map_err(|error| self.unanswered(error))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        Err(Problem::read(status, &answer.bytes().await.unwrap_or_default()).into())
    }
}

impl Client {
    /// Why a call got no answer, and what may be wrong where nobody listens.
    pub(super) fn unanswered(&self, error: reqwest::Error) -> anyhow::Error {
        let is_away = error.is_connect();
        let error = anyhow::Error::new(error.without_url());
        if !is_away {
            return error.context(format!("calling {}", self.base));
        }
        let cause = error.root_cause();
        anyhow::anyhow!(
            "{} does not answer: {cause}. Is it running? `skald dev` starts one; --url or SKALD_URL \
             names another",
            self.base
        )
    }
}

/// An answer as a value; an empty one is null.
pub(super) fn parse(text: &str) -> anyhow::Result<Value> {
    if text.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(text).context("the server answered with something that is not JSON")
}

/// Appends those parameters that have a value.
pub(super) fn append(url: &mut Url, query: &[(&str, Option<String>)]) {
    let given = query.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?)));
    let given: Vec<_> = given.collect();
    if !given.is_empty() {
        url.query_pairs_mut().extend_pairs(given);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(url: &str) -> Client {
        ServerArgs { url: url.parse().unwrap(), key: None }.client().unwrap()
    }

    #[test]
    fn addresses_are_escaped_and_keep_the_path_of_the_base() {
        let url = client("http://h:1").address(&["consumers", "a/b c", "pause"]);
        assert_eq!(url.as_str(), "http://h:1/v1/consumers/a%2Fb%20c/pause");
        let url = client("https://h/skald/").address(&["events"]);
        assert_eq!(url.as_str(), "https://h/skald/v1/events");
    }

    #[test]
    fn an_address_without_http_is_refused_and_an_empty_key_is_none() {
        for text in ["", "foo", "localhost:8080", "ftp://h"] {
            assert!(server(text).unwrap_err().contains("start with http://"), "{text}");
        }
        let with = |key: &str| Client::new(server("http://h").unwrap(), Some(key.to_owned()));
        assert_eq!(with("").unwrap().key, None);
        assert!(with("sk_\n").unwrap_err().to_string().contains("SKALD_KEY"));
    }

    #[test]
    fn only_given_parameters_are_sent() {
        let mut url = client("http://h").address(&["events"]);
        append(&mut url, &[("type", Some("a.>".to_owned())), ("source", None)]);
        assert_eq!(url.as_str(), "http://h/v1/events?type=a.%3E");
        let mut url = client("http://h").address(&["events"]);
        append(&mut url, &[("source", None)]);
        assert_eq!(url.as_str(), "http://h/v1/events");
    }
}
