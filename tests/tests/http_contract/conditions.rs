//! Conditional requests on configuration.

use http::Method;
use serde_json::json;
use skald_tests::{Answer, House};

use super::{figures, publish_many};

const PATH: &str = "/v1/consumers/c";

async fn house_with_a_consumer() -> House {
    let house = House::start().await;
    house.pull_consumer("c", "t", json!({})).await;
    house
}

async fn get_with(house: &House, name: &str, value: &str) -> Answer {
    house.call(Method::GET, PATH).header(name, value).send().await
}

async fn put_with(house: &House, name: &str, value: &str, types: &str) -> Answer {
    let body = json!({"types": [types], "kind": "pull"});
    house.call(Method::PUT, PATH).header(name, value).json(&body).send().await
}

#[tokio::test]
async fn configuration_carries_an_etag_and_a_date() {
    let house = house_with_a_consumer().await;
    let answer = house.get(PATH).await.expect(200);
    let tag = answer.header("etag");
    assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() > 2, "{tag}");
    assert!(answer.header("last-modified").ends_with(" GMT"), "{answer:?}");
    let put = put_with(&house, "if-match", tag, "u").await.expect(200);
    assert_ne!(put.header("etag"), tag);
    assert_eq!(put.header("etag"), house.get(PATH).await.header("etag"));
}

#[tokio::test]
async fn figures_beside_the_configuration_do_not_change_its_etag() {
    let house = house_with_a_consumer().await;
    let before = house.get(PATH).await.expect(200);
    publish_many(&house, "t", 3).await;
    figures(&house, "c", &[("waiting", 3)]).await;
    let after = house.get(PATH).await.expect(200);
    assert_eq!(after.header("etag"), before.header("etag"));
    assert_eq!(after.header("last-modified"), before.header("last-modified"));
    get_with(&house, "if-none-match", before.header("etag")).await.check(304);
}

#[tokio::test]
async fn a_get_of_what_is_known_answers_304() {
    let house = house_with_a_consumer().await;
    let known = house.get(PATH).await.expect(200);
    let (tag, date) = (known.header("etag").to_owned(), known.header("last-modified").to_owned());
    let answer = get_with(&house, "if-none-match", &tag).await.expect(304);
    assert!(answer.body.is_empty());
    assert_eq!(answer.header("etag"), tag);
    get_with(&house, "if-none-match", &format!("\"other\", W/{tag}")).await.check(304);
    get_with(&house, "if-none-match", "*").await.check(304);
    get_with(&house, "if-none-match", "\"other\"").await.check(200);
    get_with(&house, "if-modified-since", &date).await.check(304);
    get_with(&house, "if-modified-since", "Mon, 01 Jan 2001 00:00:00 GMT").await.check(200);
    let both = house.call(Method::GET, PATH).header("if-none-match", "\"other\"");
    let both = both.header("if-modified-since", &date).send().await;
    both.check(200); // The tag counts where both are given.
}

#[tokio::test]
async fn a_put_on_the_ground_of_an_old_version_answers_412_and_changes_nothing() {
    let house = house_with_a_consumer().await;
    let old = house.get(PATH).await.header("etag").to_owned();
    put_with(&house, "if-match", &old, "changed").await.check(200);
    put_with(&house, "if-match", &old, "lost").await.problem(412);
    put_with(&house, "if-match", "\"nonsense\"", "lost").await.problem(412);
    let long_ago = "Mon, 01 Jan 2001 00:00:00 GMT";
    put_with(&house, "if-unmodified-since", long_ago, "lost").await.problem(412);
    assert_eq!(house.get(PATH).await.json_of(200)["types"], json!(["changed"]));
    put_with(&house, "if-match", "*", "again").await.check(200);
    let date = house.get(PATH).await.header("last-modified").to_owned();
    put_with(&house, "if-unmodified-since", &date, "once.more").await.check(200);
}

#[tokio::test]
async fn a_put_that_only_creates_is_refused_when_there_is_one() {
    let house = house_with_a_consumer().await;
    put_with(&house, "if-none-match", "*", "lost").await.problem(412);
    assert_eq!(house.get(PATH).await.json_of(200)["types"], json!(["t"]));
}

#[tokio::test]
async fn a_put_that_only_changes_is_refused_when_there_is_none() {
    let house = House::start().await;
    put_with(&house, "if-match", "*", "t").await.problem(412);
    house.get(PATH).await.problem(404);
}

#[tokio::test]
async fn a_delete_honours_conditions() {
    let house = house_with_a_consumer().await;
    let tag = house.get(PATH).await.header("etag").to_owned();
    let delete = async |name: &str, value: &str| {
        house.call(Method::DELETE, PATH).header(name, value).send().await
    };
    delete("if-match", "\"other\"").await.problem(412);
    delete("if-unmodified-since", "Mon, 01 Jan 2001 00:00:00 GMT").await.problem(412);
    house.get(PATH).await.check(200);
    assert!(delete("if-match", &tag).await.status.is_success());
    house.get(PATH).await.problem(404);
}

#[tokio::test]
async fn what_is_made_anew_under_its_name_is_another_version() {
    let house = house_with_a_consumer().await;
    let tag = house.get(PATH).await.header("etag").to_owned();
    house.delete(PATH).await.check(204);
    house.pull_consumer("c", "other", json!({})).await;
    get_with(&house, "if-none-match", &tag).await.check(200);
    put_with(&house, "if-match", &tag, "u").await.problem(412);
}

#[tokio::test]
async fn a_version_that_nothing_matches_is_not_as_good_as_none() {
    let house = house_with_a_consumer().await;
    let put = house.call(Method::PUT, PATH).header("if-match", "\"é\"");
    put.json(&json!({"types": ["u"], "kind": "pull"})).send().await.problem(412);
}

#[tokio::test]
async fn of_a_version_and_a_time_the_version_counts() {
    let house = house_with_a_consumer().await;
    let tag = house.get(PATH).await.header("etag").to_owned();
    let put =
        house.call(Method::PUT, PATH).header("if-match", "\"other\"").header("if-match", &tag);
    let put = put.header("if-unmodified-since", "Thu, 01 Jan 2026 00:00:00 GMT");
    put.json(&json!({"types": ["u"], "kind": "pull"})).send().await.check(200);
}
