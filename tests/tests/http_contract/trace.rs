//! What came of an event.

use serde_json::{Value, json};
use skald_tests::{House, eventually};

use super::seq;

#[tokio::test]
async fn a_trace_holds_all_events_that_came_of_one() {
    let house = House::start().await;
    let placed = house.publish(json!({"type": "order.placed", "id": "o1"})).await;
    let child = json!({"type": "order.paid", "id": "o2", "causationid": "o1"});
    house.publish(child).await;
    let grandchild = json!({"type": "order.sent", "id": "o3", "causationid": "o2"});
    house.publish(grandchild).await;
    house.publish(json!({"type": "order.placed", "id": "unrelated"})).await;

    let path = format!("/v1/events/{}/trace", seq(&placed));
    let trace = eventually("both descendants are in the trace", async || {
        let trace = house.get(&path).await.json_of(200);
        (trace["events"].as_array().unwrap().len() == 2).then_some(trace)
    })
    .await;
    let id = |event: &Value| {
        let event = event.get("event").unwrap_or(event);
        event["id"].as_str().unwrap().to_owned()
    };
    let mut ids: Vec<String> = trace["events"].as_array().unwrap().iter().map(id).collect();
    ids.sort();
    assert_eq!(ids, ["o2", "o3"]);
    for kind in ["mails", "deliveries", "sagas", "tasks"] {
        assert_eq!(trace[kind], json!([]), "{trace}");
    }
}

#[tokio::test]
async fn what_overtakes_its_cause_is_traced_too() {
    let house = House::start().await;
    house.publish(json!({"type": "t", "id": "early", "causationid": "cause"})).await;
    house.publish(json!({"type": "t", "id": "cause"})).await;
    eventually("it is in the trace", async || {
        let trace = house.get("/v1/events/2/trace").await.json_of(200);
        (trace["events"][0]["event"]["id"] == "early").then_some(())
    })
    .await;
}

#[tokio::test]
async fn events_that_name_each_other_as_cause_do_not_turn_in_circles() {
    let house = House::start().await;
    house.publish(json!({"type": "t", "id": "a", "causationid": "b"})).await;
    house.publish(json!({"type": "t", "id": "b", "causationid": "a"})).await;
    eventually("the trace ends", async || {
        let trace = house.get("/v1/events/1/trace").await.json_of(200);
        let found = trace["events"].as_array().unwrap().len();
        assert!(found <= 2, "{trace}");
        (found >= 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_trace_of_what_is_not_there_is_404() {
    let house = House::start().await;
    house.get("/v1/events/7/trace").await.problem(404);
}
