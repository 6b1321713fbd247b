//! Which names, steps, filters and tests an expression reads: found in its text, since a definition
//! is checked before anything runs.

use minijinja::ErrorKind;

use super::tokens::{Token, tokens};
use super::{ENVIRONMENT, Expression};

/// All that one expression reads.
#[derive(Debug, Default)]
pub struct References {
    /// Its text.
    pub source: String,
    /// Names that it reads, such as `input` and `steps`.
    pub names: Vec<String>,
    /// Steps whose parts it reads.
    pub steps: Vec<Reference>,
    /// Variables of the environment that it reads.
    pub env: Vec<String>,
    /// What else is wrong with it.
    pub faults: Vec<String>,
}

/// A part of a step that an expression reads.
#[derive(Debug, PartialEq, Eq)]
pub struct Reference {
    /// The step.
    pub step: String,
    /// Whether the expression says what to do when it is not there (`… if …`, `default`).
    pub guarded: bool,
}

pub(super) fn of(expression: &Expression) -> References {
    let tokens: Vec<Token> =
        tokens(&expression.source).into_iter().map(|placed| placed.token).collect();
    let mut found = References { source: expression.source.clone(), ..References::default() };
    let mut names: Vec<String> =
        expression.compiled.undeclared_variables(false).into_iter().collect();
    names.retain(|name| ENVIRONMENT.globals().all(|(global, _)| global != name));
    names.sort_unstable();
    let guarded = tokens.iter().any(|token| {
        matches!(token, Token::Word(word) if word == "if" || word == "default" || word == "d")
    });
    for at in 0..tokens.len() {
        let after_dot = at > 0 && tokens[at - 1] == Token::Sign('.');
        match &tokens[at] {
            Token::Word(word) if !after_dot && word == "steps" => match member(&tokens[at + 1..]) {
                Some(step) => found.steps.push(Reference { step, guarded }),
                None => found.faults.push("name the step: `steps['name']`".to_owned()),
            },
            Token::Word(word) if !after_dot && word == "env" => match member(&tokens[at + 1..]) {
                Some(name) => found.env.push(name),
                None => found.faults.push("name the variable: `env.NAME`".to_owned()),
            },
            Token::Word(word)
                if at > 0
                    && tokens[at - 1] == Token::Sign('|')
                    && is_unknown(&format!("none|{word}"), ErrorKind::UnknownFilter) =>
            {
                found.faults.push(format!("there is no filter `{word}`"));
            }
            Token::Word(word) if word == "is" && !after_dot => {
                let test = tokens[at + 1..].iter().find_map(|token| match token {
                    Token::Word(word) if word != "not" => Some(word),
                    _ => None,
                });
                if let Some(test) = test
                    && is_unknown(&format!("none is {test}"), ErrorKind::UnknownTest)
                {
                    found.faults.push(format!("there is no test `{test}`"));
                }
            }
            _ => {}
        }
    }
    found.names = names;
    found
}

fn is_unknown(text: &str, kind: ErrorKind) -> bool {
    let compiled = ENVIRONMENT.compile_expression_owned(text.to_owned());
    let answer = compiled.and_then(|expression| expression.eval(()).map(|_| ()));
    answer.is_err_and(|error| error.kind() == kind)
}

/// What follows `steps` or `env`: `.name` or `['name']`.
fn member(after: &[Token]) -> Option<String> {
    match after {
        [Token::Sign('.'), Token::Word(name), ..] => Some(name.clone()),
        [Token::Sign('['), Token::Text(name), Token::Sign(']'), ..] => Some(name.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Template;
    use super::*;

    fn one(text: &str) -> References {
        Template::of_text(text).unwrap().references().pop().unwrap()
    }

    #[test]
    fn steps_are_found_in_both_ways_of_naming_them() {
        let found =
            one("{{ steps['charge-payment'].output.id ~ steps.reserve.output ~ input.steps }}");
        let names: Vec<&str> = found.steps.iter().map(|step| step.step.as_str()).collect();
        assert_eq!(names, ["charge-payment", "reserve"]);
        assert_eq!(found.names, ["input", "steps"]);
        assert!(found.faults.is_empty(), "{found:?}");
        assert!(one("{{ steps['a'].output if input.x else 1 }}").steps[0].guarded);
        assert!(!one("{{ steps[input.x].output }}").faults.is_empty());
        assert_eq!(one("{{ env.URL }}/x").env, ["URL"]);
    }

    #[test]
    fn unknown_filters_and_tests_are_told() {
        assert!(one("{{ input.a | upper | lenght }}").faults[0].contains("`lenght`"));
        assert!(one("{{ input.a is not odder }}").faults[0].contains("`odder`"));
        assert!(one("{{ input.a | default(1) is odd }}").faults.is_empty());
    }
}
