//! What must be true of the log and of the effects after all the crashes.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;
use skald_tests::{Client, eventually};

use super::journal::{Journal, Story, stories};

/// The whole log, oldest first.
pub(crate) async fn whole_log(client: &Client) -> Vec<Value> {
    let (mut log, mut after) = (Vec::new(), 0);
    loop {
        let path = format!("/v1/events?limit=500&after={after}");
        let page = client.get(&path).await.json_of(200);
        let items = page["items"].as_array().unwrap();
        let Some(last) = items.last() else { return log };
        after = last["seq"].as_i64().unwrap();
        log.extend(items.iter().cloned());
    }
}

/// Every event that was accepted is in the log exactly once, where the receipt said.
pub(crate) fn assert_nothing_accepted_is_lost(log: &[Value], journal: &Journal) {
    let mut places: HashMap<&str, i64> = HashMap::new();
    let (mut last_seq, mut last_time) = (0, String::new());
    for item in log {
        let (id, seq) = (item["event"]["id"].as_str().unwrap(), item["seq"].as_i64().unwrap());
        assert!(places.insert(id, seq).is_none(), "{id} is in the log twice");
        assert!(seq > last_seq, "{seq} stands after {last_seq}");
        let time = item["recorded_at"].as_str().unwrap();
        assert!(time >= last_time.as_str(), "{seq} was recorded before the one before it");
        (last_seq, last_time) = (seq, time.to_owned());
    }
    let accepted = journal.accepted();
    for (id, seq) in &accepted {
        assert_eq!(places.get(id.as_str()), Some(seq), "{id} was accepted as {seq}");
    }
    assert_eq!(accepted.len(), log.len(), "all was answered in the end");
}

/// The built-in counting counted each event once.
pub(crate) async fn assert_counted_once(client: &Client, events: usize) {
    eventually("the counting has caught up", async || {
        (client.consumer("count-events").await["waiting"] == 0).then_some(())
    })
    .await;
    let path = "/v1/analytics/timeseries?metric=events&interval=minute&type=crash.happened";
    let series = client.get(path).await.json_of(200);
    let points = series["points"].as_array().unwrap();
    let total: i64 = points.iter().map(|point| point["value"].as_i64().unwrap()).sum();
    assert_eq!(usize::try_from(total).unwrap(), events, "each event is counted once");
}

/// Every event was done, once, and none before the earlier ones of its key.
pub(crate) fn assert_each_done_once_and_in_order(log: &[Value], journal: &Journal) {
    let stories = stories(&journal.read());
    let mut keys: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for item in log {
        let key = item["event"]["subject"].as_str().unwrap();
        keys.entry(key).or_default().push(item["seq"].as_i64().unwrap());
    }
    for item in log {
        let seq = item["seq"].as_i64().unwrap();
        let story = stories.get(&seq).unwrap_or_else(|| panic!("{seq} was never leased"));
        assert_done_once(seq, story);
    }
    for (key, seqs) in keys {
        for pair in seqs.windows(2) {
            assert_ended_before(key, (pair[0], &stories[&pair[0]]), (pair[1], &stories[&pair[1]]));
        }
    }
}

fn assert_done_once(seq: i64, story: &Story) {
    assert!(story.acks_ok.len() <= 1, "{seq} was done twice: {story:?}");
    let unanswered = story.acks_sent.len() - story.acks_answered;
    assert!(story.acks_ok.len() + unanswered > 0, "{seq} was never done: {story:?}");
    if let Some(ok) = story.acks_ok.first() {
        let again = story.leased.iter().find(|leased| *leased > ok);
        assert!(again.is_none(), "{seq} was leased again after it was done: {story:?}");
    }
    let growing = story.attempts.windows(2).all(|pair| pair[0] < pair[1]);
    assert!(growing, "attempts of {seq} are counted: {story:?}");
}

/// Nobody holds `later` before the end of `earlier` can have been told to the server, and `earlier`
/// is not handed out any more once somebody holds `later`.
fn assert_ended_before(key: &str, earlier: (i64, &Story), later: (i64, &Story)) {
    let first_lease = later.1.leased[0];
    let told = earlier.1.acks_sent.iter().any(|sent| *sent < first_lease);
    assert!(told, "{key}: {} was leased before {} was done", later.0, earlier.0);
    let again = earlier.1.leased.iter().any(|leased| *leased > first_lease);
    assert!(!again, "{key}: {} was leased again after {} was", earlier.0, later.0);
}
