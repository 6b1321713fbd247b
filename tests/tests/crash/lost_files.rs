//! A file of the data folder is lost: what `docs/recovery.md` says happens, happens.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use skald_tests::{House, Setup, skald};

use crate::load::effects::{assert_counted_once, whole_log};

fn lose(data: &Path, file: &str) {
    for end in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(data.join(format!("{file}{end}")));
    }
}

/// A folder with so many events that were consumed, and a backup of it taken after the first half.
async fn used(folder: &Path, events: usize) {
    let house = Setup::dev().data(&folder.join("data")).start().await;
    for n in 0..events {
        if n == events / 2 {
            let (to, data) = (folder.join("backup"), folder.join("data"));
            let backup = ["backup", to.to_str().unwrap(), "--data", data.to_str().unwrap()];
            let _taken = skald(folder, &backup, &[]).await.ok();
        }
        house.publish(json!({"type": "crash.happened", "data": n})).await;
    }
    assert_counted_once(&house, events).await;
}

async fn house_on(data: &Path) -> House {
    Setup::dev().data(data).start().await
}

#[tokio::test]
async fn without_the_state_everything_is_built_anew_from_the_log() {
    let folder = tempfile::tempdir().unwrap();
    used(folder.path(), 20).await;
    let data = folder.path().join("data");
    lose(&data, "state.db");
    let house = house_on(&data).await;
    assert_eq!(whole_log(&house).await.len(), 20);
    assert_counted_once(&house, 20).await;
}

#[tokio::test]
async fn without_the_log_the_start_is_refused_until_a_backup_is_put_back() {
    let folder = tempfile::tempdir().unwrap();
    used(folder.path(), 20).await;
    let data = folder.path().join("data");
    lose(&data, "log.db");
    let dev = ["dev", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()];
    let refusal = skald(folder.path(), &dev, &[]).await.refusal();
    assert!(refusal.contains("belongs to another log"), "{refusal}");

    // The log of the backup alone is older than the state: that is told too.
    lose(&data, "log.db");
    fs::copy(folder.path().join("backup/log.db"), data.join("log.db")).unwrap();
    let refusal = skald(folder.path(), &dev, &[]).await.refusal();
    assert!(refusal.contains("it has lost events"), "{refusal}");

    // Log and state of one backup fit, and what is published again stands in its place.
    let restored = folder.path().join("restored");
    let restore = ["restore", "backup", "--data", restored.to_str().unwrap()];
    let _restored = skald(folder.path(), &restore, &[]).await.ok();
    let house = house_on(&restored).await;
    let log: Vec<Value> = whole_log(&house).await;
    assert_eq!(log.len(), 10);
    for n in 10..20 {
        house.publish(json!({"type": "crash.happened", "data": n})).await;
    }
    assert_counted_once(&house, 20).await;
}
