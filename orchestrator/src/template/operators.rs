//! Puts guards around the operators that make large values of small ones.
//!
//! minijinja repeats texts and lists up to 100 MB with `*`, writes out whatever stands beside `~` or
//! before `in`, and does so while it compiles where it can. So each operand of these is given to a
//! filter of `limits`: `a * b` becomes `a|_number * b|_number`. A filter binds tighter than any operator
//! of two operands, so the expression means the same.

use std::collections::BTreeSet;

use super::limits::{MULTIPLIES, NUMBER, WHOLE};
use super::tokens::{Placed, Token, tokens};

/// Values that one expression may join with `~` and `+`: what they give lives beside them.
const JOINS_MAX: usize = 64;
/// Words that stand between operands.
const WORDS: [&str; 7] = ["and", "or", "if", "else", "in", "not", "is"];

/// The expression with its operators guarded.
///
/// # Errors
/// It joins too much, or multiplies a text.
pub(super) fn guarded(source: &str) -> Result<String, String> {
    let tokens = tokens(source);
    let mut guards = BTreeSet::new();
    let mut joins = 0;
    for at in 0..tokens.len() {
        let Some((left, guard)) = guard_of(&tokens, at) else { continue };
        joins += usize::from(matches!(tokens[at].token, Token::Sign('~' | '+')));
        for end in [Some(left), last_of_operand(&tokens, at + 1)].into_iter().flatten() {
            if guard == NUMBER && matches!(tokens[end].token, Token::Text(_)) {
                return Err(MULTIPLIES.to_owned());
            }
            guards.insert((tokens[end].end, guard));
        }
    }
    if joins > JOINS_MAX {
        return Err(format!("joins more than {JOINS_MAX} values with `~` or `+`"));
    }
    let mut text = source.to_owned();
    for (at, guard) in guards.into_iter().rev() {
        text.insert_str(at, &format!("|{guard}"));
    }
    Ok(text)
}

/// The last token of the operand before the operator at this place, and the guard of that operator;
/// `None` when there is no operator that needs one.
fn guard_of(tokens: &[Placed], at: usize) -> Option<(usize, &'static str)> {
    let before = at.checked_sub(1)?;
    let (left, guard) = match &tokens[at].token {
        Token::Sign('*') if !is_power(tokens, at) => (before, NUMBER),
        Token::Sign('~' | '+') => (before, WHOLE),
        Token::Word(word) if word == "in" && is_between(tokens, before, "not") => {
            (before.checked_sub(1)?, WHOLE)
        }
        Token::Word(word) if word == "in" => (before, WHOLE),
        _ => return None,
    };
    // A `+` before a number and a `*` that unpacks a list have nothing before them.
    ends_operand(tokens, left).then_some((left, guard))
}

/// Whether an operand can end with the token at this place.
fn ends_operand(tokens: &[Placed], at: usize) -> bool {
    match &tokens[at].token {
        Token::Word(word) => {
            !WORDS.iter().any(|known| word == known && is_between(tokens, at, word))
        }
        Token::Number | Token::Text(_) | Token::Sign(')' | ']' | '}') => true,
        Token::Sign(_) => false,
    }
}

/// Whether this word stands there between operands, and is not the name of a member or of a filter.
fn is_between(tokens: &[Placed], at: usize, word: &str) -> bool {
    let named = at > 0 && matches!(tokens[at - 1].token, Token::Sign('.' | '|'));
    matches!(&tokens[at].token, Token::Word(found) if found == word) && !named
}

/// Whether this `*` is half of a `**`.
fn is_power(tokens: &[Placed], at: usize) -> bool {
    let star = |at: usize| tokens.get(at).filter(|placed| placed.token == Token::Sign('*'));
    let before = at.checked_sub(1).and_then(star).is_some_and(|p| p.end == tokens[at].start);
    before || star(at + 1).is_some_and(|p| p.start == tokens[at].end)
}

/// The last token of the operand that begins at `first`, with its members, calls and filters.
fn last_of_operand(tokens: &[Placed], first: usize) -> Option<usize> {
    let mut depth = 0_usize;
    let mut last = None;
    for at in first..tokens.len() {
        match &tokens[at].token {
            Token::Sign('(' | '[' | '{') => depth += 1,
            Token::Sign(')' | ']' | '}') if depth == 0 => break,
            Token::Sign(')' | ']' | '}') => depth -= 1,
            _ if depth > 0 => {}
            Token::Sign('+' | '-') if last.is_none() => continue,
            Token::Sign('.' | '|') => {}
            Token::Sign(_) => break,
            Token::Word(_) if !ends_operand(tokens, at) => break,
            Token::Word(_) | Token::Number | Token::Text(_) => {}
        }
        last = Some(at);
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_are_guarded_where_they_end() {
        for (source, expected) in [
            ("a.b * 2", "a.b|_number * 2|_number"),
            ("a * -b['x'](1)|round, c", "a|_number * -b['x'](1)|round|_number, c"),
            (
                "(a ~ 'x*y') ~ b if c else d",
                "(a|_whole ~ 'x*y'|_whole)|_whole ~ b|_whole if c else d",
            ),
            ("a + b * c - d", "a|_whole + b|_number|_whole * c|_number - d"),
            ("a not in b and c", "a|_whole not in b|_whole and c"),
            ("{'k': a.in + 1e+5}", "{'k': a.in|_whole + 1e+5|_whole}"),
            ("a ** 2 + [1, 2][0]", "a ** 2|_whole + [1, 2][0]|_whole"),
            ("f(*a, x=-1, y=+2) is in [1]", "f(*a, x=-1, y=+2) is in [1]"),
            ("a ~ (b)", "a|_whole ~ (b)|_whole"),
        ] {
            assert_eq!(guarded(source).as_deref(), Ok(expected));
        }
        for source in ["'a' * 9", "a.b * 'c'", "2 * 'a' * 3"] {
            assert_eq!(guarded(source), Err(MULTIPLIES.to_owned()), "{source}");
        }
        assert!(guarded(&vec!["a"; JOINS_MAX + 1].join("~")).is_ok());
        assert!(guarded(&vec!["a"; JOINS_MAX + 2].join("~")).is_err());
    }
}
