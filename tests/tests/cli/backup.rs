//! `skald backup` while the server is busy, and `skald restore` after its disk was lost.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use serde_json::{Value, json};
use skald_tests::{Client, Finished, House, Setup, skald};

use crate::load::effects::{assert_counted_once, whole_log};

async fn backup(house: &House, to: &Path) -> Finished {
    let (to, data) = (to.to_str().unwrap(), house.data().to_str().unwrap());
    skald(house.folder(), &["--json", "backup", to, "--data", data], &[]).await
}

async fn restore(from: &Path, data: &Path) -> Finished {
    let (from, data) = (from.to_str().unwrap(), data.to_str().unwrap());
    skald(Path::new("/"), &["--json", "restore", from, "--data", data], &[]).await
}

/// Publishes until it is told to stop; answers the newest position.
fn publish(
    client: Client,
    stop: Arc<AtomicBool>,
    newest: Arc<AtomicI64>,
) -> tokio::task::JoinHandle<()> {
    let event = |batch: i32, n: i32| {
        json!({"specversion": "1.0", "id": format!("{batch}-{n}"), "source": "/shop",
            "type": "crash.happened"})
    };
    tokio::spawn(async move {
        for batch in 0.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let events: Vec<Value> = (0..20).map(|n| event(batch, n)).collect();
            let receipts = client.publish_batch(&events).await;
            newest.store(receipts[19]["seq"].as_i64().unwrap(), Ordering::Relaxed);
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_before_a_backup_is_there_after_its_restore_and_counted_once() {
    let house = House::start().await;
    house.pull_consumer("ship-order", "crash.>", json!({})).await;
    let (stop, newest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
    let publishing = publish(Client::clone(&house), Arc::clone(&stop), Arc::clone(&newest));
    skald_tests::eventually("some are there", async || {
        (newest.load(Ordering::Relaxed) > 500).then_some(())
    })
    .await;

    let folder = tempfile::tempdir().unwrap();
    let (kept, accepted) = (folder.path().join("kept"), newest.load(Ordering::Relaxed));
    let told: Value = serde_json::from_str(&backup(&house, &kept).await.ok().stdout).unwrap();
    let last = told["last_seq"].as_i64().unwrap();
    assert!(last >= accepted, "{told}");
    assert_eq!(told["events"], last, "{told}");
    stop.store(true, Ordering::Relaxed);
    publishing.await.unwrap();
    assert!(newest.load(Ordering::Relaxed) > last, "the server was busy meanwhile");
    drop(house);

    let data = folder.path().join("data");
    let _restored = restore(&kept, &data).await.ok();
    let mut house = Setup::dev().data(&data).start().await;
    house.claim("ship-order");
    let log = whole_log(&house).await;
    assert_eq!(log.len(), usize::try_from(last).unwrap());
    assert_counted_once(&house, log.len()).await;
    let next = house.publish(json!({"type": "crash.happened"})).await;
    assert_eq!(next["seq"], last + 1, "it goes on");
}

#[tokio::test]
async fn a_backup_that_is_not_whole_is_refused_and_nothing_is_overwritten() {
    let house = House::start().await;
    house.publish(json!({"type": "crash.happened"})).await;
    let folder = tempfile::tempdir().unwrap();
    let (kept, data) = (folder.path().join("kept"), folder.path().join("data"));
    let _taken = backup(&house, &kept).await.ok();
    let again = backup(&house, &kept).await;
    assert!(again.code == Some(1) && again.stderr.contains("is there already"), "{again:?}");
    let running = restore(&kept, house.data()).await;
    assert!(running.code == Some(2) && running.stderr.contains("in use"), "{running:?}");

    let _restored = restore(&kept, &data).await.ok();
    let over = restore(&kept, &data).await;
    assert!(over.code == Some(1) && over.stderr.contains("nothing is overwritten"), "{over:?}");

    let empty = data.with_file_name("empty");
    for damage in ["log.db", "state.db", "encryption.key"] {
        let file = kept.join(damage);
        let whole = std::fs::read(&file).unwrap();
        let mut bytes = whole.clone();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&file, bytes).unwrap();
        let refused = restore(&kept, &empty).await;
        assert!(refused.code == Some(1) && refused.stderr.contains(damage), "{refused:?}");
        std::fs::write(&file, whole).unwrap();
    }
    std::fs::remove_file(kept.join("backup.json")).unwrap();
    let refused = restore(&kept, &empty).await;
    assert!(refused.code == Some(1) && refused.stderr.contains("no whole backup"), "{refused:?}");
    assert!(!empty.join("log.db").exists() && !empty.join("state.db").exists());
}
