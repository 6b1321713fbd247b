//! The guides, followed by copy and paste: every block of shell in them is run as it stands, one file
//! after the other block by block, against a server of its own. What needs servers of the reader's
//! own is marked as `console` and not run.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::json;
use skald_tests::{House, Receiver, Setup, binary, eventually, tree};

/// The blocks of shell of a guide, joined.
fn shell(guide: &str) -> String {
    let text = std::fs::read_to_string(tree::root().join(guide)).unwrap();
    let (mut blocks, mut inside) = (String::new(), false);
    for line in text.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            _ if inside => {
                blocks.push_str(line);
                blocks.push('\n');
            }
            _ => {}
        }
    }
    assert!(!blocks.is_empty(), "{guide} has blocks of shell");
    blocks
}

/// Runs them where the server's data is, with `skald` in the path.
fn follow(guide: &str, house: &House) -> Output {
    let port = house.base().rsplit(':').next().unwrap().to_owned();
    let script = shell(guide).replace("127.0.0.1:8080", &format!("127.0.0.1:{port}"));
    let folder = house.folder();
    let _ = std::os::unix::fs::symlink(tree::root().join("examples"), folder.join("examples"));
    let _ = std::os::unix::fs::symlink(house.data(), folder.join(".skald"));
    let programs = binary::path().parent().unwrap().display().to_string();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap());
    let run = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &script])
        .current_dir(folder)
        .env("PATH", path)
        .env("SKALD_URL", house.base())
        .output()
        .unwrap();
    let told = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (told(&run.stdout), told(&run.stderr));
    assert!(run.status.success(), "{guide}: {}\n{out}\n{err}", run.status);
    // `curl` succeeds whatever the answer is.
    assert!(!out.contains("https://skald.dev/problems/"), "{guide}:\n{out}\n{err}");
    run
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_repairs_what_it_breaks() {
    let mut house = House::start().await;
    house.claim("ship-order");
    let out = follow("docs/tour.md", &house).stdout;
    let out = String::from_utf8_lossy(&out);
    for told in ["\"duplicate\":false", "\"redriven\":1", "\"done_already\":2", "\"replayed\":true"]
    {
        // The leases of the replay go into a file.
        let seen = out.contains(told) || lease_file(house.folder()).contains(told);
        assert!(seen, "{told} in:\n{out}");
    }
}

fn lease_file(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("lease.json")).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_an_event_is_taken_as_the_guide_writes_it() {
    let mut house = House::start().await;
    house.claim("check-large-order");
    follow("docs/cloudevents.md", &house);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_consumer_is_registered_as_the_guide_writes_it() {
    let mut house = House::start().await;
    house.claim("tell-erp");
    follow("docs/consumers.md", &house);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_saga_is_written_walked_drawn_and_run() {
    let house = House::start().await;
    let out = follow("docs/sagas.md", &house).stdout;
    assert!(String::from_utf8_lossy(&out).contains("COMPLETED"), "{out:?}");
    let saga = house.get("/v1/sagas/order-42").await.json_of(200);
    assert_eq!(saga["status"], "completed", "{saga:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_registered_in_both_ways_of_the_guide() {
    let house = House::start().await;
    follow("docs/webhooks.md", &house);
    let list = house.get("/v1/webhooks").await.json_of(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 2, "{list:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_made_and_a_backup_is_taken_and_put_back() {
    let house = House::start().await;
    house.publish(json!({"type": "com.acme.order.placed"})).await;
    follow("docs/operations.md", &house);
    assert!(house.folder().join("restored/log.db").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumers_bug_is_put_right_and_a_receivers_outage_made_good() {
    let program = binary::path().with_file_name("examples").join("receipts");
    assert!(program.exists(), "cargo build --examples");
    let mut house = Setup::program(&program, None).start().await;
    house.claim("write-receipt"); // What is replayed as it was is dead once more.
    // An endpoint that is out of order while the orders come.
    let receiver = Receiver::answering(&[204]).await;
    let endpoint = json!({"url": receiver.url(), "types": ["com.acme.order.paid"]});
    let endpoint = house.post("/v1/webhooks", endpoint).await.json_of(201);
    let disable = format!("/v1/webhooks/{}/disable", endpoint["id"].as_str().unwrap());
    house.post(&disable, json!({})).await.check(200);
    let orders = tree::root().join("examples/orders.jsonl");
    let base = house.base();
    let publish = ["publish", orders.to_str().unwrap(), "--url", &base];
    let _published = skald_tests::skald(house.folder(), &publish, &[]).await.ok();
    eventually("one order is dead", async || {
        (house.consumer("write-receipt").await["dead"] == 1).then_some(())
    })
    .await;
    follow("docs/recovery.md", &house);
    let paid = house.get("/v1/events?type=com.acme.order.paid").await.json_of(200);
    receiver.wait_for(paid["items"].as_array().unwrap().len()).await;
    let receipt = "/v1/events?type=com.acme.receipt.written&subject=o-1006";
    eventually("the edited order has its receipt", async || {
        let found = house.get(receipt).await.json_of(200);
        (found["items"].as_array()?.len() == 1).then_some(())
    })
    .await;
}
