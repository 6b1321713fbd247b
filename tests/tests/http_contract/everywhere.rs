//! What holds for every address: problems, request ids, compression, and the pages for operators.

use std::collections::HashSet;
use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::Method;
use serde_json::{Value, json};
use skald_tests::{Client, House, Setup, eventually, tree};

use super::publish_many;

#[tokio::test]
async fn what_is_not_there_is_a_problem() {
    let house = House::start().await;
    for path in ["/v1/nothing", "/v1/consumers/nobody", "/v2/events", "/v1/events/1/nothing"] {
        let problem = house.get(path).await.problem(404);
        assert!(problem["type"].as_str().unwrap().starts_with("http"), "{problem}");
    }
    house.delete("/v1/events").await.problem(405);
}

#[tokio::test]
async fn bodies_must_be_json_of_the_right_type_and_shape() {
    let house = House::start().await;
    let put = |media: &str, body: &str| {
        house.call(Method::PUT, "/v1/consumers/c").typed(media, body.to_owned()).send()
    };
    put("application/json", "{").await.problem(400);
    put("text/plain", "{}").await.problem(415);
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    put("application/json", &format!(r#"{{"types":{deep}}}"#)).await.problem(422);
    let twice = put("application/json", r#"{"types":["a"],"types":["b"],"kind":"pull"}"#).await;
    assert!(twice.problem(400)["detail"].as_str().unwrap().contains("`types` is given twice"));
    assert_eq!(put("application/json", "[]").await.faults(), [""]);
    let body = r#"{"types":["a"],"kind":"pull"}"#;
    put("application/json; charset=utf-8", body).await.check(201);
}

#[tokio::test]
async fn a_body_where_none_is_taken_is_looked_at_too() {
    let house = House::start().await;
    house.pull_consumer("c", "t", json!({})).await;
    let pause = "/v1/consumers/c/pause";
    assert_eq!(house.post(pause, json!({"until": "tomorrow"})).await.faults(), ["/until"]);
    house.call(Method::POST, pause).typed("text/plain", "x").send().await.problem(415);
    assert_eq!(house.consumer("c").await["state"], "running");
    let delete = house.call(Method::DELETE, "/v1/consumers/c").json(&json!({"force": true}));
    assert_eq!(delete.send().await.faults(), ["/force"]);
    house.post(pause, json!({})).await.check(200);
    house.call(Method::POST, pause).send().await.check(200);
    house.delete("/v1/consumers/c").await.check(204);
}

#[tokio::test]
async fn every_answer_carries_a_request_id() {
    let house = House::start().await;
    let given = house.call(Method::GET, "/v1/events").header("x-request-id", "till-7.42");
    assert_eq!(given.send().await.header("x-request-id"), "till-7.42");
    let first = house.get("/v1/events").await.header("x-request-id").to_owned();
    let second = house.get("/v1/nothing").await.header("x-request-id").to_owned();
    assert!(!first.is_empty() && !second.is_empty() && first != second, "{first} {second}");
    let long = "x".repeat(5_000);
    let answer = house.call(Method::GET, "/v1/events").header("x-request-id", &long).send().await;
    assert!(answer.header("x-request-id").len() < 1_000);
}

#[tokio::test]
async fn answers_are_compressed_for_those_who_can_read_it() {
    let house = House::start().await;
    publish_many(&house, "t", 50).await;
    let answer = house.call(Method::GET, "/v1/events").header("accept-encoding", "gzip");
    let answer = answer.send().await.expect(200);
    assert_eq!(answer.header("content-encoding"), "gzip");
    let mut text = String::new();
    GzDecoder::new(&answer.body[..]).read_to_string(&mut text).unwrap();
    let page: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(page["items"].as_array().unwrap().len(), 50);
    let plain = house.call(Method::GET, "/v1/events").header("accept-encoding", "identity");
    assert_eq!(plain.send().await.expect(200).header("content-encoding"), "");
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn compressed_bodies_are_read_and_a_compressed_bomb_is_refused() {
    let house = House::start().await;
    let post = |bytes: Vec<u8>| {
        let call = house.call(Method::POST, "/v1/events").header("content-encoding", "gzip");
        call.typed("application/json", bytes).send()
    };
    post(compressed(br#"{"type":"t","id":"small"}"#)).await.check(202);
    for (coding, body) in
        [("GZIP", compressed(b"{\"type\":\"t\"}")), ("Identity", b"{\"type\":\"t\"}".to_vec())]
    {
        let call = house.call(Method::POST, "/v1/events").header("content-encoding", coding);
        call.typed("application/json", body).send().await.check(202);
    }
    let bomb = format!(r#"{{"type":"t","data":"{}"}}"#, "x".repeat(64 * 1024 * 1024));
    post(compressed(bomb.as_bytes())).await.problem(413);
    post(b"this is not gzip".to_vec()).await.problem(400);
    house.get("/v1/events/1").await.check(200);
    house.get("/v1/events/4").await.check(404);
}

#[tokio::test]
async fn health_and_readiness_are_told() {
    let house = House::start().await;
    house.get("/healthz").await.check(200);
    house.get("/readyz").await.check(200);
}

#[tokio::test]
async fn all_metrics_are_there_from_the_start() {
    let house = House::start().await;
    let answer = house.get("/metrics").await.expect(200);
    assert!(answer.header("content-type").starts_with("text/plain"), "{answer:?}");
    let text = answer.text();
    let documented = tree::read("docs/metrics.md".as_ref()).expect("the table of all metrics");
    let names: Vec<&str> = documented
        .lines()
        .filter_map(|line| line.strip_prefix("| `skald_"))
        .filter_map(|rest| rest.split(['`', '{', ' ']).next())
        .collect();
    assert!(names.len() >= 10, "{names:?}");
    for name in names {
        assert!(text.contains(&format!("skald_{name}")), "skald_{name} is missing in:\n{text}");
    }
}

#[tokio::test]
async fn metrics_count_what_happens() {
    let house = House::start().await;
    publish_many(&house, "t", 5).await;
    publish_many(&house, "t", 3).await;
    let text = house.get("/metrics").await.expect(200).text();
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
    };
    assert_eq!(value("skald_events_published_total"), Some(5.0), "{text}");
    assert_eq!(value("skald_events_duplicate_total"), Some(3.0), "{text}");
}

#[tokio::test]
async fn the_api_describes_itself() {
    let house = House::start().await;
    let api = house.get("/openapi.json").await.json_of(200);
    assert!(api["openapi"].as_str().unwrap().starts_with("3."), "{api}");
    for (path, method) in [
        ("/v1/events", "post"),
        ("/v1/events", "get"),
        ("/v1/events/{seq}", "get"),
        ("/v1/events/{seq}/trace", "get"),
        ("/v1/events/stream", "get"),
        ("/v1/consumers", "get"),
        ("/v1/consumers/{name}", "get"),
        ("/v1/consumers/{name}", "put"),
        ("/v1/consumers/{name}", "delete"),
        ("/v1/consumers/{name}/lease", "post"),
        ("/v1/consumers/{name}/ack", "post"),
        ("/v1/consumers/{name}/nak", "post"),
        ("/v1/consumers/{name}/extend", "post"),
        ("/v1/consumers/{name}/pause", "post"),
        ("/v1/consumers/{name}/resume", "post"),
        ("/v1/consumers/{name}/rebuild", "post"),
        ("/v1/consumers/{name}/dead-letters", "get"),
        ("/v1/consumers/{name}/dead-letters", "delete"),
        ("/v1/consumers/{name}/dead-letters/redrive", "post"),
        ("/v1/replays", "post"),
        ("/v1/replays/{id}", "get"),
        ("/v1/replays/{id}/pause", "post"),
        ("/v1/replays/{id}/resume", "post"),
        ("/v1/replays/{id}/cancel", "post"),
        ("/v1/analytics/timeseries", "get"),
        ("/healthz", "get"),
        ("/readyz", "get"),
        ("/metrics", "get"),
    ] {
        assert!(api["paths"][path][method].is_object(), "{method} {path} is not described");
    }
}

#[tokio::test]
async fn what_no_database_can_hold_is_refused_before_it_is_looked_for() {
    let house = House::start().await;
    house.get("/v1/consumers/a%00b").await.problem(400);
    house.delete("/v1/tenants/%00").await.problem(400);
    assert_eq!(house.get("/v1/webhooks?tenant=a%00").await.faults(), ["/tenant"]);
    let push = json!({"types": ["t"], "kind": "push", "url": "http://a\0"});
    assert_eq!(house.put("/v1/consumers/c", push).await.faults(), ["/url"]);
    let wait = json!({"ids": ["s", "s\0"]});
    assert_eq!(house.post("/v1/wait", wait).await.faults(), ["/ids/1"]);
}

#[tokio::test]
async fn the_description_says_what_holds_everywhere() {
    let house = House::start().await;
    let api = house.get("/openapi.json").await.json_of(200);
    assert_eq!(api["components"]["securitySchemes"]["key"]["scheme"], "bearer");
    let problem = json!({"$ref": "#/components/schemas/ProblemBody"});
    let mut ids = HashSet::new();
    for (path, item) in api["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let open = path.starts_with("/.well-known/") || path == "/healthz" || path == "/readyz";
            let security = if open { json!([]) } else { json!([{"key": []}]) };
            assert_eq!(operation["security"], security, "{method} {path}");
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{method} {path}: {id} is the name of another");
            assert_eq!(operation["responses"]["401"].is_object(), !open, "{method} {path}");
            for (status, response) in operation["responses"].as_object().unwrap() {
                assert_ne!(response["description"], "", "{method} {path} {status}");
                let schema = &response["content"]["application/problem+json"]["schema"];
                let refused = status.starts_with(['4', '5']);
                assert_eq!(*schema == problem, refused, "{method} {path} {status}");
            }
        }
    }
    let headers = |method: &str| {
        let parameters = api["paths"]["/v1/consumers/{name}"][method]["parameters"].as_array();
        let named = parameters.unwrap().iter().filter(|parameter| parameter["in"] == "header");
        named.map(|parameter| parameter["name"].as_str().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(headers("put"), ["If-Match", "If-Unmodified-Since"]);
    assert_eq!(headers("get"), ["If-None-Match", "If-Modified-Since"]);
}

#[tokio::test]
async fn the_reference_comes_from_the_binary() {
    let house = House::start().await;
    let mut answer = house.get("/docs").await;
    if answer.status.is_redirection() {
        let to = answer.header("location").to_owned();
        answer = house.get(&to).await;
    }
    answer.check(200);
    assert!(answer.header("content-type").starts_with("text/html"), "{answer:?}");
    let page = answer.text();
    for foreign in ["src=\"http", "href=\"http", "src=\"//", "href=\"//"] {
        assert!(!page.contains(foreign), "{foreign} in {page}");
    }
}

#[tokio::test]
async fn overload_is_answered_and_passes() {
    let house = Setup::dev().environment("SKALD_HTTP__IN_FLIGHT_MAX", "1").start().await;
    house.pull_consumer("c", "t", json!({})).await;
    let client = Client::clone(&house);
    let waiting = tokio::spawn(async move {
        loop {
            // The other caller below may be the one that has the place.
            let terms = json!({"max": 1, "wait": "5s"});
            let answer = client.post("/v1/consumers/c/lease", terms).await;
            if answer.status != 429 {
                return answer;
            }
        }
    });
    let refused = eventually("the only place is taken", async || {
        let answer = house.get("/v1/events").await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    refused.problem(429);
    assert!(refused.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0));
    let answer = waiting.await.unwrap();
    assert_eq!(answer.json_of(200)["leases"], json!([]));
    house.get("/v1/events").await.check(200);
}

#[tokio::test]
async fn a_server_asked_to_stop_ends_in_order_and_loses_nothing() {
    let mut house = House::start().await;
    publish_many(&house, "t", 10).await;
    let waiting = tokio::spawn({
        let client = Client::clone(&house);
        async move {
            client.pull_consumer("c", "nothing", json!({})).await;
            client.lease_with("c", json!({"max": 1, "wait": "50s"})).await
        }
    });
    super::figures(&house, "count-events", &[("waiting", 0)]).await;
    house.terminate().await;
    let answered = waiting.await.expect("a long poll is answered, not cut");
    assert!(answered.is_empty());
    house.restart().await;
    house.get("/v1/events/10").await.check(200);
}

#[tokio::test]
async fn in_a_body_a_text_is_no_number_and_no_truth() {
    let house = House::start().await;
    let body =
        json!({"types": ["t"], "kind": "pull", "policy": {"attempts_max": "5", "ordered": "true"}});
    let faults = house.put("/v1/consumers/c", body).await.faults();
    assert_eq!(faults, ["/policy/attempts_max", "/policy/ordered"]);
}

#[tokio::test]
async fn no_page_is_shown_in_a_frame() {
    let house = House::start().await;
    for page in ["/docs/", "/events"] {
        assert_eq!(house.get(page).await.expect(200).header("x-frame-options"), "DENY", "{page}");
    }
}

#[tokio::test]
async fn a_body_in_a_coding_that_is_not_known_is_a_problem() {
    let house = House::start().await;
    for coding in ["br", "deflate", "gzip, gzip"] {
        let call = house.call(Method::POST, "/v1/events").header("content-encoding", coding);
        call.json(&json!({"type": "t"})).send().await.problem(415);
    }
}
