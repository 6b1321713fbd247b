//! A disk without room: refused in words, nothing lost, and well again by itself.

use http::Method;
use serde_json::{Value, json};
use skald_tests::{House, Setup, SmallDisk, eventually};

/// A server whose files may be kept from growing, one way or the other.
struct Tight {
    house: House,
    disk: Option<SmallDisk>,
}

impl Tight {
    /// On a small disk of its own, or, for users who may not mount one, under a limit on files.
    async fn start() -> Tight {
        match SmallDisk::mount(24) {
            Some(disk) => {
                let house = Setup::dev().data(&disk.path().join("data")).start().await;
                Tight { house, disk: Some(disk) }
            }
            None => Tight::limited().await,
        }
    }

    async fn limited() -> Tight {
        Tight { house: Setup::dev().ignoring_file_size_signal().start().await, disk: None }
    }

    fn take_the_room(&self) {
        match &self.disk {
            Some(disk) => disk.fill(),
            None => self.house.limit_file_size(Some(2 * 1024 * 1024)),
        }
    }

    fn give_it_back(&self) {
        match &self.disk {
            Some(disk) => disk.make_room(),
            None => self.house.limit_file_size(None),
        }
    }
}

fn event(n: usize) -> Value {
    json!({"type": "t", "id": n.to_string(), "source": "/full", "data": "x".repeat(200_000)})
}

/// Fills the state database too, until it refuses what it cannot write.
async fn assert_configuration_is_refused(house: &House) {
    for n in 0..1_000 {
        let body = json!({"types": ["nothing"], "kind": "pull"});
        let answer = house.put(&format!("/v1/consumers/c{n}"), body).await;
        if answer.status != 201 {
            answer.problem(503);
            return;
        }
    }
    panic!("the disk is never full");
}

async fn goes_through(tight: Tight) {
    let Tight { house, .. } = &tight;
    house.publish(event(0)).await;
    tight.take_the_room();
    let mut accepted = 1;
    let refused = loop {
        let answer = house.call(Method::POST, "/v1/events").json(&event(accepted)).send().await;
        if answer.status == 202 {
            accepted += 1;
            assert!(accepted < 1_000, "the disk is never full");
            continue;
        }
        break answer;
    };
    refused.problem(503);
    let seconds = refused.header("retry-after").parse::<u32>();
    assert!(seconds.is_ok_and(|seconds| seconds > 0), "{refused:?}");
    house.get("/healthz").await.check(200);
    assert_configuration_is_refused(house).await;

    tight.give_it_back();
    let receipt = eventually("publishing works again", async || {
        let answer = house.call(Method::POST, "/v1/events").json(&event(accepted)).send().await;
        (answer.status == 202).then(|| answer.json())
    })
    .await;
    assert_eq!(receipt["seq"], accepted + 1, "what was refused left no gap: {receipt}");
    eventually("the server is ready", async || {
        (house.get("/readyz").await.status == 200).then_some(())
    })
    .await;
    for seq in 1..=accepted + 1 {
        let kept = house.get(&format!("/v1/events/{seq}")).await.json_of(200);
        assert_eq!(kept["event"]["id"], (seq - 1).to_string());
    }
    eventually("configuration can be changed again", async || {
        let body = json!({"types": ["nothing"], "kind": "pull"});
        (house.put("/v1/consumers/after", body).await.status == 201).then_some(())
    })
    .await;
    super::super::http_contract::figures(house, "count-events", &[("waiting", 0), ("retrying", 0)])
        .await;
    let path = "/v1/analytics/timeseries?metric=events&interval=minute&type=t";
    let series = house.get(path).await.json_of(200);
    let values = series["points"].as_array().unwrap().iter();
    let counted: u64 = values.map(|point| point["value"].as_u64().unwrap()).sum();
    assert_eq!(counted, accepted as u64 + 1);
}

#[tokio::test]
async fn a_full_disk_is_answered_and_passes() {
    goes_through(Tight::start().await).await;
}

#[tokio::test]
async fn files_that_may_not_grow_are_answered_and_it_passes() {
    goes_through(Tight::limited().await).await;
}

#[tokio::test]
async fn what_was_accepted_before_a_full_disk_survives_kill_9_on_it() {
    let mut tight = Tight::start().await;
    let mut accepted = 0;
    tight.house.publish(event(accepted)).await;
    tight.take_the_room();
    loop {
        accepted += 1;
        let answer =
            tight.house.call(Method::POST, "/v1/events").json(&event(accepted)).send().await;
        if answer.status != 202 {
            break;
        }
        assert!(accepted < 1_000, "the disk is never full");
    }
    tight.house.kill_9();
    tight.give_it_back_after_the_end();
    tight.house.restart().await;
    for seq in 1..=accepted {
        tight.house.get(&format!("/v1/events/{seq}")).await.check(200);
    }
    tight.house.publish(event(accepted)).await;
}

impl Tight {
    /// A limit on files goes with the process; a disk stays full until something is deleted.
    fn give_it_back_after_the_end(&self) {
        if let Some(disk) = &self.disk {
            disk.make_room();
        }
    }
}
