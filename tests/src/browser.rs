//! A headless Chromium, driven by the WebDriver protocol (W3C) through `chromedriver`.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{eventually, eventually_within, free_port};

/// The name under which WebDriver hands out elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// Longest wait for something on a page.
const PATIENCE: Duration = Duration::from_secs(20);

/// One window. Dropped, browser and driver end.
pub struct Browser {
    driver: Child,
    http: reqwest::Client,
    session: String,
    _profile: TempDir,
}

impl Browser {
    /// Starts one.
    ///
    /// # Panics
    /// When `chromium` and `chromedriver` are not installed, or do not start.
    pub async fn start() -> Browser {
        let (port, profile) = (free_port(), tempfile::tempdir().expect("a folder"));
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .env("TMPDIR", profile.path()) // What it leaves behind when it is killed goes with that.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver: tests/run installs it");
        let (http, base) = (reqwest::Client::new(), format!("http://127.0.0.1:{port}"));
        let mut browser = Browser { driver, http, session: base.clone(), _profile: profile };
        eventually("chromedriver is ready", async || {
            let status = browser.try_call(Method::GET, "/status", None).await.ok()?;
            (status["ready"] == true).then_some(())
        })
        .await;
        let folder = format!("--user-data-dir={}", browser._profile.path().display());
        let options = json!({"args": ["--headless=new", "--no-sandbox", "--disable-gpu",
            "--disable-dev-shm-usage", "--window-size=1300,1000", folder]});
        let wanted = json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}});
        let made = browser.call(Method::POST, "/session", Some(wanted)).await;
        browser.session = format!("{base}/session/{}", made["sessionId"].as_str().expect("an id"));
        browser
    }

    /// Opens a page and waits until it is there.
    pub async fn open(&self, url: &str) {
        self.call(Method::POST, "/url", Some(json!({ "url": url }))).await;
    }

    /// The text of the first element of this CSS selector, as a person sees it; waits for one.
    pub async fn text(&self, css: &str) -> String {
        let element = self.find(css).await;
        let text = self.call(Method::GET, &format!("/element/{element}/text"), None).await;
        text.as_str().expect("a text").to_owned()
    }

    /// Waits until the text of the first element of this selector holds `part`.
    pub async fn sees(&self, css: &str, part: &str) {
        eventually_within(PATIENCE, &format!("`{css}` shows `{part}`"), async || {
            let element = self.try_find(css).await?;
            let path = format!("/element/{element}/text");
            let text = self.try_call(Method::GET, &path, None).await.ok()?;
            text.as_str()?.contains(part).then_some(())
        })
        .await;
    }

    /// Clicks the first element of this selector.
    pub async fn click(&self, css: &str) {
        let element = self.find(css).await;
        self.call(Method::POST, &format!("/element/{element}/click"), Some(json!({}))).await;
    }

    /// The question that the page asks, answered with yes or no.
    pub async fn answer(&self, yes: bool) -> String {
        let asked = self.call(Method::GET, "/alert/text", None).await;
        let answer = if yes { "/alert/accept" } else { "/alert/dismiss" };
        self.call(Method::POST, answer, Some(json!({}))).await;
        asked.as_str().expect("a text").to_owned()
    }

    /// What a script on the page returns.
    pub async fn run(&self, script: &str) -> Value {
        let body = json!({"script": script, "args": []});
        self.call(Method::POST, "/execute/sync", Some(body)).await
    }

    async fn find(&self, css: &str) -> String {
        let what = format!("an element `{css}`");
        eventually_within(PATIENCE, &what, async || self.try_find(css).await).await
    }

    async fn try_find(&self, css: &str) -> Option<String> {
        let body = json!({"using": "css selector", "value": css});
        let found = self.try_call(Method::POST, "/element", Some(body)).await.ok()?;
        found[ELEMENT].as_str().map(str::to_owned)
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let answer = self.try_call(method, path, body).await;
        answer.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    async fn try_call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, String> {
        let request = self.http.request(method, format!("{}{path}", self.session));
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let ok = answer.status().is_success();
        let mut body: Value = answer.json().await.map_err(|error| error.to_string())?;
        let value = body["value"].take();
        if ok { Ok(value) } else { Err(value.to_string()) }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends the browser when it is asked to end itself, unless that is still starting.
        let group = Pid::from_child(&self.driver);
        let _ = kill_process(group, Signal::TERM);
        let _ = self.driver.wait();
        let _ = kill_process_group(group, Signal::KILL);
    }
}
