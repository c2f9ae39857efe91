//! YAML and JSON text → a tree of values that know their positions. Every bound on hostile input is here (BAD_INPUTS 17).
//!
//! Scalars follow the YAML 1.2 core schema, but for digits with a leading zero, which YAML 1.1 readers take for octal: they stay
//! text, so that a number field refuses them instead of meaning two things.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Number, Value};

use crate::diagnostic::Code;
use crate::path::{FieldPath, Step};

/// Longest text in bytes: etcd and Kubernetes bound a resource near it too.
pub const MAX_TEXT: usize = 1024 * 1024;
/// Most documents in one text.
pub const MAX_DOCUMENTS: usize = 1000;
/// Deepest nesting; real resources stay below 12.
pub const MAX_DEPTH: usize = 64;
/// Cost of one document's tree after alias expansion, in bytes of text plus 64 per value: stops a text whose aliases
/// multiply, at a memory of some tens of MiB.
pub const MAX_COST: usize = 16 * 1024 * 1024;
/// A [`Node`] with its place in the tree, in bytes.
const NODE_COST: usize = 64;

/// Line and column from 1; both 0 where there is no text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where its text begins.
    pub position: Position,
    /// The value.
    pub value: NodeValue,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeValue {
    /// Nothing.
    Null,
    /// Yes or no.
    Bool(bool),
    /// A number.
    Number(Number),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// Fields in the order of the text; no key twice.
    Map(Vec<Entry>),
}

/// One field of a mapping.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub position: Position,
    /// The value.
    pub node: Node,
}

/// Why a document has no tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextError {
    /// Where.
    pub position: Position,
    /// What kind of fault.
    pub code: Code,
    /// What is wrong.
    pub message: String,
}

impl Node {
    fn new(value: NodeValue) -> Self {
        Self { position: Position::default(), value }
    }

    /// A tree without positions.
    #[must_use]
    pub fn from_json(value: &Value) -> Self {
        Self::new(match value {
            Value::Null => NodeValue::Null,
            Value::Bool(b) => NodeValue::Bool(*b),
            Value::Number(n) => NodeValue::Number(n.clone()),
            Value::String(s) => NodeValue::Text(s.clone()),
            Value::Array(items) => NodeValue::List(items.iter().map(Self::from_json).collect()),
            Value::Object(map) => NodeValue::Map(
                map.iter()
                    .map(|(key, value)| Entry {
                        key: key.clone(),
                        position: Position::default(),
                        node: Self::from_json(value),
                    })
                    .collect(),
            ),
        })
    }

    /// As JSON. A field that is null is left out: in resources it means "absent".
    #[must_use]
    pub fn to_json(&self) -> Value {
        match &self.value {
            NodeValue::Null => Value::Null,
            NodeValue::Bool(b) => Value::Bool(*b),
            NodeValue::Number(n) => Value::Number(n.clone()),
            NodeValue::Text(s) => Value::String(s.clone()),
            NodeValue::List(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            NodeValue::Map(entries) => Value::Object(
                entries
                    .iter()
                    .filter(|e| !e.node.is_null())
                    .map(|e| (e.key.clone(), e.node.to_json()))
                    .collect::<Map<_, _>>(),
            ),
        }
    }

    /// Whether it is nothing.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.value == NodeValue::Null
    }

    /// The fields, if it is a mapping.
    #[must_use]
    pub fn entries(&self) -> Option<&[Entry]> {
        match &self.value {
            NodeValue::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// The value of a field, if it is a mapping that has it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entries()?.iter().find(|e| e.key == key).map(|e| &e.node)
    }

    /// The text, if it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            NodeValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The position of the value at `path`, or of the nearest thing around it that exists.
    #[must_use]
    pub fn position_of(&self, path: &FieldPath) -> Position {
        let mut node = self;
        for step in path.steps() {
            let next = match (step, &node.value) {
                (Step::Key(key), NodeValue::Map(_)) => node.get(key),
                (Step::Index(index), NodeValue::List(items)) => items.get(*index),
                _ => None,
            };
            match next {
                Some(found) => node = found,
                None => break,
            }
        }
        node.position
    }

    /// What it is, for messages.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.value {
            NodeValue::Null => "nothing".to_owned(),
            NodeValue::Bool(b) => format!("`{b}`, a boolean"),
            NodeValue::Number(n) => format!("{n}, a number"),
            NodeValue::Text(_) => "text".to_owned(),
            NodeValue::List(_) => "a list".to_owned(),
            NodeValue::Map(_) => "a mapping".to_owned(),
        }
    }
}

/// Cuts a text at its document markers. They are markers wherever they begin a line (YAML 1.2.2, `c-forbidden`), so that a
/// document that does not parse cannot hide the next. Gives the number of lines before each document, and its text.
#[must_use]
pub fn split_documents(text: &str) -> Vec<(usize, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let marks = |line: &str, marker: &str| {
        line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
    };
    let mut documents = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let end = offset + line.len();
        if marks(line, "---") {
            documents.push((start_line, &text[start..offset]));
            (start, start_line) = (offset, number);
        } else if marks(line, "...") {
            documents.push((start_line, &text[start..offset]));
            (start, start_line) = (end, number + 1);
        }
        offset = end;
    }
    documents.push((start_line, &text[start..]));
    // What has nothing but comments, directives and blank lines is no document.
    let idle = |line: &str| {
        let line = line.trim();
        line.is_empty() || line.starts_with(['#', '%']) || line == "---"
    };
    documents.retain(|(_, text)| !text.lines().all(idle));
    documents
}

/// Parses one document. `lines_before` is added to line numbers.
pub fn parse_document(text: &str, lines_before: usize) -> Result<Node, TextError> {
    let error = match Builder::new(lines_before).parse(text) {
        Ok(node) => return Ok(node),
        Err(error) => error,
    };
    // JSON is nearly a subset of YAML; what is not (surrogate pairs, tabs) is read as JSON, without positions.
    if error.code == Code::Syntax
        && text.trim_start().starts_with('{')
        && let Ok(node) = serde_json::from_str::<Node>(text)
    {
        return Ok(node);
    }
    Err(error)
}

/// A list or mapping that is not closed yet.
struct Open {
    node: Node,
    anchor: usize,
    /// The key that waits for its value.
    key: Option<(String, Position)>,
    /// Keys so far, to find duplicates in time that does not square with their number.
    seen: BTreeSet<String>,
    cost_before: usize,
}

struct Builder {
    lines_before: usize,
    open: Vec<Open>,
    anchors: BTreeMap<usize, (Node, usize)>,
    cost: usize,
    done: Option<Node>,
}

impl Builder {
    fn new(lines_before: usize) -> Self {
        Self { lines_before, open: Vec::new(), anchors: BTreeMap::new(), cost: 0, done: None }
    }

    fn position(&self, span: Span) -> Position {
        let line = span.start.line() + self.lines_before;
        Position {
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(span.start.col() + 1).unwrap_or(u32::MAX),
        }
    }

    fn parse(mut self, text: &str) -> Result<Node, TextError> {
        let mut parser: Parser<'_, StrInput<'_>> = Parser::new_from_str(text);
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|e| TextError {
                position: self.position(Span::empty(*e.marker())),
                code: Code::Syntax,
                message: e.info().to_owned(),
            })?;
            let position = self.position(span);
            self.event(event, position).map_err(|(code, message)| TextError { position, code, message })?;
        }
        Ok(self.done.unwrap_or_else(|| Node::new(NodeValue::Null)))
    }

    fn event(&mut self, event: Event<'_>, position: Position) -> Result<(), (Code, String)> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.spend(NODE_COST + text.len())?;
                let node = Node { position, value: scalar(&text, style, tag.as_deref())? };
                self.place(node, anchor, NODE_COST + text.len())
            }
            Event::SequenceStart(anchor, tag) => {
                collection_tag(tag.as_deref(), "seq")?;
                self.begin(Node { position, value: NodeValue::List(Vec::new()) }, anchor)
            }
            Event::MappingStart(anchor, tag) => {
                collection_tag(tag.as_deref(), "map")?;
                self.begin(Node { position, value: NodeValue::Map(Vec::new()) }, anchor)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else { return Ok(()) };
                self.place(open.node, open.anchor, self.cost - open.cost_before)
            }
            Event::Alias(anchor) => {
                let Some((node, cost)) = self.anchors.get(&anchor) else {
                    return Err((Code::Syntax, "an alias inside the value it names".to_owned()));
                };
                let cost = *cost;
                // Paid before it is copied.
                let mut node =
                    if self.cost.saturating_add(cost) <= MAX_COST { node.clone() } else { Node::new(NodeValue::Null) };
                self.spend(cost)?;
                node.position = position;
                self.check_depth(&node)?;
                self.place(node, 0, cost)
            }
        }
    }

    fn spend(&mut self, cost: usize) -> Result<(), (Code, String)> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > MAX_COST {
            return Err((
                Code::LimitExceeded,
                "the document has too many values, counting aliases expanded".to_owned(),
            ));
        }
        Ok(())
    }

    fn begin(&mut self, node: Node, anchor: usize) -> Result<(), (Code, String)> {
        if self.open.len() >= MAX_DEPTH {
            return Err((Code::LimitExceeded, format!("nested deeper than {MAX_DEPTH}")));
        }
        if self.open.last().is_some_and(|o| matches!(o.node.value, NodeValue::Map(_)) && o.key.is_none()) {
            return Err((Code::Syntax, "a key must be text".to_owned()));
        }
        let cost_before = self.cost;
        self.spend(NODE_COST)?;
        self.open.push(Open { node, anchor, key: None, seen: BTreeSet::new(), cost_before });
        Ok(())
    }

    /// Aliases in aliases could nest without bound though the text does not.
    fn check_depth(&self, node: &Node) -> Result<(), (Code, String)> {
        fn depth(node: &Node) -> usize {
            match &node.value {
                NodeValue::List(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
                NodeValue::Map(entries) => 1 + entries.iter().map(|e| depth(&e.node)).max().unwrap_or(0),
                _ => 0,
            }
        }
        if self.open.len() + depth(node) > MAX_DEPTH {
            return Err((Code::LimitExceeded, format!("nested deeper than {MAX_DEPTH}, counting aliases expanded")));
        }
        Ok(())
    }

    fn place(&mut self, node: Node, anchor: usize, cost: usize) -> Result<(), (Code, String)> {
        if anchor != 0 {
            // The copy kept for aliases is paid for as well.
            self.spend(cost)?;
            self.anchors.insert(anchor, (node.clone(), cost));
        }
        let Some(open) = self.open.last_mut() else {
            self.done = Some(node);
            return Ok(());
        };
        match (&mut open.node.value, open.key.take()) {
            (NodeValue::List(items), _) => items.push(node),
            (NodeValue::Map(entries), Some((key, position))) => entries.push(Entry { key, position, node }),
            (_, None) => {
                let key = match node.value {
                    NodeValue::Text(text) => text,
                    NodeValue::Bool(b) => b.to_string(),
                    NodeValue::Number(n) => n.to_string(),
                    _ => return Err((Code::Syntax, "a key must be text".to_owned())),
                };
                if !open.seen.insert(key.clone()) {
                    return Err((Code::Syntax, format!("the key `{}` is there twice", clip(&key))));
                }
                open.key = Some((key, node.position));
            }
            (_, Some(_)) => {}
        }
        Ok(())
    }
}

/// A text from the document, cut for a message.
pub(crate) fn clip(text: &str) -> String {
    let mut clipped: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if text.chars().count() > 80 {
        clipped.push('…');
    }
    clipped
}

fn collection_tag(tag: Option<&Tag>, suffix: &str) -> Result<(), (Code, String)> {
    match tag {
        Some(tag) if !(tag.is_yaml_core_schema() && tag.suffix == suffix) => Err(refuse_tag(tag)),
        _ => Ok(()),
    }
}

fn refuse_tag(tag: &Tag) -> (Code, String) {
    (Code::Syntax, format!("the tag `{}` has no meaning here", clip(&tag.to_string())))
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<NodeValue, (Code, String)> {
    let value = if style == ScalarStyle::Plain { plain(text) } else { NodeValue::Text(text.to_owned()) };
    let Some(tag) = tag else { return Ok(value) };
    if tag.is_yaml_core_schema() {
        if tag.suffix == "str" {
            return Ok(NodeValue::Text(text.to_owned()));
        }
        let fits = match plain(text) {
            NodeValue::Null => tag.suffix == "null",
            NodeValue::Bool(_) => tag.suffix == "bool",
            NodeValue::Number(n) => tag.suffix == "float" || (tag.suffix == "int" && !n.is_f64()),
            _ => false,
        };
        if fits {
            return Ok(plain(text));
        }
    } else if tag.to_string() == "!" || (tag.handle.is_empty() && tag.suffix == "!") {
        return Ok(NodeValue::Text(text.to_owned()));
    }
    Err(refuse_tag(tag))
}

/// YAML 1.2.2 section 10.3.2, with the exception told at the top.
fn plain(text: &str) -> NodeValue {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return NodeValue::Null,
        "true" | "True" | "TRUE" => return NodeValue::Bool(true),
        "false" | "False" | "FALSE" => return NodeValue::Bool(false),
        _ => {}
    }
    match number(text) {
        Some(number) => NodeValue::Number(number),
        None => NodeValue::Text(text.to_owned()),
    }
}

fn number(text: &str) -> Option<Number> {
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(digits) = text.strip_prefix(prefix) {
            let fine = digits.chars().all(|c| c.is_digit(radix));
            return if fine { u64::from_str_radix(digits, radix).ok().map(Number::from) } else { None };
        }
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let whole = unsigned.bytes().take_while(u8::is_ascii_digit).count();
    if whole > 1 && unsigned.starts_with('0') {
        return None;
    }
    if whole == unsigned.len() && whole > 0 {
        let text = text.strip_prefix('+').unwrap_or(text);
        if let Some(n) =
            text.parse::<i64>().ok().map(Number::from).or_else(|| text.parse::<u64>().ok().map(Number::from))
        {
            return Some(n);
        }
    }
    let shaped = unsigned.bytes().any(|b| b.is_ascii_digit())
        && unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    if shaped { text.parse::<f64>().ok().and_then(Number::from_f64) } else { None }
}

/// From JSON text; refuses duplicate keys, which `serde_json::Value` would swallow.
impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Tree;
        impl<'de> Visitor<'de> for Tree {
            type Value = Node;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }
            fn visit_bool<E>(self, b: bool) -> Result<Node, E> {
                Ok(Node::new(NodeValue::Bool(b)))
            }
            fn visit_i64<E>(self, n: i64) -> Result<Node, E> {
                Ok(Node::new(NodeValue::Number(n.into())))
            }
            fn visit_u64<E>(self, n: u64) -> Result<Node, E> {
                Ok(Node::new(NodeValue::Number(n.into())))
            }
            fn visit_f64<E>(self, n: f64) -> Result<Node, E> {
                Ok(Node::new(Number::from_f64(n).map_or(NodeValue::Null, NodeValue::Number)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Node, E> {
                Ok(Node::new(NodeValue::Text(text.to_owned())))
            }
            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::new(NodeValue::Null))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Node::new(NodeValue::List(items)))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let (mut entries, mut seen) = (Vec::new(), BTreeSet::new());
                while let Some((key, node)) = map.next_entry::<String, Node>()? {
                    if !seen.insert(key.clone()) {
                        return Err(serde::de::Error::custom(format!("the key `{}` is there twice", clip(&key))));
                    }
                    entries.push(Entry { key, position: Position::default(), node });
                }
                Ok(Node::new(NodeValue::Map(entries)))
            }
        }
        d.deserialize_any(Tree)
    }
}

#[cfg(test)]
mod tests;
