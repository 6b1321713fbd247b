//! The example of a conference: 500 people for 100 seats at once, never oversold.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use http::Method;
use serde_json::{Value, json};
use skald_tests::{House, tree};

const PEOPLE: usize = 500;
const SEATS: usize = 100;

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_people_register_for_a_hundred_seats() {
    let house = House::start().await;
    let folder = tree::root().join("examples/conference");
    let mut command = Command::new("python3");
    command.arg(folder.join("participant.py")).arg("0").arg(house.folder().join("conference.db"));
    let command = command.arg(SEATS.to_string()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = Killed(command.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim().strip_prefix("listening on ").unwrap().to_owned();
    for name in ["register", "unregister"] {
        let text = std::fs::read_to_string(folder.join(format!("{name}.yaml"))).unwrap();
        let call = house.call(Method::PUT, &format!("/v1/sagas/definitions/{name}"));
        call.typed("application/yaml", text).send().await.check(201);
    }
    let run = async |definition: &str, id: String, person: usize| -> Value {
        let input = json!({"url": url, "person": format!("p{person}")});
        let body = json!({"definition": definition, "id": id, "input": input});
        house.post("/v1/sagas", body).await.check(201);
        house.get(&format!("/v1/sagas/{id}?wait=60s")).await.json_of(200)
    };
    let books = async || -> Value { reqwest::get(&url).await.unwrap().json().await.unwrap() };
    let all = (0..PEOPLE).map(|n| run("register", format!("r{n}"), n));
    let ended = futures::future::join_all(all).await;
    let completed: Vec<usize> =
        (0..PEOPLE).filter(|n| ended[*n]["status"] == "completed").collect();
    let compensated = ended.iter().filter(|saga| saga["status"] == "compensated").count();
    assert_eq!((completed.len(), compensated), (SEATS, PEOPLE - SEATS));
    assert_eq!(books().await, json!({"registered": SEATS, "free": 0}));
    let again = run("register", "again".to_owned(), completed[0]).await;
    assert!(again["error"].as_str().unwrap().contains("already registered"), "{again:#}");
    assert_eq!(run("unregister", "u".to_owned(), completed[0]).await["status"], "completed");
    assert_eq!(books().await, json!({"registered": SEATS - 1, "free": 1}));
    assert_eq!(run("register", "back".to_owned(), completed[0]).await["status"], "completed");
    assert_eq!(books().await, json!({"registered": SEATS, "free": 0}));
}
