//! YAML and JSON as a tree that knows where each part stands, so that every fault can be told with
//! its line.

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};
use schemas::Faults;
use serde_json::{Map, Number, Value};

/// Largest source of a definition: 256 KiB.
pub const SOURCE_BYTES_MAX: usize = 256 * 1024;
/// Deepest nesting.
const DEPTH_MAX: usize = 64;

/// A part of a document and where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    /// The line, from 1; 0 where there is no source.
    pub line: usize,
    /// What is there.
    pub tree: Tree,
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum Tree {
    /// Null, a truth value or a number.
    Plain(Value),
    /// A string.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order of the source; no key twice.
    Map(Vec<(String, Node)>),
}

impl Node {
    /// Reads YAML 1.2, of which JSON is a part. One document, without anchors, aliases and tags.
    ///
    /// # Errors
    /// What is wrong, with its line.
    pub fn of_yaml(source: &str) -> Result<Node, Faults> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(Faults::one("", format!("must be at most {SOURCE_BYTES_MAX} bytes long")));
        }
        let mut builder =
            Builder { parser: Parser::new_from_str(source), faults: Faults::default() };
        let node = builder.document();
        builder.faults.or(())?;
        node.map_err(|stop| Faults::one("", stop))
    }

    /// Reads JSON; where possible with lines.
    ///
    /// # Errors
    /// What is wrong.
    pub fn of_json(source: &str) -> Result<Node, Faults> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(Faults::one("", format!("must be at most {SOURCE_BYTES_MAX} bytes long")));
        }
        let value: Value = serde_json::from_str(source)
            .map_err(|error| Faults::one("", format!("not valid JSON: {error}")))?;
        // Some escapes of JSON are not known to YAML; then there are no lines.
        match Node::of_yaml(source) {
            Ok(node) if node.to_json() == value => Ok(node),
            _ => Ok(Node::of_value(&value)),
        }
    }

    /// A tree without lines.
    #[must_use]
    pub fn of_value(value: &Value) -> Node {
        let tree = match value {
            Value::String(text) => Tree::Text(text.clone()),
            Value::Array(items) => Tree::List(items.iter().map(Node::of_value).collect()),
            Value::Object(members) => {
                let pair = |(key, value): (&String, &Value)| (key.clone(), Node::of_value(value));
                Tree::Map(members.iter().map(pair).collect())
            }
            plain => Tree::Plain(plain.clone()),
        };
        Node { line: 0, tree }
    }

    /// The same without lines.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match &self.tree {
            Tree::Plain(value) => value.clone(),
            Tree::Text(text) => Value::String(text.clone()),
            Tree::List(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            Tree::Map(members) => {
                let pair = |(key, node): &(String, Node)| (key.clone(), node.to_json());
                Value::Object(members.iter().map(pair).collect::<Map<_, _>>())
            }
        }
    }
}

struct Builder<'s> {
    parser: Parser<'s, StrInput<'s>>,
    faults: Faults,
}

impl<'s> Builder<'s> {
    fn next(&mut self) -> Result<(Event<'s>, Span), String> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                Err(format!("line {}: not valid YAML: {}", error.marker().line(), error.info()))
            }
            None => Err("it ends in the middle".to_owned()),
        }
    }

    fn document(&mut self) -> Result<Node, String> {
        loop {
            match self.next()? {
                (Event::StreamStart | Event::DocumentStart(_) | Event::Nothing, _) => {}
                (Event::StreamEnd, _) => return Err("it is empty".to_owned()),
                (event, span) => {
                    let node = self.node(event, span, "", 0)?;
                    return match (self.next()?, self.next()?) {
                        ((Event::DocumentEnd, _), (Event::StreamEnd, _)) => Ok(node),
                        _ => Err("there must be one document only".to_owned()),
                    };
                }
            }
        }
    }

    fn node(
        &mut self,
        event: Event<'s>,
        span: Span,
        path: &str,
        depth: usize,
    ) -> Result<Node, String> {
        let line = span.start.line();
        if depth > DEPTH_MAX {
            return Err(format!("line {line}: nested deeper than {DEPTH_MAX}"));
        }
        let tree = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.plain_only(line, path, anchor, tag.is_some());
                match style {
                    ScalarStyle::Plain => plain(&text),
                    _ => Tree::Text(text.into_owned()),
                }
            }
            Event::SequenceStart(anchor, tag) => {
                self.plain_only(line, path, anchor, tag.is_some());
                self.list(path, depth)?
            }
            Event::MappingStart(anchor, tag) => {
                self.plain_only(line, path, anchor, tag.is_some());
                self.map(path, depth)?
            }
            Event::Alias(_) => {
                self.faults.push(path, format!("line {line}: aliases are not allowed"));
                Tree::Plain(Value::Null)
            }
            _ => return Err(format!("line {line}: not valid YAML")),
        };
        Ok(Node { line, tree })
    }

    fn plain_only(&mut self, line: usize, path: &str, anchor: usize, tag: bool) {
        if anchor != 0 || tag {
            self.faults.push(path, format!("line {line}: anchors and tags are not allowed"));
        }
    }

    fn list(&mut self, path: &str, depth: usize) -> Result<Tree, String> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Tree::List(items)),
                (event, span) => {
                    let path = format!("{path}/{}", items.len());
                    items.push(self.node(event, span, &path, depth + 1)?);
                }
            }
        }
    }

    fn map(&mut self, path: &str, depth: usize) -> Result<Tree, String> {
        let mut members: Vec<(String, Node)> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let line = span.start.line();
            let key = match event {
                Event::MappingEnd => return Ok(Tree::Map(members)),
                Event::Scalar(key, ..) => key.into_owned(),
                _ => return Err(format!("line {line}: a key must be a string")),
            };
            let path = format!("{path}/{}", escape(&key));
            let (event, span) = self.next()?;
            let value = self.node(event, span, &path, depth + 1)?;
            if members.iter().any(|(known, _)| *known == key) {
                self.faults.push(path, format!("line {line}: is there twice"));
            } else {
                members.push((key, value));
            }
        }
    }
}

/// A name as a part of a JSON pointer.
pub(crate) fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// A scalar without quotes, by the core schema of YAML 1.2.
fn plain(text: &str) -> Tree {
    let value = match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        text => match number(text) {
            Some(number) => Value::Number(number),
            None => return Tree::Text(text.to_owned()),
        },
    };
    Tree::Plain(value)
}

fn number(text: &str) -> Option<Number> {
    if let Ok(whole) = text.parse::<i64>() {
        return Some(whole.into());
    }
    let first = text.trim_start_matches(['-', '+', '.']).bytes().next()?;
    let float = text.parse::<f64>().ok().filter(|_| first.is_ascii_digit())?;
    Number::from_f64(float)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_and_json_give_the_same_tree() {
        let yaml = "a: 1\nb: [x, true, ~, 1.5, '7']\nc:\n  d: { e: f }\n";
        let json = r#"{"a": 1, "b": ["x", true, null, 1.5, "7"], "c": {"d": {"e": "f"}}}"#;
        assert_eq!(Node::of_yaml(yaml).unwrap().to_json(), Node::of_json(json).unwrap().to_json());
        assert!(Node::of_json(r#"{"a": "\ud83d\ude00"}"#).is_ok());
    }

    #[test]
    fn what_could_blow_up_is_refused_with_its_line() {
        let told = |text: &str| Node::of_yaml(text).unwrap_err().to_string();
        assert!(told("a: &x 1\nb: *x\n").contains("line 2: aliases"), "{}", told("a: &x 1\nb: *x"));
        assert!(told("a: 1\na: 2\n").contains("/a: line 2: is there twice"));
        assert!(told("a: [1\n").contains("line"));
        assert!(told("").contains("empty"));
        assert!(told(&"[".repeat(200)).contains("line"));
        assert!(told("a: 1\n---\nb: 2\n").contains("one document"));
    }
}
