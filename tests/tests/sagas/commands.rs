//! Participants on NATS: what they see, and what their answers mean.

use std::time::Duration;

use async_nats::jetstream::{self, Context};
use async_nats::{Client as Broker, Message, Subscriber};
use futures::StreamExt as _;
use http::Method;
use serde_json::{Value, json};
use skald_tests::{Client, House, Nats, Setup, eventually};

/// A node on a broker, its database a file.
async fn node(nats: &Nats, folder: &std::path::Path) -> House {
    let key = "sk_commands_0123456789abcdef";
    let setup = Setup::serve(folder, key).environment("SKALD_LOG__URL", nats.url());
    setup.environment("SKALD_SECURITY__ADMIN_KEY", key).start().await
}

const DEFINITION: &str = "
saga: order
steps:
  - step: reserve
    command: stock
    as: hold
    body: { items: '{{ input.items }}' }
    retry: { attempts_max: 3, backoff_min: 10ms, backoff_max: 20ms }
    timeout: 1s
    undo: { command: stock, as: release, body: { hold: '{{ steps.reserve.output.id }}' } }
  - step: ship
    command: delivery
    retry: { attempts_max: 3, backoff_min: 10ms, backoff_max: 20ms }
    timeout: 1s
    undo: { command: delivery, as: cancel }
";

async fn define(client: &Client, text: &str) {
    let call = client.call(Method::PUT, "/v1/sagas/definitions/order");
    call.typed("application/yaml", text.to_owned()).send().await.check(201);
}

async fn start(client: &Client, id: &str) {
    let body = json!({"definition": "order", "id": id, "input": {"items": [1, 2]}});
    client.post("/v1/sagas", body).await.check(201);
}

async fn ended(client: &Client, id: &str, status: &str) -> Value {
    let saga = client.get(&format!("/v1/sagas/{id}?wait=30s")).await.json_of(200);
    assert_eq!(saga["status"], status, "{saga:#}");
    saga
}

fn header<'m>(message: &'m Message, name: &str) -> &'m str {
    message.headers.as_ref().unwrap().get(name).map_or("", |value| value.as_str())
}

async fn next(commands: &mut Subscriber) -> Message {
    tokio::time::timeout(Duration::from_secs(10), commands.next()).await.unwrap().unwrap()
}

/// Answers as a participant does: to the subject that it is told, kept once this returns.
async fn answer(replies: &Context, command: &Message, answer: Value) {
    let subject = header(command, "Skald-Reply-To").to_owned();
    replies.publish(subject, answer.to_string().into()).await.unwrap().await.unwrap();
}

async fn broker(nats: &Nats) -> (Broker, Context) {
    let broker = async_nats::connect(nats.url()).await.unwrap();
    (broker.clone(), jetstream::new(broker))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_carries_all_that_a_call_does_and_its_answer_settles_the_step() {
    let nats = Nats::start(1).await;
    let folder = tempfile::tempdir().unwrap();
    let house = node(&nats, folder.path()).await;
    let (broker, replies) = broker(&nats).await;
    let mut commands = broker.subscribe("commands.>").await.unwrap();
    broker.flush().await.unwrap();
    define(&house, DEFINITION).await;
    start(&house, "o.1").await;
    let command = next(&mut commands).await;
    assert_eq!(command.subject.as_str(), "commands.stock.hold");
    assert_eq!(command.payload, json!({"items": [1, 2]}).to_string());
    for (name, value) in [
        ("Idempotency-Key", "o.1/reserve/action/1"),
        ("Skald-Saga-Id", "o.1"),
        ("Skald-Saga-Definition", "order"),
        ("Skald-Step", "reserve"),
        ("Skald-Operation", "action"),
        ("Skald-Outcome", ""),
        ("Skald-Attempt", "1"),
    ] {
        assert_eq!(header(&command, name), value, "{name}");
    }
    assert_eq!(header(&command, "traceparent").len(), 55);
    // No clear answer, garbage, and nobody there: asked again with the same key.
    answer(&replies, &command, json!({"status": "retry", "error": "busy"})).await;
    let again = next(&mut commands).await;
    assert_eq!(header(&again, "Idempotency-Key"), "o.1/reserve/action/1");
    assert_eq!(header(&again, "Skald-Attempt"), "2");
    answer(&replies, &again, json!("garbage")).await;
    let third = next(&mut commands).await;
    assert_eq!(header(&third, "Skald-Attempt"), "3");
    // Twice, and once to an earlier attempt: the first definite one counts.
    answer(&replies, &third, json!({"status": "done", "output": {"id": "h1"}})).await;
    answer(&replies, &command, json!({"status": "refused", "error": "late"})).await;
    let ship = next(&mut commands).await;
    assert_eq!(ship.subject.as_str(), "commands.delivery.ship");
    assert_eq!(ship.payload.len(), 0);
    answer(&replies, &ship, json!({"status": "refused", "error": "no van"})).await;
    let undo = next(&mut commands).await;
    assert_eq!(undo.subject.as_str(), "commands.stock.release");
    assert_eq!(undo.payload, json!({"hold": "h1"}).to_string());
    assert_eq!(header(&undo, "Idempotency-Key"), "o.1/reserve/compensation/1");
    assert_eq!(header(&undo, "Skald-Operation"), "compensation");
    assert_eq!(header(&undo, "Skald-Outcome"), "done");
    answer(&replies, &undo, json!({"status": "done"})).await;
    let saga = ended(&house, "o.1", "compensated").await;
    assert!(saga["error"].as_str().unwrap().contains("no van"), "{saga:#}");
    assert_eq!(saga["steps"][0]["attempts"], 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_outlives_the_node_that_asked_for_it() {
    let nats = Nats::start(1).await;
    let folder = tempfile::tempdir().unwrap();
    let mut house = node(&nats, folder.path()).await;
    let (broker, replies) = broker(&nats).await;
    let mut commands = broker.subscribe("commands.stock.>").await.unwrap();
    let mut ships = broker.subscribe("commands.delivery.>").await.unwrap();
    broker.flush().await.unwrap();
    // Long enough that only the answer that was kept can end it.
    define(&house, &DEFINITION.replace("timeout: 1s", "timeout: 5m")).await;
    start(&house, "one").await;
    let command = next(&mut commands).await;
    house.kill_9();
    answer(&replies, &command, json!({"status": "done", "output": {"id": "h1"}})).await;
    drop(commands); // Whatever is asked again is heard by nobody.
    house.restart().await;
    let ship = next(&mut ships).await;
    answer(&replies, &ship, json!({"status": "done", "output": null})).await;
    let saga = ended(&house, "one", "completed").await;
    assert_eq!(saga["steps"][0]["output"], json!({"id": "h1"}));
    // Nothing is left on its way.
    eventually("all answers are on the journal", async || {
        let mut stream = replies.get_stream("SAGA_REPLIES").await.ok()?;
        (stream.info().await.ok()?.state.messages == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_answers_and_the_saga_undoes_what_it_does_not_know() {
    let nats = Nats::start(1).await;
    let folder = tempfile::tempdir().unwrap();
    let house = node(&nats, folder.path()).await;
    let (broker, replies) = broker(&nats).await;
    let mut commands = broker.subscribe("commands.stock.release").await.unwrap();
    broker.flush().await.unwrap();
    define(&house, &DEFINITION.replace("timeout: 1s", "timeout: 50ms")).await;
    start(&house, "one").await;
    let undo = next(&mut commands).await;
    assert_eq!(header(&undo, "Skald-Outcome"), "unknown");
    assert_eq!(undo.payload, json!({"hold": null}).to_string());
    answer(&replies, &undo, json!({"status": "done"})).await;
    ended(&house, "one", "compensated").await;
    // A subject with an empty part cannot be sent to.
    let call = house.call(Method::PUT, "/v1/sagas/definitions/order");
    let text = DEFINITION.replace("as: hold", "as: hold..it");
    let refused = call.typed("application/yaml", text).send().await.json_of(422);
    assert_eq!(refused["errors"][0]["pointer"], "/steps/0/command", "{refused:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_done_after_its_undo_had_nothing_to_undo_is_undone_once_more() {
    let nats = Nats::start(1).await;
    let folder = tempfile::tempdir().unwrap();
    let house = node(&nats, folder.path()).await;
    let (broker, replies) = broker(&nats).await;
    let mut commands = broker.subscribe("commands.stock.hold").await.unwrap();
    let mut undos = broker.subscribe("commands.stock.release").await.unwrap();
    broker.flush().await.unwrap();
    define(&house, &DEFINITION.replace("timeout: 1s", "timeout: 100ms")).await;
    start(&house, "one").await;
    let action = next(&mut commands).await;
    let undo = next(&mut undos).await;
    answer(&replies, &undo, json!({"status": "done"})).await;
    ended(&house, "one", "compensated").await;
    // A participant without the barrier has done it all the same, and says so now; twice.
    for _ in 0..2 {
        answer(&replies, &action, json!({"status": "done", "output": {"id": "h1"}})).await;
    }
    let again = next(&mut undos).await;
    assert_eq!(header(&again, "Idempotency-Key"), "one/reserve/compensation/2");
    assert_eq!(header(&again, "Skald-Outcome"), "done");
    assert_eq!(again.payload, json!({"hold": "h1"}).to_string());
    answer(&replies, &again, json!({"status": "done"})).await;
    let saga = ended(&house, "one", "compensated").await;
    assert_eq!(saga["steps"][0]["status"], "undone", "{saga:#}");
    // Whatever comes now changes nothing.
    answer(&replies, &action, json!({"status": "refused", "error": "late"})).await;
    answer(&replies, &undo, json!({"status": "refused", "error": "late"})).await;
    eventually("all answers are read", async || {
        let mut stream = replies.get_stream("SAGA_REPLIES").await.ok()?;
        (stream.info().await.ok()?.state.messages == 0).then_some(())
    })
    .await;
    ended(&house, "one", "compensated").await;
}
