//! The words and signs of an expression, and where each stands.

/// A word, a number, a text or a sign.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Token {
    Word(String),
    Number,
    Text(String),
    Sign(char),
}

/// A token from `start` up to `end`, in bytes.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) token: Token,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// The tokens of an expression; minijinja has found that it is one, or will find that it is none.
pub(super) fn tokens(source: &str) -> Vec<Placed> {
    let mut tokens = Vec::new();
    let mut chars = source.char_indices().peekable();
    while let Some((start, first)) = chars.next() {
        let token = if first == '\'' || first == '"' {
            let mut text = String::new();
            while let Some((_, next)) = chars.next() {
                match next {
                    '\\' => text.extend(chars.next().map(|(_, next)| next)),
                    next if next == first => break,
                    next => text.push(next),
                }
            }
            Token::Text(text)
        } else if first.is_alphabetic() || first == '_' {
            let mut word = String::from(first);
            while let Some((_, next)) = chars.next_if(|(_, c)| c.is_alphanumeric() || *c == '_') {
                word.push(next);
            }
            Token::Word(word)
        } else if first.is_ascii_digit() {
            let mut last = first;
            // The sign of an exponent belongs to it: `1e+5`.
            while let Some((_, next)) = chars.next_if(|(_, c)| {
                c.is_alphanumeric()
                    || *c == '_'
                    || *c == '.'
                    || (matches!(c, '+' | '-') && matches!(last, 'e' | 'E'))
            }) {
                last = next;
            }
            Token::Number
        } else if first.is_whitespace() {
            continue;
        } else {
            Token::Sign(first)
        };
        let end = chars.peek().map_or(source.len(), |(at, _)| *at);
        tokens.push(Placed { token, start, end });
    }
    tokens
}
