//! JSON as it was written, in another layout: read into values and written again, large numbers
//! would be others.

/// Spaces of one level.
const INDENT: usize = 2;

/// Valid `json` with one member or item on a line.
pub(crate) fn indented(json: &str) -> String {
    let mut laid = Laid { text: String::with_capacity(json.len() * 2), depth: 0 };
    let mut tokens = tokens(json).peekable();
    while let Some(token) = tokens.next() {
        match token {
            "{" | "[" => {
                laid.text.push_str(token);
                if let Some(end) = tokens.next_if(|next| matches!(*next, "}" | "]")) {
                    laid.text.push_str(end);
                } else {
                    laid.depth += 1;
                    laid.line();
                }
            }
            "}" | "]" => {
                laid.depth = laid.depth.saturating_sub(1);
                laid.line();
                laid.text.push_str(token);
            }
            "," => {
                laid.text.push(',');
                laid.line();
            }
            ":" => laid.text.push_str(": "),
            _ => laid.text.push_str(token),
        }
    }
    laid.text
}

/// Valid `json` without white space between its parts.
pub(crate) fn compact(json: &str) -> String {
    tokens(json).collect()
}

struct Laid {
    text: String,
    depth: usize,
}

impl Laid {
    fn line(&mut self) {
        self.text.push('\n');
        self.text.extend(std::iter::repeat_n(' ', self.depth * INDENT));
    }
}

/// Punctuation, texts with their quotes, numbers and words.
fn tokens(json: &str) -> impl Iterator<Item = &str> {
    let mut rest = json;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        let length = match rest.as_bytes().first()? {
            b'{' | b'}' | b'[' | b']' | b',' | b':' => 1,
            b'"' => text_length(rest),
            _ => rest.find([',', ':', '}', ']', ' ', '\n', '\r', '\t']).unwrap_or(rest.len()),
        };
        let (token, after) = rest.split_at(length);
        rest = after;
        Some(token)
    })
}

/// Bytes of the text that `json` begins with, quotes included.
fn text_length(json: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in json.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str =
        "{\"n\" : 12345678901234567890123,\t\"a\":[1.10, {\"t\":\"ä\\\"},\"}, [] ],\n \"o\":{}}";

    #[test]
    fn numbers_and_texts_stay_as_they_were_written() {
        let lines = [
            "{",
            "  \"n\": 12345678901234567890123,",
            "  \"a\": [",
            "    1.10,",
            "    {",
            "      \"t\": \"ä\\\"},\"",
            "    },",
            "    []",
            "  ],",
            "  \"o\": {}",
            "}",
        ];
        assert_eq!(indented(JSON), lines.join("\n"));
        let compacted =
            "{\"n\":12345678901234567890123,\"a\":[1.10,{\"t\":\"ä\\\"},\"},[]],\"o\":{}}";
        assert_eq!(compact(JSON), compacted);
        assert_eq!(compact(&indented(JSON)), compacted);
        assert_eq!((indented(" 7 ").as_str(), indented("\"a b\"").as_str()), ("7", "\"a b\""));
    }
}
