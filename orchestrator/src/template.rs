//! Templates: JSON whose strings may hold expressions, `{{ input.order_id }}`.
//!
//! A string that is one expression keeps its type; one with text around it becomes text. The
//! expressions are those of minijinja, without statements. Each is compiled once, when a definition
//! is read, and tells which steps it reads (`references`), so that a definition can be checked
//! without running it.

mod limits;
mod operators;
mod references;
mod scope;
mod tokens;
mod value;

pub use references::{Reference, References};
pub use scope::Scope;
pub(crate) use scope::{Absent, of_json};
use value::size_of;
pub use value::{InvalidValue, VALUE_LEVELS_MAX, check_value};

use std::sync::LazyLock;

use minijinja::{Environment, ErrorKind, UndefinedBehavior};
use serde_json::{Map, Value};

/// Work that one expression may do, in instructions of minijinja.
const FUEL: u64 = 200_000;
/// Largest value that an expression may give, as JSON: 1 MiB.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;

pub(crate) static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    limits::set(&mut environment);
    environment
});

/// JSON with expressions in it.
#[derive(Debug)]
pub enum Template {
    /// Without expressions.
    Constant(Value),
    /// One expression.
    Expression(Expression),
    /// Text with expressions in between.
    Text(Vec<Piece>),
    /// A list.
    List(Vec<Template>),
    /// An object.
    Map(Vec<(String, Template)>),
}

/// A part of a text.
#[derive(Debug)]
pub enum Piece {
    /// As it stands.
    Literal(String),
    /// What it gives is put in.
    Expression(Expression),
}

/// One expression.
#[derive(Debug)]
pub struct Expression {
    source: String,
    compiled: minijinja::Expression<'static, 'static>,
}

/// An expression gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the expression `{{{{ {source_text} }}}}`: {reason}")]
pub struct EvalError {
    source_text: String,
    reason: String,
}

impl Template {
    /// Compiles a string; what is wrong with it otherwise.
    ///
    /// # Errors
    /// Not an expression, a statement, or something without its end.
    pub fn of_text(text: &str) -> Result<Template, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find("{{") {
            let (literal, after) = rest.split_at(at);
            let Some(end) = end_of_expression(&after[2..]) else {
                return Err("`{{` without its `}}`".to_owned());
            };
            if !literal.is_empty() {
                pieces.push(Piece::Literal(literal.to_owned()));
            }
            pieces.push(Piece::Expression(Expression::compile(after[2..2 + end].trim())?));
            rest = &after[end + 4..];
        }
        if text.contains("{%") {
            return Err("statements (`{% … %}`) are not known here".to_owned());
        }
        if pieces.is_empty() {
            return Ok(Template::Constant(Value::String(text.to_owned())));
        }
        if !rest.is_empty() {
            pieces.push(Piece::Literal(rest.to_owned()));
        }
        Ok(match <[Piece; 1]>::try_from(pieces) {
            Ok([Piece::Expression(expression)]) => Template::Expression(expression),
            Ok(one) => Template::Text(one.into()),
            Err(pieces) => Template::Text(pieces),
        })
    }

    /// A constant.
    #[must_use]
    pub fn constant(&self) -> Option<&Value> {
        match self {
            Template::Constant(value) => Some(value),
            _ => None,
        }
    }

    /// Fills it in.
    ///
    /// # Errors
    /// An expression reads what is not there, does too much, or gives what is no JSON; or all of it
    /// is larger than [`VALUE_BYTES_MAX`] or deeper than [`VALUE_LEVELS_MAX`].
    pub fn render(&self, scope: &Scope) -> Result<Value, EvalError> {
        let value = self.fill(scope, &mut { VALUE_BYTES_MAX })?;
        let fail = |error: InvalidValue| {
            let reason = format!("gives what {error}");
            EvalError { source_text: self.first_source(), reason }
        };
        value::check_levels(&value).map_err(fail)?;
        Ok(value)
    }

    fn too_large(&self) -> EvalError {
        EvalError { source_text: self.first_source(), reason: told_too_large() }
    }

    /// Fills it in and reads it as a condition: false are `false`, `null`, 0 and what is empty.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn holds(&self, scope: &Scope) -> Result<bool, EvalError> {
        Ok(match self.render(scope)? {
            Value::Null => false,
            Value::Bool(truth) => truth,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::String(text) => !text.is_empty(),
            Value::Array(items) => !items.is_empty(),
            Value::Object(members) => !members.is_empty(),
        })
    }

    /// Fills it in and reads it as text.
    ///
    /// # Errors
    /// As [`Template::render`]; or it gives a list or an object.
    pub fn text(&self, scope: &Scope) -> Result<String, EvalError> {
        match self.render(scope)? {
            Value::String(text) => Ok(text),
            Value::Array(_) | Value::Object(_) => Err(EvalError {
                source_text: self.first_source(),
                reason: "must give text, not a list or an object".to_owned(),
            }),
            plain => Ok(plain.to_string()),
        }
    }

    /// All that its expressions read.
    #[must_use]
    pub fn references(&self) -> Vec<References> {
        let mut found = Vec::new();
        self.visit(&mut |expression| found.push(references::of(expression)));
        found
    }

    fn visit<'t>(&'t self, see: &mut impl FnMut(&'t Expression)) {
        match self {
            Template::Constant(_) => {}
            Template::Expression(expression) => see(expression),
            Template::Text(pieces) => {
                for piece in pieces {
                    if let Piece::Expression(expression) = piece {
                        see(expression);
                    }
                }
            }
            Template::List(items) => items.iter().for_each(|item| item.visit(see)),
            Template::Map(members) => members.iter().for_each(|(_, value)| value.visit(see)),
        }
    }

    fn first_source(&self) -> String {
        let mut first = None;
        self.visit(&mut |expression| {
            first.get_or_insert(&expression.source);
        });
        first.cloned().unwrap_or_default()
    }

    /// Fills it in while there is room, counted as [`size_of`] does: what is too large is never all
    /// there.
    fn fill(&self, scope: &Scope, left: &mut usize) -> Result<Value, EvalError> {
        let own = match self {
            Template::Constant(value) => size_of(value),
            Template::List(items) => 2 + items.len(),
            Template::Map(members) => {
                2 + members.iter().map(|(key, _)| key.len() + 4).sum::<usize>()
            }
            Template::Expression(_) | Template::Text(_) => 0,
        };
        if !limits::take(left, own) {
            return Err(self.too_large());
        }
        Ok(match self {
            Template::Constant(value) => value.clone(),
            Template::Expression(expression) => expression.eval(scope, left)?,
            Template::Text(pieces) => Value::String(self.fill_text(pieces, scope, left)?),
            Template::List(items) => {
                let items = items.iter().map(|item| item.fill(scope, left));
                Value::Array(items.collect::<Result<_, _>>()?)
            }
            Template::Map(members) => {
                let mut pair = |(key, value): &(String, Template)| {
                    Ok::<_, EvalError>((key.clone(), value.fill(scope, left)?))
                };
                Value::Object(members.iter().map(&mut pair).collect::<Result<Map<_, _>, _>>()?)
            }
        })
    }

    fn fill_text(
        &self,
        pieces: &[Piece],
        scope: &Scope,
        left: &mut usize,
    ) -> Result<String, EvalError> {
        let mut text = String::new();
        for piece in pieces {
            match piece {
                Piece::Literal(literal) => text.push_str(literal),
                Piece::Expression(expression) => match expression.eval(scope, &mut left.clone())? {
                    Value::String(value) => text.push_str(&value),
                    Value::Null => {}
                    value => text.push_str(&value.to_string()),
                },
            }
            if text.len() + 2 > *left {
                return Err(self.too_large());
            }
        }
        limits::take(left, text.len() + 2);
        Ok(text)
    }
}

impl Expression {
    fn compile(source: &str) -> Result<Expression, String> {
        let told = |why: String| format!("`{{{{ {source} }}}}` is no expression: {why}");
        let guarded = operators::guarded(source).map_err(told)?;
        let compiled = ENVIRONMENT.compile_expression_owned(guarded);
        let compiled = compiled.map_err(|error| told(self::told(&error)))?;
        Ok(Expression { source: source.to_owned(), compiled })
    }

    /// Its text.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    fn eval(&self, scope: &Scope, left: &mut usize) -> Result<Value, EvalError> {
        let fail = |reason: String| EvalError { source_text: self.source.clone(), reason };
        let value = self.compiled.eval(scope.value()).map_err(|error| fail(told(&error)))?;
        scope::to_json(&value, left).map_err(fail)
    }
}

/// Where the `}}` stands that ends an expression: not inside a string of it.
fn end_of_expression(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut braces = 0_usize;
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(_), b'\\') => at += 1,
            (Some(open), byte) if open == byte => quote = None,
            (Some(_), _) => {}
            (None, byte @ (b'\'' | b'"')) => quote = Some(byte),
            (None, b'{') => braces += 1,
            (None, b'}') if braces > 0 => braces -= 1,
            (None, b'}') if bytes.get(at + 1) == Some(&b'}') => return Some(at),
            (None, _) => {}
        }
        at += 1;
    }
    None
}

fn told_too_large() -> String {
    format!("gives more than {VALUE_BYTES_MAX} bytes")
}

/// An error of minijinja for people.
fn told(error: &minijinja::Error) -> String {
    match (error.kind(), error.detail()) {
        (ErrorKind::UndefinedError, None) => "reads what is not there".to_owned(),
        (ErrorKind::UndefinedError, Some(detail)) => format!("reads what is not there: {detail}"),
        (ErrorKind::OutOfFuel, _) => "does too much".to_owned(),
        (kind, None) => kind.to_string(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scope() -> Scope {
        Scope::new(&json!({"total": 5, "items": ["a", "b"], "name": "x", "none": null}))
    }

    fn render(text: &str) -> Result<Value, String> {
        let template = Template::of_text(text)?;
        template.render(&scope()).map_err(|error| error.to_string())
    }

    #[test]
    fn one_expression_keeps_its_type_and_text_around_makes_text() {
        assert_eq!(render("{{ input.total }}"), Ok(json!(5)));
        assert_eq!(render("{{ input.items }}"), Ok(json!(["a", "b"])));
        assert_eq!(render("{{ input.none }}"), Ok(json!(null)));
        assert_eq!(render("{{ input.total > 4 }}"), Ok(json!(true)));
        assert_eq!(render("{{ input.total * 1.5 }}"), Ok(json!(7.5)));
        assert_eq!(render("n={{ input.total }}, {{input.name}}"), Ok(json!("n=5, x")));
        assert_eq!(render("plain"), Ok(json!("plain")));
        assert_eq!(render("{{ {'a': {'b': '}}'}} }}"), Ok(json!({"a": {"b": "}}"}})));
    }

    #[test]
    fn reading_what_is_not_there_is_an_error_that_names_the_expression() {
        let error = render("{{ input.missing.id }}").unwrap_err();
        assert!(error.contains("input.missing.id") && error.contains("not there"), "{error}");
        assert!(render("{{ input.missing }}").is_err());
        assert!(render("{{ missing }}").is_err());
    }

    #[test]
    fn what_is_no_expression_is_refused_when_it_is_read() {
        for text in ["{{ a", "{{ }}", "{{ 1 + }}", "{% if x %}y{% endif %}"] {
            assert!(Template::of_text(text).is_err(), "{text}");
        }
    }

    #[test]
    fn expressions_that_do_too_much_end() {
        let deep = "{{ range(100000) | map('string') | join | length }}";
        let error = render(deep);
        assert!(error.is_ok() || error.unwrap_err().contains("too much"));
    }
}
