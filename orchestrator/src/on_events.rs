//! What events do to sagas: some start one, some are what one waits for.

use std::collections::HashMap;
use std::sync::Arc;

use bus::{BatchConsumer, Db, Failure, Recorded, Tx, built, bulk, signals};
use minijinja::Value as Dynamic;
use schemas::{Event, Patterns};
use serde_json::Value;
use sqlx::Row;

use crate::definition::{Action, Definition, EventWait, Start};
use crate::definitions::{Definitions, Registered};
use crate::fingerprint::fingerprint;
use crate::key::check_key;
use crate::name::{NAME_BYTES_MAX, Name};
use crate::planner::Input;
use crate::state::Status;
use crate::store::{self, SagaRow};
use crate::template::{Scope, check_value, of_json};

/// Starts sagas from events, and hands events to sagas that wait for them. Both are rows, written
/// with the consumer's position: an event does each once, also when it is replayed.
pub struct StartSagas {
    definitions: Definitions,
    env: Dynamic,
}

impl StartSagas {
    /// For the definitions of this database.
    #[must_use]
    pub fn new(
        definitions: Definitions,
        env: &std::collections::BTreeMap<String, String>,
    ) -> StartSagas {
        let env = env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        StartSagas { definitions, env: Dynamic::from_pairs(env) }
    }
}

impl BatchConsumer for StartSagas {
    const NAME: &'static str = "start-sagas";

    fn types(&self) -> Patterns {
        Patterns::everything()
    }

    async fn is_concerned(&self, events: &[Arc<Recorded>], db: &Db) -> Result<bool, sqlx::Error> {
        let newest = self.definitions.newest().await?;
        let mut starts = newest.values().filter_map(|known| known.definition.start.as_ref());
        let starts =
            starts.any(|start| events.iter().any(|event| start.types.matches(&event.event.kind)));
        // Without a definition nothing waits.
        Ok(starts || !newest.is_empty() && store::any_waits(db).await?)
    }

    async fn handle(
        &self,
        events: &[Arc<Recorded>],
        _generation: i64,
        tx: &mut Tx,
    ) -> Result<(), Failure> {
        let newest = self.definitions.newest().await?;
        let mut rows: Vec<SagaRow> = Vec::new();
        for (known, start) in newest
            .values()
            .filter_map(|known| known.definition.start.as_ref().map(|start| (known, start)))
        {
            for event in events.iter().filter(|event| start.types.matches(&event.event.kind)) {
                rows.push(self.saga(known, start, event, tx)?);
            }
        }
        if !rows.is_empty() {
            store::insert(tx, &rows).await?;
            tx.wake(signals::SAGA);
        }
        self.hand_over(events, tx).await
    }
}

impl StartSagas {
    fn saga(
        &self,
        known: &Registered,
        start: &Start,
        event: &Arc<Recorded>,
        tx: &Tx,
    ) -> Result<SagaRow, Failure> {
        let definition = &known.definition;
        let bad = |what: &str, why: String| {
            Failure::permanent(format!("{what} of the saga {}: {why}", definition.name))
        };
        let json = event_json(&event.event);
        let scope = Scope::default().with("event", of_json(&json)).with("env", self.env.clone());
        let id = match &start.id {
            Some(id) => id.text(&scope).map_err(|error| bad("the id", error.to_string()))?,
            None => own_id(&event.event),
        };
        let id = format!("{}:{id}", definition.name);
        let id: Name = id.parse().map_err(|_| {
            let rule = format!("1 to {NAME_BYTES_MAX} of the characters A-Z a-z 0-9 . _ : -");
            bad("the id", format!("`{id}` must be {rule}"))
        })?;
        let input = match &start.input {
            Some(input) => {
                input.render(&scope).map_err(|error| bad("the input", error.to_string()))?
            }
            None => json.get("data").cloned().unwrap_or(Value::Null),
        };
        check_value(&input).map_err(|error| bad("the input", error.to_string()))?;
        let now = tx.clock().now().as_micros();
        Ok(SagaRow {
            id: id.to_string(),
            definition: definition.name.to_string(),
            version: known.version,
            status: Status::Running,
            input: input.to_string(),
            created_us: now,
            created_by: "event".to_owned(),
            ended_us: None,
            parent: None,
            cause: Some((event.event.id.to_string(), event.event.source.to_string())),
            traceparent: event.event.traceparent().map(str::to_owned),
            wake_us: now,
        })
    }

    /// Leaves an input for every saga that waits for one of the events.
    async fn hand_over(&self, events: &[Arc<Recorded>], tx: &mut Tx) -> Result<(), Failure> {
        let mut kept = Vec::new();
        for (name, version, step) in store::steps_that_wait(tx).await? {
            let Some(definition) = self.definitions.version(&name, version).await? else {
                continue;
            };
            let Some(wait) = wait_of(&definition, &step) else { continue };
            let mut keys: HashMap<String, Value> = HashMap::new();
            for event in events.iter().filter(|event| wait.types.matches(&event.event.kind)) {
                let json = event_json(&event.event);
                if let Some(key) = self.key(wait, event, &json) {
                    keys.entry(key).or_insert(json);
                }
            }
            let mut list: Vec<&String> = keys.keys().collect();
            list.sort_unstable();
            for chunk in bulk::chunks(&list) {
                let mut query = built(format!(
                    "select key, saga from saga_wait where definition = $1 and version = $2
                     and step = $3 and key in ({})",
                    bulk::list(4, chunk.len())
                ));
                query = query.bind(name.clone()).bind(version).bind(step.clone());
                for key in chunk {
                    query = query.bind((*key).clone());
                }
                for row in tx.fetch_all(query).await? {
                    let data = keys.get(&row.get::<String, _>(0)).cloned().unwrap_or_default();
                    let input = Input::Event { step: step.clone(), data };
                    let input = serde_json::to_string(&input).unwrap_or_default();
                    kept.push((row.get::<String, _>(1), input, None));
                }
            }
        }
        if !kept.is_empty() {
            store::keep(tx, &kept).await?;
        }
        Ok(())
    }

    fn key(&self, wait: &EventWait, event: &Arc<Recorded>, json: &Value) -> Option<String> {
        match &wait.of {
            // An event without the key is another one.
            Some(of) => {
                let scope =
                    Scope::default().with("event", of_json(json)).with("env", self.env.clone());
                // One that no step can wait for is nobody's, and no database need look for it.
                of.text(&scope).ok().filter(|key| check_key(key).is_ok())
            }
            None => Some(event.event.partition_key().to_owned()),
        }
    }
}

fn wait_of<'d>(definition: &'d Definition, step: &str) -> Option<&'d EventWait> {
    let at = definition.step(step).or_else(|| definition.step(step.rsplit_once('.')?.0))?;
    match &definition.steps[at].action {
        Action::Event(wait) => Some(wait),
        _ => None,
    }
}

fn event_json(event: &Event) -> Value {
    serde_json::from_slice(&event.to_json()).unwrap_or_default()
}

/// An id made of the event's, where the definition does not say: the same for the same event.
fn own_id(event: &Event) -> String {
    let text = format!("{} {}", event.source.as_str(), event.id.as_str());
    format!("{:016x}{:016x}", fingerprint(&text, 0), fingerprint(&text, 0x9e37_79b9_7f4a_7c15))
}
