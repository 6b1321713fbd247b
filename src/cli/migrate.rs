//! `skald migrate`

use serde_json::json;

use super::database::DatabaseArgs;
use super::{Output, Stop};
use crate::config::Flags;

/// Opens the database, which brings it to this version, and says so.
pub(super) async fn run(args: DatabaseArgs, flags: Flags, output: &Output) -> Result<(), Stop> {
    let (db, settings) = args.open(flags).await?;
    db.close().await;
    let shown = serde_json::to_value(&settings.database)?; // without its password
    let url = shown["url"].as_str().unwrap_or_default();
    let text = format!("{url} is at the version of this program ({})", env!("CARGO_PKG_VERSION"));
    output.either(&json!({ "database": url, "migrated": true }), &text)?;
    Ok(())
}
