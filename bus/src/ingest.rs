//! Messages on a broker that are no events: dead letters, from which they can be put right.

use schemas::Event;

use crate::log::INVALID_MESSAGE;
use crate::{Consumer, Delivery, DomainEvent, Failure};

/// Fails each of them for good, so that it is kept with what is wrong with it. Redriven after an
/// edit, the event that it should have been is published.
pub struct Ingest;

/// What stands for such a message, or what it was edited into.
#[derive(serde::Deserialize)]
pub struct Message(Event);

impl DomainEvent for Message {
    const TYPE: &'static str = INVALID_MESSAGE;

    fn read(event: &Event) -> Result<Message, Failure> {
        Ok(Message(event.clone()))
    }
}

impl Consumer for Ingest {
    type Event = Message;
    const NAME: &'static str = "ingest";

    async fn handle(
        &self,
        Message(event): Message,
        delivery: &mut Delivery<'_>,
    ) -> Result<(), Failure> {
        if event.kind.as_str() == INVALID_MESSAGE {
            return Err(Failure::permanent(format!("the message is no event: {}", faults(&event))));
        }
        if event.kind.is_reserved() {
            return Err(Failure::permanent("types under dev.skald. are Skald's own"));
        }
        delivery.tx().stage(&event).map_err(|error| Failure::permanent(error.to_string()))
    }
}

fn faults(event: &Event) -> String {
    #[derive(serde::Deserialize)]
    struct Told {
        errors: Vec<Fault>,
    }
    #[derive(serde::Deserialize)]
    struct Fault {
        pointer: String,
        detail: String,
    }
    let told: Result<Told, _> = event.data_as();
    let faults = told.map(|told| told.errors).unwrap_or_default();
    let lines: Vec<String> = faults
        .into_iter()
        .map(|fault| format!("{} {}", fault.pointer, fault.detail).trim().to_owned())
        .collect();
    lines.join("; ")
}
