//! What keeps a server from starting, told in one line.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use serde_json::json;
use skald_tests::{House, Setup, skald};
use tempfile::TempDir;

/// The refusal to start on a folder.
async fn refusal(data: &Path) -> String {
    let arguments = ["dev", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()];
    skald(data, &arguments, &[]).await.refusal()
}

/// A folder in which a server has run and ended in order.
async fn used_folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    let mut house = Setup::dev().data(folder.path()).start().await;
    for _ in 0..20 {
        house.publish(json!({"type": "t"})).await;
    }
    house.terminate().await;
    folder
}

#[tokio::test]
async fn a_second_process_on_the_same_folder_is_refused() {
    let house = House::start().await;
    let told = refusal(house.data()).await;
    assert!(told.contains("in use"), "{told}");
    house.publish(json!({"type": "t"})).await;
}

#[tokio::test]
async fn a_folder_is_free_again_after_kill_9() {
    let mut house = House::start().await;
    house.publish(json!({"type": "t"})).await;
    house.kill_9();
    house.restart().await;
    house.get("/v1/events/1").await.check(200);
}

#[tokio::test]
async fn a_damaged_file_is_refused_by_name_and_left_as_it_is() {
    for file in ["log.db", "state.db"] {
        let folder = used_folder().await;
        let path = folder.path().join(file);
        let mut damaged = File::options().write(true).open(&path).unwrap();
        damaged.seek(SeekFrom::Start(0)).unwrap();
        damaged.write_all(&[0xA5; 200]).unwrap();
        drop(damaged);
        let before = fs::read(&path).unwrap();
        let told = refusal(folder.path()).await;
        assert!(told.contains(file), "{told}");
        assert!(fs::read(&path).unwrap() == before, "{file} was changed");
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_by_name_and_left_as_it_is() {
    for file in ["log.db", "state.db"] {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(file);
        let text = "Dear diary, this is no database at all. ".repeat(50);
        fs::write(&path, &text).unwrap();
        let told = refusal(folder.path()).await;
        assert!(told.contains(file), "{told}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_refused() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let data = file.join("data");
    let arguments = ["dev", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()];
    let told = skald(folder.path(), &arguments, &[]).await.refusal();
    assert!(told.contains("data"), "{told}");
}

#[tokio::test]
async fn an_address_that_is_taken_is_refused() {
    let house = House::start().await;
    let address = house.base().replace("http://", "");
    let folder = TempDir::new().unwrap();
    let data = folder.path().to_str().unwrap();
    let arguments = ["dev", "--listen", &address, "--data", data];
    let told = skald(folder.path(), &arguments, &[]).await.refusal();
    assert!(told.contains(&address), "{told}");
}

#[tokio::test]
async fn a_database_that_cannot_be_reached_is_refused_without_its_password() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().to_str().unwrap();
    let url = "postgres://user:open-sesame@127.0.0.1:1/skald";
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--data", data, "--database", url];
    let told = skald(folder.path(), &arguments, &[]).await.refusal();
    assert!(!told.contains("open-sesame"), "{told}");
    let done = skald(folder.path(), &["keys", "list", "--database", url], &[]).await;
    assert_eq!(done.code, Some(2), "{done:?}");
}

#[tokio::test]
async fn a_database_that_is_not_there_is_not_made_to_be_looked_into() {
    let folder = TempDir::new().unwrap();
    for arguments in [&["keys", "list"][..], &["export", "out"], &["log", "adopt"]] {
        let told = skald(folder.path(), arguments, &[]).await.refusal();
        assert!(told.contains(".skald/state.db") && told.contains("--data"), "{told}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let create = ["keys", "create", "first", "--scope", "admin"];
    assert_eq!(skald(folder.path(), &create, &[]).await.code, Some(0));
}

#[tokio::test]
async fn a_log_that_this_version_does_not_serve_is_refused() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().to_str().unwrap();
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--data", data, "--log", "kafka://a"];
    let told = skald(folder.path(), &arguments, &[]).await.refusal();
    assert!(told.contains("log"), "{told}");
}
