//! An event in an answer, with its data as it was written.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::output::text;
use crate::pages::written;

/// An event that the server shows; other members are left aside.
#[derive(Deserialize)]
pub(super) struct Shown<'a> {
    #[serde(borrow)]
    event: &'a RawValue,
}

/// A page of them.
#[derive(Deserialize)]
pub(super) struct Page<'a> {
    #[serde(borrow)]
    pub(super) items: Vec<Shown<'a>>,
}

#[derive(Deserialize)]
struct Carried<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
}

impl Shown<'_> {
    /// The whole event, one member on a line: read as values, large numbers would be others.
    pub(super) fn event(&self) -> String {
        written::indented(self.event.get())
    }

    /// The data for people, on one line; nothing as `-`.
    pub(super) fn data(&self) -> String {
        let Ok(carried) = serde_json::from_str::<Carried<'_>>(self.event.get()) else {
            return "-".to_owned();
        };
        match (carried.data, carried.data_base64) {
            (Some(data), _) if data.get().starts_with(['{', '[']) => written::compact(data.get()),
            (Some(data), _) if data.get().starts_with('"') => {
                text(&serde_json::from_str(data.get()).unwrap_or_default())
            }
            (Some(data), _) => data.get().to_owned(),
            (None, Some(base64)) => format!("base64 {base64}"),
            (None, None) => "-".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(event: &str) -> String {
        let shown = format!("{{\"seq\":1,\"event\":{event}}}");
        serde_json::from_str::<Shown<'_>>(&shown).unwrap().data()
    }

    #[test]
    fn data_is_shown_as_it_was_written() {
        let number = "12345678901234567890123";
        assert_eq!(
            data(&format!("{{\"data\": {{ \"n\": {number} }}}}")),
            format!("{{\"n\":{number}}}")
        );
        assert_eq!(data(&format!("{{\"data\":{number}}}")), number);
        assert_eq!(data("{\"data\":\"a b\"}"), "a b");
        assert_eq!(data("{\"data_base64\":\"AAEC\"}"), "base64 AAEC");
        assert_eq!(data("{}"), "-");
    }
}
