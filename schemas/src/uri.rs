//! URIs and URI references, as far as RFC 3986 can be checked without resolving anything.

use crate::attribute::InvalidAttribute;

/// Says why `text` is not a URI (with a scheme), if it is not.
pub(crate) fn check(text: &str) -> Result<(), InvalidAttribute> {
    check_reference(text)?;
    match scheme(text) {
        Some(_) => Ok(()),
        None => Err(invalid("must be a URI with a scheme, such as https:")),
    }
}

/// Says why `text` is not a URI reference, if it is not.
pub(crate) fn check_reference(text: &str) -> Result<(), InvalidAttribute> {
    check_characters(text)?;
    let rest = match scheme(text) {
        Some(scheme) if is_scheme(scheme) => &text[scheme.len() + 1..],
        Some(_) => return Err(invalid("must start with a scheme before its first colon")),
        None => text,
    };
    let rest = match rest.strip_prefix("//") {
        Some(hierarchy) => {
            let end = hierarchy.find(['/', '?', '#']).unwrap_or(hierarchy.len());
            check_authority(&hierarchy[..end])?;
            &hierarchy[end..]
        }
        None => rest,
    };
    if rest.contains(['[', ']']) || rest.matches('#').count() > 1 {
        return Err(invalid("must be a URI reference: [, ] and a second # need percent-encoding"));
    }
    Ok(())
}

/// What stands before a colon that comes before any `/`, `?` or `#`.
fn scheme(text: &str) -> Option<&str> {
    let end = text.find([':', '/', '?', '#'])?;
    text[end..].starts_with(':').then(|| &text[..end])
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
}

fn check_characters(text: &str) -> Result<(), InvalidAttribute> {
    let bytes = text.as_bytes();
    for (at, &byte) in bytes.iter().enumerate() {
        let good = match byte {
            b'%' => bytes.get(at + 1..at + 3).is_some_and(|x| x.iter().all(u8::is_ascii_hexdigit)),
            _ => byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=".contains(&byte),
        };
        if !good {
            let odd = text.get(at..).and_then(|rest| rest.chars().next()).unwrap_or('%');
            return Err(InvalidAttribute(format!(
                "must be a URI reference: {odd:?} at byte {at} needs percent-encoding"
            )));
        }
    }
    Ok(())
}

fn check_authority(authority: &str) -> Result<(), InvalidAttribute> {
    let host_and_port = authority.rsplit_once('@').map_or(authority, |(_, after)| after);
    let (host, port) = match host_and_port.strip_prefix('[') {
        Some(literal) => match literal.split_once(']') {
            Some((host, port)) => (host, port.strip_prefix(':').or(port.is_empty().then_some(""))),
            None => return Err(invalid("must close the [ of its host")),
        },
        None => match host_and_port.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (host_and_port, Some("")),
        },
    };
    if host.contains(['[', ']']) || authority.matches('@').count() > 1 {
        return Err(invalid("must have a valid host"));
    }
    match port {
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => Ok(()),
        _ => Err(invalid("must have a number as its port")),
    }
}

fn invalid(why: &str) -> InvalidAttribute {
    InvalidAttribute(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_may_be_relative_and_uris_may_not() {
        for good in ["https://u@[::1]:80/a", "mailto:a@b", "urn:a:b"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for relative in ["/a", "a/b:c", "//host/a", "#x", "?q"] {
            assert!(check_reference(relative).is_ok(), "{relative}");
            assert!(check(relative).is_err(), "{relative}");
        }
    }

    #[test]
    fn brackets_hashes_schemes_and_ports_are_checked() {
        for bad in ["/a[0]", "#a#b", ":a", "1a:b", "http://h:x/", "http://[::1/", "http://[::1]x/"]
        {
            assert!(check_reference(bad).is_err(), "{bad}");
        }
    }
}
