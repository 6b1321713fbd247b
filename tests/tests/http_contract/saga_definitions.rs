//! Definitions of sagas: registered, versioned, refused with all their faults.

use http::Method;
use serde_json::json;
use skald_tests::House;

const YAML: &str = "saga: s\nsteps:\n  - { step: nap, sleep: 10ms }\n";

#[tokio::test]
async fn a_definition_is_a_new_version_unless_it_equals_the_newest() {
    let house = House::start().await;
    let put = async |body: &str| {
        let call = house.call(Method::PUT, "/v1/sagas/definitions/s");
        call.typed("application/yaml", body.to_owned()).send().await
    };
    let first = put(YAML).await;
    assert!(first.headers.contains_key("etag"));
    assert_eq!(first.json_of(201)["version"], 1);
    let json = json!({"saga": "s", "steps": [{"step": "nap", "sleep": "10ms"}]});
    let again = house.put("/v1/sagas/definitions/s", json).await.json_of(200);
    assert_eq!(again["version"], 1, "the same in JSON");
    let other = put(&YAML.replace("10ms", "20ms")).await.json_of(201);
    assert_eq!(other["version"], 2);
    let newest = house.get("/v1/sagas/definitions/s").await.json_of(200);
    assert_eq!(newest["definition"]["steps"][0]["sleep"], "20ms");
    let old = house.get("/v1/sagas/definitions/s/versions/1").await.json_of(200);
    assert_eq!(old["definition"]["steps"][0]["sleep"], "10ms");
    house.get("/v1/sagas/definitions/s/versions/9").await.check(404);
    house.get("/v1/sagas/definitions/none").await.check(404);
    let listed = house.get("/v1/sagas/definitions").await.json_of(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    let call = house.call(Method::PUT, "/v1/sagas/definitions/s").header("if-match", "\"1\"");
    call.typed("application/yaml", YAML).send().await.check(412);
}

#[tokio::test]
async fn all_faults_are_told_with_line_and_path() {
    let house = House::start().await;
    let text = "saga: other\nsteps:\n  - step: a\n    post: '{{ env.HOME }}/x'\n    undo: { post: \"http://x/{{ steps.b.output }}\" }\n  - { step: b, command: stock, no_undo: x, tiemout: 5s }\n";
    let call = house.call(Method::PUT, "/v1/sagas/definitions/s");
    let answer = call.typed("application/yaml", text).send().await.json_of(422);
    let told = answer["errors"].to_string();
    for wanted in
        ["/steps/1/tiemout", "line 6", "did you mean `timeout`", "reads `b`, which runs later"]
    {
        assert!(told.contains(wanted), "{wanted}: {told}");
    }
    let text = text.replace(", tiemout: 5s", "").replace("{{ steps.b.output }}", "x");
    let call = house.call(Method::PUT, "/v1/sagas/definitions/s");
    let answer = call.typed("application/yaml", text).send().await.json_of(422);
    let told = answer["errors"].to_string();
    for wanted in ["address says `s`", "env.HOME", "there is none; call the participant over HTTP"]
    {
        assert!(told.contains(wanted), "{wanted}: {told}");
    }
    let call = house.call(Method::PUT, "/v1/sagas/definitions/s");
    call.typed("text/plain", YAML).send().await.check(415);
    let call = house.call(Method::PUT, "/v1/sagas/definitions/s");
    call.typed("application/json", "{").send().await.check(400);
    let child = "saga: s\nsteps: [{ step: a, saga: none, undo: { post: http://127.0.0.1:1900 } }, { step: b, saga: s, no_undo: x }]\n";
    let call = house.call(Method::PUT, "/v1/sagas/definitions/s");
    let told = call.typed("application/yaml", child).send().await.json_of(422).to_string();
    assert!(told.contains("no definition `none`") && told.contains("runs `s` in turn"), "{told}");
}

#[tokio::test]
async fn of_many_that_change_the_same_version_one_does() {
    let house = House::start().await;
    let put = async |n: usize, header: &str, value: &str| {
        let text = YAML.replace("10ms", &format!("{n}ms"));
        let call = house.call(Method::PUT, "/v1/sagas/definitions/s").header(header, value);
        call.typed("application/yaml", text).send().await.status.as_u16()
    };
    let made = futures::future::join_all((1..=12).map(|n| put(n, "if-none-match", "*"))).await;
    let count = |answers: &[u16], status| answers.iter().filter(|a| **a == status).count();
    assert_eq!((count(&made, 201), count(&made, 412)), (1, 11), "{made:?}");
    let changed = futures::future::join_all((21..=32).map(|n| put(n, "if-match", "\"1\""))).await;
    assert_eq!((count(&changed, 201), count(&changed, 412)), (1, 11), "{changed:?}");
    let newest = house.get("/v1/sagas/definitions/s").await.json_of(200);
    assert_eq!(newest["version"], 2);
}

#[tokio::test]
async fn pages_hold_while_new_versions_are_registered_and_other_cursors_are_refused() {
    let house = House::start().await;
    let put = async |name: &str, time: &str| {
        let body = json!({"saga": name, "steps": [{"step": "nap", "sleep": time}]});
        house.put(&format!("/v1/sagas/definitions/{name}"), body).await.check(201);
    };
    for name in ["a", "b", "c", "d"] {
        put(name, "10ms").await;
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    for name in ["a", "d", "b", "c"] {
        let page = house.get(&format!("/v1/sagas/definitions?limit=1{cursor}")).await.json_of(200);
        seen.push(page["items"][0]["name"].as_str().unwrap().to_owned());
        cursor = format!("&cursor={}", page["next"].as_str().unwrap_or_default());
        put(name, "20ms").await;
    }
    assert_eq!(seen, ["d", "c", "b", "a"]);
    for path in ["/v1/sagas/definitions?cursor=nonsense", "/v1/sagas?cursor=garbage"] {
        assert_eq!(house.get(path).await.faults(), ["/cursor"], "{path}");
    }
}

#[tokio::test]
async fn what_cannot_be_here_is_told_with_the_rest_and_where_it_stands() {
    let house = House::start().await;
    let text = "saga: s
steps:
  - step: a
    post: http://127.0.0.1:1900
    undo: { post: 'http://u:p@h/' }
  - step: b
    post: http://127.0.0.1:1900
    undo: { command: stock, as: rel }
  - step: c
    post: http://127.0.0.1:1900
    undo: { post: 'http://127.0.0.1:1900', body: '{{ env.HOME }}' }
    on_unknown: { probe: { get: 'http://u:p@h/' } }
  - step: d
    post: ftp://x
    undo: { saga: none }
    bogus: 1
";
    let call = house.call(Method::PUT, "/v1/sagas/definitions/s");
    let answer = call.typed("application/yaml", text).send().await;
    let told = answer.problem(422);
    let mut pointers = answer.faults();
    pointers.sort_unstable();
    let wanted = [
        "/steps/0/undo/post",
        "/steps/1/undo/command",
        "/steps/2/on_unknown/probe/get",
        "/steps/2/undo/body",
        "/steps/3/bogus",
        "/steps/3/post",
        "/steps/3/undo/saga",
    ];
    assert_eq!(pointers, wanted, "{told:#}");
    let faults = told["errors"].as_array().unwrap();
    let line = |fault: &serde_json::Value| fault["detail"].as_str().unwrap().starts_with("line ");
    assert!(faults.iter().all(line), "{told:#}");
}

#[tokio::test]
async fn headers_that_are_never_sent_are_refused() {
    let house = House::start().await;
    let headers = json!({"Host": "x", "Content-Type": "text/plain", "traceparent": "x",
        "X-Fine": "a", "X-Lines": "a\r\nb", "Skald-Saga": "x"});
    let step = json!({"step": "a", "post": "http://127.0.0.1:1900", "headers": headers,
        "no_undo": "it is a test"});
    let body = json!({"saga": "s", "steps": [step]});
    let mut faults = house.put("/v1/sagas/definitions/s", body).await.faults();
    faults.sort();
    let names = ["Content-Type", "Host", "Skald-Saga", "X-Lines", "traceparent"];
    assert_eq!(faults, names.map(|name| format!("/steps/0/headers/{name}")));
}

#[tokio::test]
async fn a_definition_that_is_too_long_is_413_and_a_signal_has_a_name() {
    let house = House::start().await;
    let long = format!("{YAML}# {}", "x".repeat(256 * 1024));
    let call = house.call(Method::PUT, "/v1/sagas/definitions/s");
    call.typed("application/yaml", long).send().await.problem(413);
    house.post("/v1/sagas/none/signals/a%2Fb", json!({})).await.problem(422);
}
