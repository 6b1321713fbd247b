//! `skald listen`: live events, forwarded to a program on a developer's machine.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use egress::{Egress, EgressPolicy, PrivateNetworks, Secret, Target};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use schemas::Pattern;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::output::{printable, text};
use super::tail::{self, Message};
use super::{Output, ServerArgs, Stop};

/// How long the program may take for one event.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Which events, and where to.
#[derive(Debug, Args)]
pub(super) struct ListenArgs {
    /// Where events are posted, such as http://localhost:3000/hook.
    #[arg(long, value_name = "URL")]
    forward: String,
    /// Of types that match.
    #[arg(long = "type", alias = "types", value_name = "PATTERN")]
    types: Option<Pattern>,
    /// What signs; a new secret, which is printed, when it is not given.
    #[arg(long, env = "SKALD_WEBHOOK_SECRET", hide_env_values = true, value_name = "whsec_…")]
    secret: Option<Secret>,
    #[command(flatten)]
    server: ServerArgs,
}

/// An event as the stream has it; its text is forwarded as it is.
#[derive(Deserialize)]
struct Shown<'a> {
    seq: i64,
    #[serde(borrow)]
    event: &'a RawValue,
}

/// Forwards events until the process is stopped. One that fails is told and left: this is for
/// development, and the next one may be what is looked for.
pub(super) async fn run(args: ListenArgs, output: &Output) -> Result<(), Stop> {
    let client = args.server.client()?;
    let policy = EgressPolicy { allow_private: PrivateNetworks::All, ..EgressPolicy::DEFAULT };
    let egress = Egress::new(policy).map_err(Stop::start)?;
    let url = egress.check_url(&args.forward).map_err(Stop::start)?;
    let secret = match args.secret {
        Some(secret) => secret,
        None => Secret::from_bytes(&rand::random::<[u8; 32]>()).map_err(Stop::start)?,
    };
    let told = json!({ "forward": args.forward, "secret": secret.expose() });
    let ready = format!("forwarding to {}, signed with {}", args.forward, secret.expose());
    output.either(&told, &ready)?;
    let forward = Forward { egress, url, secret };
    let types = args.types.map(|types| types.to_string());
    tail::each(&client, types, None, async |message| forward.one(message, output).await).await
}

struct Forward {
    egress: Egress,
    url: Target,
    secret: Secret,
}

impl Forward {
    async fn one(&self, message: &Message, output: &Output) -> Result<(), Stop> {
        let Ok(shown) = serde_json::from_str::<Shown<'_>>(&message.data) else { return Ok(()) };
        let begun = std::time::Instant::now();
        let answer = match self.post(&shown).await {
            Ok(status) => status.to_string(),
            Err(error) => format!("{error:#}"),
        };
        let event: serde_json::Value = serde_json::from_str(shown.event.get()).unwrap_or_default();
        let took = begun.elapsed().as_millis();
        let told = json!({ "seq": shown.seq, "answer": answer, "duration_ms": took });
        let line = format!("{} {} → {answer} ({took} ms)", shown.seq, text(&event["type"]));
        Ok(output.either(&told, &printable(&line))?)
    }

    async fn post(&self, shown: &Shown<'_>) -> anyhow::Result<u16> {
        let body = Bytes::copy_from_slice(shown.event.get().as_bytes());
        let id = format!("listen_{}", shown.seq);
        let at = bus::Clock::system().now().as_micros().div_euclid(1_000_000);
        let signature = self.secret.sign(&id, at, &body);
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-type", "application/cloudevents+json"),
            ("webhook-id", &id),
            ("webhook-timestamp", &at.to_string()),
            ("webhook-signature", &signature),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value)?);
        }
        let (method, url) = (Method::POST, self.url.clone());
        let request = egress::Request { method, url, headers, body, timeout: TIMEOUT };
        Ok(self.egress.send(request).await?.status.as_u16())
    }
}
