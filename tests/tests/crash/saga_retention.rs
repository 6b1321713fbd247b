//! What ended long ago goes; what is stuck never does.

use std::time::Duration;

use http::Method;
use serde_json::json;
use skald_tests::{Participant, Setup, eventually};

#[tokio::test]
async fn ended_sagas_go_with_their_journals_and_stuck_ones_stay() {
    let mut house = Setup::dev().environment("SKALD_SAGAS__RETENTION", "1s").start().await;
    let p = Participant::start().await;
    let text = format!(
        "saga: s\nsteps:\n  - {{ step: a, post: '{}', retry: {{ attempts_max: 1 }}, on_unknown: stuck, undo: {{ post: '{}' }} }}\n",
        p.url("/{{ input }}"),
        p.url("/u")
    );
    let call = house.call(Method::PUT, "/v1/sagas/definitions/s");
    call.typed("application/yaml", text).send().await.check(201);
    for (id, path, status) in [("done", "x", "completed"), ("stuck", "status/500", "stuck")] {
        let body = json!({"definition": "s", "id": id, "input": path});
        house.post("/v1/sagas", body).await.check(201);
        let saga = house.get(&format!("/v1/sagas/{id}?wait=20s")).await.json_of(200);
        assert_eq!(saga["status"], status);
    }
    // It looks at its start, and every half minute after that.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    house.restart().await;
    eventually("what ended is gone", async || {
        (house.get("/v1/sagas/done").await.status == 404).then_some(())
    })
    .await;
    house.get("/v1/sagas/done/journal").await.check(404);
    assert_eq!(house.get("/v1/sagas/stuck").await.json_of(200)["status"], "stuck");
    house.post("/v1/sagas/stuck/abandon", json!({"reason": "seen"})).await.check(200);
}
