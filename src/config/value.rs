//! A value as some layer wrote it, before it is a setting.

use super::Origin;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// A value as some layer wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// From the environment or a flag, where everything is text and lists have commas.
    Plain(String),
    /// A string of a file.
    Text(String),
    /// A whole number of a file.
    Number(i64),
    /// A list of a file.
    List(Vec<Value>),
    /// Something of a file that no setting is, by its name: `a boolean`.
    Other(&'static str),
}

impl Value {
    /// As text.
    pub(super) fn text(&self) -> Result<&str, String> {
        match self {
            Value::Plain(text) | Value::Text(text) => Ok(text),
            Value::Number(_) | Value::List(_) | Value::Other(_) => {
                Err(format!("must be a string, not {}", self.kind()))
            }
        }
    }

    /// As text that is not empty.
    pub(super) fn filled(&self) -> Result<&str, String> {
        match self.text()? {
            "" => Err("must not be empty".to_owned()),
            text => Ok(text),
        }
    }

    /// As a whole number from 1 up.
    pub(super) fn count(&self) -> Result<usize, String> {
        let number = match self {
            Value::Number(number) => usize::try_from(*number).ok(),
            Value::Plain(text) => text.parse().ok(),
            Value::Text(_) | Value::List(_) | Value::Other(_) => None,
        };
        number.filter(|&n| n > 0).ok_or_else(|| "must be a whole number from 1 up".to_owned())
    }

    /// As a list of texts.
    pub(super) fn list(&self) -> Result<Vec<&str>, String> {
        match self {
            Value::Plain(text) => {
                Ok(text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect())
            }
            Value::List(items) => items.iter().map(Value::text).collect(),
            Value::Text(_) | Value::Number(_) | Value::Other(_) => {
                Err(format!("must be a list of strings, not {}", self.kind()))
            }
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Value::Plain(_) | Value::Text(_) => "a string",
            Value::Number(_) => "a number",
            Value::List(_) => "a list",
            Value::Other(kind) => kind,
        }
    }
}
