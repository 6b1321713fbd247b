//! URLs without the password in them.

use serde::Serializer;

use super::secret::HIDDEN;

/// `url` with the password between `user:` and `@` hidden, and the values of parameters whose name
/// speaks of one.
pub(super) fn url(url: &str) -> String {
    let (before, query) = match url.split_once('?') {
        Some((before, query)) => (before, Some(query)),
        None => (url, None),
    };
    let mut shown = user_info(before);
    if let Some(query) = query {
        let parameters: Vec<String> = query.split('&').map(parameter).collect();
        shown = format!("{shown}?{}", parameters.join("&"));
    }
    shown
}

fn user_info(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    // The last `@` counts: an unescaped one in a password must not show what follows it.
    let Some((user, host)) = rest.rsplit_once('@') else { return url.to_owned() };
    match user.split_once(':') {
        Some((name, _)) => format!("{scheme}://{name}:{HIDDEN}@{host}"),
        None if scheme == "nats" || scheme == "tls" => format!("{scheme}://{HIDDEN}@{host}"), // a token
        None => url.to_owned(),
    }
}

fn parameter(text: &str) -> String {
    match text.split_once('=') {
        Some((name, _)) if name.to_ascii_lowercase().contains("password") => {
            format!("{name}={HIDDEN}")
        }
        _ => text.to_owned(),
    }
}

pub(super) fn serialize<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&url(text))
}

pub(super) fn serialize_some<S: Serializer>(
    text: &Option<String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match text {
        Some(text) => serializer.serialize_some(&url(text)),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hidden_and_the_rest_is_shown() {
        for (text, shown) in [
            ("postgres://app:p@ss/w@db:5432/skald", "postgres://app:(hidden)@db:5432/skald"),
            (
                "postgres://app@db/skald?password=x&a=b",
                "postgres://app@db/skald?password=(hidden)&a=b",
            ),
            ("nats://token@broker:4222", "nats://(hidden)@broker:4222"),
            ("sqlite://.skald/state.db", "sqlite://.skald/state.db"),
            ("embedded:.skald", "embedded:.skald"),
        ] {
            assert_eq!(url(text), shown);
        }
    }
}
