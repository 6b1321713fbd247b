//! Files that another program holds locked.

use std::process::Stdio;

use serde_json::json;
use skald_tests::{House, eventually};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

/// Another program in the middle of a write to a database.
struct Holder {
    program: Child,
}

impl Holder {
    async fn of(database: &std::path::Path) -> Holder {
        let script = "import sqlite3, sys\n\
            db = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
            db.execute('begin immediate')\n\
            print('held', flush=True)\n\
            sys.stdin.read()\n";
        let mut program = Command::new("python3")
            .args(["-c", script])
            .arg(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("python3");
        let output = program.stdout.take().unwrap();
        let held = BufReader::new(output).lines().next_line().await.unwrap();
        assert_eq!(held.as_deref(), Some("held"));
        Holder { program }
    }

    async fn let_go(mut self) {
        let mut input = self.program.stdin.take().unwrap();
        input.shutdown().await.unwrap();
        drop(input);
        self.program.wait().await.unwrap();
    }
}

#[tokio::test]
async fn a_log_that_is_locked_is_answered_and_passes() {
    let house = House::start().await;
    house.publish(json!({"type": "t"})).await;
    let holder = Holder::of(&house.data().join("log.db")).await;
    let refused = house.post("/v1/events", json!({"type": "t", "id": "1"})).await;
    refused.problem(503);
    assert!(!refused.header("retry-after").is_empty());
    holder.let_go().await;
    eventually("publishing works again", async || {
        let answer = house.post("/v1/events", json!({"type": "t", "id": "1"})).await;
        (answer.status == 202).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_database_that_is_locked_holds_up_effects_but_no_publishing() {
    let house = House::start().await;
    let holder = Holder::of(&house.data().join("state.db")).await;
    for _ in 0..5 {
        house.publish(json!({"type": "t"})).await;
    }
    holder.let_go().await;
    super::super::http_contract::figures(&house, "count-events", &[("waiting", 0)]).await;
    let path = "/v1/analytics/timeseries?metric=events&interval=day";
    let series = house.get(path).await.json_of(200);
    let points = series["points"].as_array().unwrap().iter();
    assert_eq!(points.map(|point| point["value"].as_i64().unwrap()).sum::<i64>(), 5);
}
