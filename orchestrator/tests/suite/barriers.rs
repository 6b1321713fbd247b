//! The barrier: repeated calls, undos before their actions, actions after their undos.

use orchestrator::barrier::{self, Answer, Asked, Turn};
use serde_json::json;
use sqlx::{AnyPool, Row};

async fn participant(folder: &std::path::Path) -> AnyPool {
    sqlx::any::install_default_drivers();
    let url = format!("sqlite://{}?mode=rwc", folder.join("books.db").display());
    let db = AnyPool::connect(&url).await.unwrap();
    sqlx::query(barrier::TABLE).execute(&db).await.unwrap();
    sqlx::query("create table ledger (amount bigint not null)").execute(&db).await.unwrap();
    db
}

/// Carries out one call as a participant does.
async fn call(db: &AnyPool, key: &str, refuses: bool) -> Answer {
    let asked: Asked = key.parse().unwrap();
    let mut tx = db.begin().await.unwrap();
    let add = async |tx: &mut sqlx::AnyConnection, amount: i64| {
        let query = sqlx::query("insert into ledger (amount) values ($1)");
        query.bind(amount).execute(tx).await.unwrap();
    };
    let answer = match barrier::begin(&mut tx, &asked).await.unwrap() {
        Turn::Answered(answer) => answer,
        Turn::Act => {
            add(&mut tx, 1).await;
            if refuses {
                barrier::refused(&mut tx, &asked, "no").await.unwrap()
            } else {
                barrier::done(&mut tx, &asked, json!({"id": key})).await.unwrap()
            }
        }
        Turn::Undo(receipt) => {
            assert!(receipt["id"].as_str().unwrap().contains("/action/"), "{receipt}");
            add(&mut tx, -1).await;
            barrier::done(&mut tx, &asked, json!({})).await.unwrap()
        }
    };
    tx.commit().await.unwrap();
    answer
}

async fn effects(db: &AnyPool) -> (i64, i64) {
    let query = "select cast(coalesce(sum(amount), 0) as bigint), count(*) from ledger";
    let row = sqlx::query(query).fetch_one(db).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn a_repeated_call_runs_once_and_is_answered_with_what_was_stored() {
    let folder = tempfile::tempdir().unwrap();
    let db = participant(folder.path()).await;
    let first = call(&db, "s/a/action/1", false).await;
    assert_eq!(call(&db, "s/a/action/1", false).await, first);
    assert_eq!(effects(&db).await, (1, 1));
    let refused = call(&db, "s/b/action/1", true).await;
    assert_eq!(refused.status, 422);
    assert_eq!(call(&db, "s/b/action/1", false).await, refused, "refusals too");
    assert_eq!(effects(&db).await, (1, 1), "what was refused left nothing");
    assert_eq!(call(&db, "s/b/action/2", false).await.status, 200, "a new round is a new call");
    for _ in 0..2 {
        assert_eq!(call(&db, "s/a/compensation/1", false).await.status, 200);
    }
    assert_eq!(effects(&db).await, (1, 3));
}

#[tokio::test]
async fn an_undo_before_its_action_is_done_with_nothing_and_the_action_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let db = participant(folder.path()).await;
    assert_eq!(call(&db, "s/a/compensation/1", false).await.status, 200);
    let answer = call(&db, "s/a/action/1", false).await;
    assert_eq!((answer.status, effects(&db).await), (422, (0, 0)));
    assert!("s/a/other/1".parse::<Asked>().is_err() && "s/a/action".parse::<Asked>().is_err());
}
