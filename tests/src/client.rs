//! A client of one server, which may come back on another port.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::Value;

use crate::Answer;

/// Longer than any call may take, a long poll included.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A client of one server. Clones follow the server when it is restarted.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Arc<Mutex<String>>,
    key: Option<String>,
}

impl Client {
    pub(crate) fn new(base: String) -> Client {
        egress::install_crypto_provider();
        let http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .expect("a client");
        Client { http, base: Arc::new(Mutex::new(base)), key: None }
    }

    pub(crate) fn follow(&self, base: String) {
        *self.base.lock().unwrap_or_else(PoisonError::into_inner) = base;
    }

    /// The same client showing this key with every call.
    #[must_use]
    pub fn with_key(&self, key: &str) -> Client {
        Client { key: Some(key.to_owned()), ..self.clone() }
    }

    /// The same client without a key.
    #[must_use]
    pub fn without_key(&self) -> Client {
        Client { key: None, ..self.clone() }
    }

    pub(crate) fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// `http://127.0.0.1:PORT`
    #[must_use]
    pub fn base(&self) -> String {
        self.base.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A call to be completed.
    #[must_use]
    pub fn call(&self, method: Method, path: &str) -> Call {
        let mut request = self.http.request(method, format!("{}{path}", self.base()));
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        Call { request }
    }

    /// `GET`
    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path).send().await
    }

    /// `POST` of JSON.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path).json(&body).send().await
    }

    /// `PUT` of JSON.
    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.call(Method::PUT, path).json(&body).send().await
    }

    /// `DELETE` without a body.
    pub async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path).send().await
    }

    /// Publishes one event in the short form; answers its receipt.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn publish(&self, event: Value) -> Value {
        self.post("/v1/events", event).await.json_of(202)
    }

    /// Publishes whole CloudEvents together, and answers whatever came of it.
    pub async fn try_publish_batch(&self, events: &[Value]) -> Answer {
        let kind = "application/cloudevents-batch+json";
        self.call(Method::POST, "/v1/events")
            .typed(kind, Value::from(events).to_string())
            .send()
            .await
    }

    /// Publishes whole CloudEvents together; answers their receipts.
    ///
    /// # Panics
    /// When they are refused.
    pub async fn publish_batch(&self, events: &[Value]) -> Vec<Value> {
        let answer = self.try_publish_batch(events).await.json_of(202);
        answer["events"].as_array().expect("receipts").clone()
    }

    /// The figures of a consumer.
    ///
    /// # Panics
    /// When there is no such consumer.
    pub async fn consumer(&self, name: &str) -> Value {
        let listed = self.get("/v1/consumers?limit=500").await.json_of(200);
        let items = listed["items"].as_array().expect("items");
        let found = items.iter().find(|consumer| consumer["name"] == name);
        found.unwrap_or_else(|| panic!("no consumer {name}: {listed}")).clone()
    }
}

/// A call in the making.
pub struct Call {
    request: reqwest::RequestBuilder,
}

impl Call {
    /// Sets a header.
    #[must_use]
    pub fn header(self, name: &str, value: impl AsRef<[u8]>) -> Call {
        Call { request: self.request.header(name, value.as_ref()) }
    }

    /// Sends JSON.
    #[must_use]
    pub fn json(self, body: &Value) -> Call {
        Call { request: self.request.json(body) }
    }

    /// Sends bytes of a media type.
    #[must_use]
    pub fn typed(self, media_type: &str, body: impl Into<Bytes>) -> Call {
        let request = self.request.header("content-type", media_type);
        Call { request: request.body(body.into()) }
    }

    /// Sends bytes that say nothing of their type.
    #[must_use]
    pub fn body(self, body: impl Into<Bytes>) -> Call {
        Call { request: self.request.body(body.into()) }
    }

    /// The answer, if there is one: the server may be gone.
    ///
    /// # Errors
    /// When no whole answer came back.
    pub async fn try_send(self) -> Result<Answer, reqwest::Error> {
        let response = self.request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        Ok(Answer { status, headers, body: response.bytes().await? })
    }

    /// The answer.
    ///
    /// # Panics
    /// When none came back.
    pub async fn send(self) -> Answer {
        self.try_send().await.expect("an answer")
    }

    pub(crate) async fn open(self) -> reqwest::Response {
        self.request.send().await.expect("an answer")
    }
}
