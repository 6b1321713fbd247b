//! `skald keys`: in the database itself, so that the first key needs no key.

use clap::{Args, Subcommand};
use serde_json::json;

use super::database::DatabaseArgs;
use super::output::{cell, state};
use super::{Output, Stop};
use crate::config::Flags;
use crate::keys::{self, Scopes};

/// Who is noted as having made or revoked a key.
const BY: &str = "cli";

/// What to do.
#[derive(Debug, Args)]
pub(super) struct KeysArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a key and print it on stdout, this once.
    Create {
        /// What it is for, for people.
        name: String,
        /// What it may do: publish, read, operate, admin.
        #[arg(long, value_name = "SCOPE,…")]
        scope: Scopes,
        /// The one tenant that it may see.
        #[arg(long)]
        tenant: Option<String>,
    },
    /// List keys, without the keys themselves.
    List,
    /// Make a key worthless from now on.
    Revoke {
        /// Its id, as `list` shows it.
        id: String,
    },
}

/// Runs `skald keys`.
pub(super) async fn run(args: KeysArgs, flags: Flags, output: &Output) -> Result<(), Stop> {
    let (db, _) = match args.action {
        Action::Create { .. } => args.database.open(flags).await?,
        Action::List | Action::Revoke { .. } => args.database.open_existing(flags).await?,
    };
    let done = act(args.action, &db, output).await;
    db.close().await;
    done
}

async fn act(action: Action, db: &bus::Db, output: &Output) -> Result<(), Stop> {
    match action {
        Action::Create { name, scope, tenant } => {
            let made = keys::create(db, &name, scope, tenant.as_deref(), BY).await?;
            output.either(&json!({ "id": made.id, "key": made.key }), &made.key)?;
            if !output.is_json() {
                output.aside(&format!("id {}; the key is not shown again", made.id))?;
            }
        }
        Action::List => list(&keys::list(db).await?, output)?,
        Action::Revoke { id } => {
            if !keys::revoke(db, &id, BY).await? {
                return Err(anyhow::anyhow!("there is no key {id} that could be revoked").into());
            }
            output.either(&json!({ "id": id, "revoked": true }), &format!("{id} is revoked"))?;
        }
    }
    Ok(())
}

fn list(keys: &[keys::Key], output: &Output) -> std::io::Result<()> {
    if output.is_json() {
        let items = keys.iter().map(|key| {
            json!({
                "id": key.id, "name": key.name, "scopes": key.scopes.to_string(),
                "tenant": key.tenant, "created_at": key.created_at, "revoked_at": key.revoked_at,
            })
        });
        return output.value(&json!({ "items": items.collect::<Vec<_>>() }));
    }
    let rows = keys.iter().map(|key| {
        let revoked = key.revoked_at.map_or_else(|| cell("-"), |at| state(&at.to_string()));
        vec![
            cell(&key.id),
            cell(&key.name),
            cell(key.scopes.to_string()),
            cell(key.tenant.as_deref().unwrap_or("-")),
            cell(key.created_at.to_string()),
            revoked,
        ]
    });
    output.table(&["ID", "NAME", "SCOPES", "TENANT", "CREATED", "REVOKED"], rows.collect())
}
