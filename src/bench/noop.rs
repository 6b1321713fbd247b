//! A server that reads the same requests as `POST /v1/events` and answers at once: what HTTP
//! itself costs.

use std::io::Write as _;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::post;
use bytes::Bytes;
use clap::Args;

use super::process::LISTENING;

/// Where it answers.
#[derive(Args, Debug)]
pub(super) struct NoopArgs {
    /// Where to answer.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS:PORT")]
    listen: String,
}

/// Answers until the process is ended.
pub(super) async fn run(args: &NoopArgs) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(&args.listen).await?;
    {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{LISTENING}{}", listener.local_addr()?)?;
        out.flush()?;
    }
    axum::serve(listener, Router::new().route("/v1/events", post(accept))).await?;
    Ok(())
}

/// As long as the answer to one event.
async fn accept(
    _body: Bytes,
) -> (StatusCode, [(header::HeaderName, &'static str); 1], &'static str) {
    let body =
        r#"{"id":"bench-0000000000000000","source":"/bench","seq":1000000,"duplicate":false}"#;
    (StatusCode::ACCEPTED, [(header::CONTENT_TYPE, "application/json")], body)
}
