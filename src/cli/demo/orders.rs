//! The orders of the example, as lines to publish and as what must become of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::shop::{REFUSED_CARD, SOLD_OUT};

/// Two hundred lines: some orders whose card is refused, some of what is sold out, some that the shop
/// sends twice, and two of an old shop whose data nobody here can read.
const LINES: &str = include_str!("../../../examples/orders/orders.jsonl");

/// The type of all of them.
pub(super) const PLACED: &str = "com.acme.order.placed";

/// What a customer ordered.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Order {
    pub(super) order_id: String,
    customer: String,
    card: String,
    pub(super) items: Vec<Item>,
    pub(super) total_cents: i64,
    currency: String,
    pub(super) ship: bool,
}

/// So many of one thing.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Item {
    pub(super) sku: String,
    pub(super) quantity: i64,
    #[serde(default)]
    price_cents: i64,
}

/// How an order must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Completed,
    /// The card is refused: nothing was done yet.
    CardRefused,
    /// What was charged is refunded.
    SoldOut,
}

impl Order {
    pub(super) fn fate(&self) -> Fate {
        if self.card == REFUSED_CARD {
            Fate::CardRefused
        } else if self.items.iter().any(|item| item.sku == SOLD_OUT) {
            Fate::SoldOut
        } else {
            Fate::Completed
        }
    }
}

/// The lines in their order.
pub(super) fn lines() -> Vec<&'static str> {
    LINES.lines().filter(|line| !line.is_empty()).collect()
}

/// Every order once, by the id of its event; those of the old shop as they are after their repair.
pub(super) fn all() -> anyhow::Result<BTreeMap<String, Order>> {
    let mut orders = BTreeMap::new();
    for line in lines() {
        let event: Value = serde_json::from_str(line)?;
        let data = if is_unreadable(&event) {
            repaired(&event)["data"].clone()
        } else {
            event["data"].clone()
        };
        let id = event["id"].as_str().unwrap_or_default().to_owned();
        orders.insert(id, serde_json::from_value(data)?);
    }
    Ok(orders)
}

/// Some of them, by id, and why they are worth a look.
pub(super) fn worth_a_look() -> anyhow::Result<Vec<(String, &'static str)>> {
    let all = all()?;
    let first = |fate: Fate| all.iter().find(|(_, order)| order.fate() == fate);
    let some = [
        (Fate::Completed, "an order that went through"),
        (Fate::SoldOut, "an order that was sold out: charged, and refunded"),
    ];
    let mut found: Vec<(String, &str)> =
        some.iter().filter_map(|(fate, why)| Some((first(*fate)?.0.clone(), *why))).collect();
    let old =
        lines().into_iter().filter_map(|line| serde_json::from_str(line).ok()).find(is_unreadable);
    if let Some(id) = old.as_ref().and_then(|event: &Value| event["id"].as_str()) {
        found.push((id.to_owned(), "an order of the old shop, put right among the dead letters"));
    }
    Ok(found)
}

/// Whether it is in the old shop's words.
pub(super) fn is_unreadable(event: &Value) -> bool {
    event["data"].get("orderNo").is_some()
}

/// The event of the old shop in the words of the new one, as a person would write it who found it
/// among the dead letters.
pub(super) fn repaired(event: &Value) -> Value {
    let old = &event["data"];
    let lines = old["lines"].as_array().map(Vec::as_slice).unwrap_or_default();
    let items: Vec<Value> = lines
        .iter()
        .map(|line| json!({"sku": line["article"], "quantity": line["qty"], "price_cents": line["cents"]}))
        .collect();
    let cents = |line: &Value| {
        line["qty"].as_i64().unwrap_or_default() * line["cents"].as_i64().unwrap_or_default()
    };
    let mut repaired = event.clone();
    repaired["data"] = json!({
        "order_id": old["orderNo"],
        "customer": old["buyer"],
        "card": old["card"],
        "items": items,
        "total_cents": lines.iter().map(cents).sum::<i64>(),
        "currency": "EUR",
        "ship": old["shipping"] == "parcel",
    });
    repaired
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_holds_every_kind_of_order() {
        let (lines, all) = (lines(), all().expect("readable once repaired"));
        assert_eq!((lines.len(), all.len()), (200, 190));
        let fates = |fate: Fate| all.values().filter(|order| order.fate() == fate).count();
        assert!(fates(Fate::CardRefused) > 5 && fates(Fate::SoldOut) > 5);
        let events = lines.iter().map(|line| serde_json::from_str(line).expect("JSON"));
        assert_eq!(events.filter(is_unreadable).count(), 2);
    }
}
