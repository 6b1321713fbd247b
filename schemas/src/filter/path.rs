//! Where in JSON data a filter looks.

use serde_json::Value;

/// Bytes of a path at most.
const BYTES_MAX: usize = 256;

/// Where in JSON data a filter looks: `$.total`, `items[0].sku`, `['a key']`, `$`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Path {
    text: String,
    segments: Vec<Segment>,
}

#[derive(Clone, Debug, PartialEq)]
enum Segment {
    Key(String),
    Index(usize),
}

impl Path {
    /// Reads a path, or says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Path, String> {
        if text.is_empty() || text.len() > BYTES_MAX {
            return Err(format!("must be a path of 1 to {BYTES_MAX} bytes"));
        }
        let wrong = || "must be a path, such as $.items[0].sku or total".to_owned();
        let mut segments = Vec::new();
        let mut rest = match text.strip_prefix('$') {
            Some(rest) => rest,
            None => {
                let (segment, rest) = if text.starts_with('[') { bracket(text) } else { key(text) }
                    .ok_or_else(wrong)?;
                segments.push(segment);
                rest
            }
        };
        while !rest.is_empty() {
            let step = rest.strip_prefix('.').map_or_else(|| bracket(rest), key);
            let (segment, after) = step.ok_or_else(wrong)?;
            segments.push(segment);
            rest = after;
        }
        Ok(Path { text: text.to_owned(), segments })
    }

    /// The path as it was written.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// What the path leads to, if anything.
    pub(super) fn find<'a>(&self, data: &'a Value) -> Option<&'a Value> {
        self.segments.iter().try_fold(data, |value, segment| match segment {
            Segment::Key(key) => value.as_object()?.get(key),
            Segment::Index(index) => value.as_array()?.get(*index),
        })
    }
}

/// A key that ends before the next `.` or `[`, and what follows.
fn key(text: &str) -> Option<(Segment, &str)> {
    let (key, rest) = text.split_at(text.find(['.', '[', ']']).unwrap_or(text.len()));
    (!key.is_empty()).then(|| (Segment::Key(key.to_owned()), rest))
}

/// `[0]`, `['key']` or `["key"]`, and what follows.
fn bracket(text: &str) -> Option<(Segment, &str)> {
    let inside = text.strip_prefix('[')?;
    for (open, close) in [('\'', "']"), ('"', "\"]")] {
        if let Some(quoted) = inside.strip_prefix(open) {
            let (key, rest) = quoted.split_once(close)?;
            return Some((Segment::Key(key.to_owned()), rest));
        }
    }
    let (index, rest) = inside.split_once(']')?;
    let is_number = !index.is_empty() && index.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| index.parse().ok()).flatten().map(|index| (Segment::Index(index), rest))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_to_members_and_elements() {
        let data = json!({"a": [{"b c": 1}], "": {"$x": 2}});
        let find = |path: &str| Path::parse(path).unwrap().find(&data).cloned();
        assert_eq!(find("$.a[0]['b c']"), Some(json!(1)));
        assert_eq!(find("a[0][\"b c\"]"), Some(json!(1)));
        assert_eq!(find("[''].$x"), Some(json!(2)));
        assert_eq!(find("$"), Some(data.clone()));
        assert_eq!(find("a.b"), None);
        assert_eq!(find("a[1]"), None);
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for bad in ["", "$.", ".a", "a..b", "a[", "a[-1]", "a[x]", "$a", "a]", "a[0]b", "a['b]"] {
            assert!(Path::parse(bad).is_err(), "{bad}");
        }
        assert!(Path::parse(&"a".repeat(257)).is_err());
        assert!(Path::parse("a[99999999999999999999]").is_err());
    }
}
