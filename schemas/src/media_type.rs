//! Media types, as in `Content-Type` and `datacontenttype`.

use crate::attribute::InvalidAttribute;

/// Bytes at most.
const BYTES_MAX: usize = 255;

/// Says why `text` is not a media type such as `text/plain; charset=utf-8`, if it is not.
pub(crate) fn check(text: &str) -> Result<(), InvalidAttribute> {
    let bad = || InvalidAttribute("must be a media type, such as application/json".to_owned());
    if text.len() > BYTES_MAX {
        return Err(InvalidAttribute(format!("must be at most {BYTES_MAX} bytes long")));
    }
    let (essence, mut rest) = text.split_at(text.find(';').unwrap_or(text.len()));
    let (kind, subtype) = essence.trim_end_matches([' ', '\t']).split_once('/').ok_or_else(bad)?;
    if !is_token(kind) || !is_token(subtype) {
        return Err(bad());
    }
    while let Some(parameter) = rest.strip_prefix(';') {
        let parameter = parameter.trim_start_matches([' ', '\t']);
        if parameter.is_empty() {
            return Ok(()); // a trailing semicolon is common and means nothing
        }
        let (name, value) = parameter.split_once('=').ok_or_else(bad)?;
        let end = value_end(value).ok_or_else(bad)?;
        if !is_token(name) {
            return Err(bad());
        }
        rest = value[end..].trim_start_matches([' ', '\t']);
    }
    if rest.is_empty() { Ok(()) } else { Err(bad()) }
}

/// `type/subtype` without parameters, as it was written.
pub(crate) fn essence(text: &str) -> &str {
    text.split(';').next().unwrap_or_default().trim()
}

/// True for `…/json` and `…+json`.
pub(crate) fn is_json(text: &str) -> bool {
    let essence = essence(text);
    let subtype = essence.split_once('/').map_or("", |(_, subtype)| subtype);
    subtype.eq_ignore_ascii_case("json") || ends_with(subtype, "+json")
}

/// True for types whose bytes are text in UTF-8: `text/…` and XML, unless they name another
/// character set.
pub(crate) fn is_text(text: &str) -> bool {
    let essence = essence(text);
    let kind = essence.split_once('/').map_or("", |(kind, _)| kind);
    let textual = kind.eq_ignore_ascii_case("text")
        || ends_with(essence, "/xml")
        || ends_with(essence, "+xml");
    textual && is_utf8(text)
}

/// True when no character set is named, or UTF-8 (or ASCII, which is part of it) is.
pub(crate) fn is_utf8(text: &str) -> bool {
    let charset = text.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
    });
    let known = ["utf-8", "utf8", "us-ascii"];
    charset.is_none_or(|charset| known.iter().any(|known| charset.eq_ignore_ascii_case(known)))
}

fn ends_with(text: &str, end: &str) -> bool {
    let start = text.len().saturating_sub(end.len());
    text.get(start..).is_some_and(|tail| tail.eq_ignore_ascii_case(end))
}

fn is_token(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`{|}~".contains(&b);
    !text.is_empty() && text.bytes().all(good)
}

/// Where the token or quoted string that `text` starts with ends.
fn value_end(text: &str) -> Option<usize> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ' ', '\t']).unwrap_or(text.len());
        return is_token(&text[..end]).then_some(end);
    };
    let mut escaped = false;
    for (at, byte) in quoted.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at + 2),
            0..=0x1F | 0x7F => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_media_type_is_two_tokens_and_parameters() {
        for good in ["a/b", "text/plain; charset=utf-8", "a/b;c=\"d;\\\" e\" ; f=g", "a/b;"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "a/", "/b", "a/b/c", "a /b", "a/b; c", "a/b;c=", "a/b;c=\"d", "é/b"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn json_and_text_are_told_from_the_rest() {
        assert!(is_json("application/json; charset=utf-8") && is_json("application/Problem+JSON"));
        assert!(!is_json("application/jsonl") && !is_json("text/plain"));
        assert!(is_text("text/csv") && is_text("application/atom+xml"));
        assert!(!is_text("text/csv; charset=latin1") && !is_text("image/png"));
    }
}
