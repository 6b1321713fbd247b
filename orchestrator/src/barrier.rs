//! The barrier for participants in Rust: what makes it safe to be asked twice, and for the undo
//! before the action.
//!
//! One table in the participant's own database, written in its own transaction with its own work.
//! The primary key decides who was first, not a look before. `docs/sagas.md` has the same rules for
//! other languages.
//!
//! ```no_run
//! # use orchestrator::barrier::{self, Asked, Turn};
//! # async fn reserve(db: sqlx::AnyPool, asked: Asked) -> Result<(u16, serde_json::Value), sqlx::Error> {
//! let mut tx = db.begin().await?;
//! let answer = match barrier::begin(&mut tx, &asked).await? {
//!     Turn::Answered(answer) => answer,
//!     Turn::Act => {
//!         let work = sqlx::query("update seat set free = free - 1 where free > 0");
//!         match work.execute(&mut *tx).await?.rows_affected() {
//!             0 => barrier::refused(&mut tx, &asked, "sold out").await?,
//!             _ => barrier::done(&mut tx, &asked, serde_json::json!({ "seat": 1 })).await?,
//!         }
//!     }
//!     Turn::Undo(_receipt) => {
//!         sqlx::query("update seat set free = free + 1").execute(&mut *tx).await?;
//!         barrier::done(&mut tx, &asked, serde_json::json!({})).await?
//!     }
//! };
//! tx.commit().await?;
//! Ok((answer.status, answer.body))
//! # }
//! ```

use serde_json::{Value, json};
use sqlx::{AnyConnection, Row};

use crate::transition::Operation;

/// The table, once per database of a participant.
pub const TABLE: &str = "create table if not exists saga_barrier (
    saga text not null,
    step text not null,
    operation text not null,
    round bigint not null,
    state text not null check (state in ('done', 'refused', 'blocked')),
    answer text,
    primary key (saga, step, operation, round)
)";

/// What a participant is asked, as the idempotency key says it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Asked {
    /// The saga.
    pub saga: String,
    /// The step.
    pub step: String,
    /// Which half.
    pub operation: Operation,
    /// The round.
    pub round: i64,
}

/// Not an idempotency key of a saga.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no idempotency key of a saga: <saga>/<step>/<action|compensation>/<round>")]
pub struct InvalidKey(String);

impl std::fmt::Display for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}/{}", self.saga, self.step, self.operation.as_str(), self.round)
    }
}

impl std::str::FromStr for Asked {
    type Err = InvalidKey;

    fn from_str(key: &str) -> Result<Asked, InvalidKey> {
        let parts: Vec<&str> = key.split('/').collect();
        let operation = |text: &str| match text {
            "action" => Some(Operation::Action),
            "compensation" => Some(Operation::Compensation),
            "probe" => Some(Operation::Probe),
            _ => None,
        };
        if let [saga, step, half, round] = parts[..]
            && let (Some(operation), Ok(round)) = (operation(half), round.parse())
        {
            let (saga, step) = (saga.to_owned(), step.to_owned());
            return Ok(Asked { saga, step, operation, round });
        }
        Err(InvalidKey(key.chars().take(80).collect()))
    }
}

/// What to answer over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 200 or 422.
    pub status: u16,
    /// The body.
    pub body: Value,
}

/// Whose turn it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It was settled before: answer this.
    Answered(Answer),
    /// Do the work of the action, then call [`done`] or [`refused`].
    Act,
    /// Undo what the action answered with this, then call [`done`].
    Undo(Value),
}

/// Says whose turn it is, and holds the place until the transaction ends.
///
/// # Errors
/// Those of the database; roll back then, and answer 500: the engine asks again.
pub async fn begin(tx: &mut AnyConnection, asked: &Asked) -> Result<Turn, sqlx::Error> {
    if asked.operation == Operation::Probe {
        return Ok(Turn::Answered(probed(tx, asked).await?));
    }
    if !insert(tx, asked, "done").await? {
        let (state, answer) = look(tx, asked).await?;
        return Ok(Turn::Answered(stored(&state, answer)));
    }
    let turn = match asked.operation {
        Operation::Action | Operation::Probe => Turn::Act,
        Operation::Compensation => {
            let action = Asked { operation: Operation::Action, round: 1, ..asked.clone() };
            insert(tx, &action, "blocked").await?;
            match receipt(tx, asked).await? {
                Some(receipt) => Turn::Undo(receipt),
                None => Turn::Answered(done(tx, asked, json!({"undone": "nothing"})).await?),
            }
        }
    };
    if turn == Turn::Act {
        sqlx::query("savepoint saga_work").execute(&mut *tx).await?;
    }
    Ok(turn)
}

/// Stores the answer; what was done commits with it.
///
/// # Errors
/// Those of the database.
pub async fn done(
    tx: &mut AnyConnection,
    asked: &Asked,
    body: Value,
) -> Result<Answer, sqlx::Error> {
    settle(tx, asked, "done", &body).await?;
    Ok(Answer { status: 200, body })
}

/// Takes back what the action did since [`begin`], and stores the refusal, for good.
///
/// # Errors
/// Those of the database.
pub async fn refused(
    tx: &mut AnyConnection,
    asked: &Asked,
    why: &str,
) -> Result<Answer, sqlx::Error> {
    sqlx::query("rollback to savepoint saga_work").execute(&mut *tx).await?;
    let body = json!({ "error": why });
    settle(tx, asked, "refused", &body).await?;
    Ok(Answer { status: 422, body })
}

/// What became of an action: one that never ran is blocked, so that the answer stays true.
async fn probed(tx: &mut AnyConnection, asked: &Asked) -> Result<Answer, sqlx::Error> {
    let action = Asked { operation: Operation::Action, ..asked.clone() };
    if insert(tx, &action, "blocked").await? {
        return Ok(Answer { status: 422, body: json!({"error": "it was never done"}) });
    }
    let (state, answer) = look(tx, &action).await?;
    Ok(stored(&state, answer))
}

fn stored(state: &str, answer: Value) -> Answer {
    match state {
        "done" => Answer { status: 200, body: answer },
        "blocked" => Answer { status: 422, body: json!({"error": "its undo came first"}) },
        _ => Answer { status: 422, body: answer },
    }
}

async fn insert(tx: &mut AnyConnection, asked: &Asked, state: &str) -> Result<bool, sqlx::Error> {
    let query = sqlx::query(
        "insert into saga_barrier (saga, step, operation, round, state)
         values ($1, $2, $3, $4, $5) on conflict do nothing",
    );
    let query = query.bind(asked.saga.clone()).bind(asked.step.clone());
    let query = query.bind(asked.operation.as_str()).bind(asked.round).bind(state.to_owned());
    Ok(query.execute(tx).await?.rows_affected() == 1)
}

async fn look(tx: &mut AnyConnection, asked: &Asked) -> Result<(String, Value), sqlx::Error> {
    let query = sqlx::query(
        "select state, coalesce(answer, 'null') from saga_barrier
         where saga = $1 and step = $2 and operation = $3 and round = $4",
    );
    let query = query.bind(asked.saga.clone()).bind(asked.step.clone());
    let row = query.bind(asked.operation.as_str()).bind(asked.round).fetch_one(tx).await?;
    Ok((row.get(0), serde_json::from_str(&row.get::<String, _>(1)).unwrap_or_default()))
}

/// What the action answered, in whichever round it was done.
async fn receipt(tx: &mut AnyConnection, asked: &Asked) -> Result<Option<Value>, sqlx::Error> {
    let query = sqlx::query(
        "select coalesce(answer, 'null') from saga_barrier where saga = $1 and step = $2
         and operation = 'action' and state = 'done' order by round desc limit 1",
    );
    let row = query.bind(asked.saga.clone()).bind(asked.step.clone()).fetch_optional(tx).await?;
    Ok(row.map(|row| serde_json::from_str(&row.get::<String, _>(0)).unwrap_or_default()))
}

async fn settle(
    tx: &mut AnyConnection,
    asked: &Asked,
    state: &str,
    body: &Value,
) -> Result<(), sqlx::Error> {
    let query = sqlx::query(
        "update saga_barrier set state = $1, answer = $2
         where saga = $3 and step = $4 and operation = $5 and round = $6",
    );
    let query = query.bind(state.to_owned()).bind(body.to_string());
    let query = query.bind(asked.saga.clone()).bind(asked.step.clone());
    query.bind(asked.operation.as_str()).bind(asked.round).execute(tx).await?;
    Ok(())
}
