//! Text → resources: cut into documents, parse, check the envelope, check the spec, set aside what is wrong.

use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::kind::{Kind, Writer};
use crate::names::{Name, SYSTEM_NAMESPACE};
use crate::path::FieldPath;
use crate::resource::{Resource, ResourceRef};
use crate::schema::{Findings, SchemaRef, nearest};
use crate::validate;
use crate::yaml::{self, Entry, MAX_DOCUMENTS, MAX_TEXT, Node, NodeValue, Position, TextError, clip};

/// A resource as a user wrote it, without errors.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedResource {
    /// The resource, its namespace filled in.
    pub resource: Resource,
    /// Its kind.
    pub kind: Kind,
    /// The text's tree, for positions of what is found out later.
    pub tree: Node,
}

impl ParsedResource {
    /// Gives a diagnostic that was made without text its source, and the position of `path`; of its own path if that is the root.
    #[must_use]
    pub fn locate(&self, source: &str, mut diagnostic: Diagnostic, path: &FieldPath) -> Diagnostic {
        let own = FieldPath::parse(&diagnostic.path);
        let position = self.tree.position_of(if path.steps().is_empty() { &own } else { path });
        source.clone_into(&mut diagnostic.source);
        (diagnostic.line, diagnostic.column) = (position.line, position.column);
        diagnostic
    }
}

/// Text, and how to read it.
#[derive(Debug, Clone, Copy)]
pub struct Input<'t> {
    /// The file, or where else the text came from; used in messages.
    pub source: &'t str,
    /// YAML of any number of documents, or JSON.
    pub text: &'t str,
    /// The namespace of documents that name none; each kind's own default if absent.
    pub namespace: Option<&'t str>,
}

/// Parses and checks what a user wrote. A document with an error is set aside; the others are given back, with everything that
/// was found. Strict: an unknown field is an error (D3).
#[must_use]
pub fn parse_documents(source: &str, text: &str) -> (Vec<ParsedResource>, Vec<Diagnostic>) {
    parse(Input { source, text, namespace: None })
}

/// As [`parse_documents`], with a namespace for documents that name none.
#[must_use]
pub fn parse(input: Input<'_>) -> (Vec<ParsedResource>, Vec<Diagnostic>) {
    let (mut resources, mut diagnostics) = (Vec::new(), Vec::new());
    if input.text.len() > MAX_TEXT {
        let message = format!("{} bytes of text; at most {MAX_TEXT} are read", input.text.len());
        let position = Position { line: 1, column: 1 };
        diagnostics.push(text_diagnostic(input.source, TextError { position, code: Code::LimitExceeded, message }));
        return (resources, diagnostics);
    }
    let documents = yaml::split_documents(input.text);
    for (count, (lines_before, text)) in documents.into_iter().enumerate() {
        if count == MAX_DOCUMENTS {
            let position = Position { line: u32::try_from(lines_before + 1).unwrap_or(u32::MAX), column: 1 };
            let message = format!("more than {MAX_DOCUMENTS} documents; the rest is not read");
            diagnostics.push(text_diagnostic(input.source, TextError { position, code: Code::LimitExceeded, message }));
            break;
        }
        match yaml::parse_document(text, lines_before) {
            Ok(tree) if tree.is_null() => {}
            Ok(tree) => parse_tree(input, tree, &mut resources, &mut diagnostics),
            Err(error) => diagnostics.push(text_diagnostic(input.source, error)),
        }
    }
    (resources, diagnostics)
}

/// Checks a resource that is no longer text, such as one read from the store: the same findings, without positions.
#[must_use]
pub fn check(resource: &Resource) -> Vec<Diagnostic> {
    let tree = Node::from_json(&serde_json::to_value(resource).unwrap_or_default());
    let mut findings = Findings::new("", &tree);
    findings.resource = Some(resource.reference());
    if let Some(kind) = resource.known_kind() {
        check_spec(&tree, kind, resource, &mut findings);
    } else {
        let message = format!("no kind `{}` in {}", clip(&resource.kind), clip(&resource.api_version));
        findings.error(Code::UnknownKind, &FieldPath::root().key("kind"), message);
    }
    findings.into_diagnostics()
}

fn text_diagnostic(source: &str, error: TextError) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        code: error.code,
        source: source.to_owned(),
        line: error.position.line,
        column: error.position.column,
        resource: None,
        path: String::new(),
        message: error.message,
        suggestion: None,
    }
}

/// A `List`, as `kubectl get -o yaml` prints it, is its items.
fn parse_tree(input: Input<'_>, tree: Node, resources: &mut Vec<ParsedResource>, diagnostics: &mut Vec<Diagnostic>) {
    let is_list = tree.get("kind").and_then(Node::text) == Some("List");
    if let (true, Some(NodeValue::List(items))) = (is_list, tree.get("items").map(|n| &n.value)) {
        for item in items.iter().take(MAX_DOCUMENTS) {
            parse_one(input, item.clone(), resources, diagnostics);
        }
        return;
    }
    parse_one(input, tree, resources, diagnostics);
}

fn parse_one(input: Input<'_>, tree: Node, resources: &mut Vec<ParsedResource>, diagnostics: &mut Vec<Diagnostic>) {
    let mut findings = Findings::new(input.source, &tree);
    let parsed = envelope(input, &tree, &mut findings).and_then(|(kind, namespace)| {
        let mut resource: Resource = match serde_json::from_value(tree.to_json()) {
            Ok(resource) => resource,
            Err(error) => {
                // The envelope is checked field by field above; this is for what that overlooks.
                if !findings.has_errors() {
                    findings.error(Code::WrongType, &FieldPath::root(), error.to_string());
                }
                return None;
            }
        };
        resource.metadata.namespace = namespace;
        check_spec(&tree, kind, &resource, &mut findings);
        (!findings.has_errors()).then_some((kind, resource))
    });
    diagnostics.extend(findings.into_diagnostics());
    if let Some((kind, resource)) = parsed {
        resources.push(ParsedResource { resource, kind, tree });
    }
}

/// Checks all but spec and status. Gives kind and namespace if the spec can be checked.
fn envelope(input: Input<'_>, tree: &Node, findings: &mut Findings<'_>) -> Option<(Kind, String)> {
    let root = FieldPath::root();
    let Some(entries) = tree.entries() else {
        findings.error(Code::WrongType, &root, format!("expected a resource, found {}", tree.describe()));
        return None;
    };
    unknown_keys(entries, &["apiVersion", "kind", "metadata", "spec", "status"], &root, findings);
    let api_version = text_field(tree, "apiVersion", &root, findings);
    let kind_word = text_field(tree, "kind", &root, findings);
    let metadata_path = root.key("metadata");
    let Some(metadata) = tree.get("metadata").filter(|m| !m.is_null()) else {
        findings.error(Code::MissingField, &metadata_path, "required field is absent");
        return None;
    };
    let name = metadata_fields(metadata, &metadata_path, findings);
    let kind = find_kind(api_version?, kind_word?, findings)?;
    let written = metadata.get("namespace").and_then(Node::text);
    let namespace =
        written.or(input.namespace.filter(|_| kind != Kind::MeshConfig)).unwrap_or(kind.default_namespace());
    check_name(namespace, &metadata_path.key("namespace"), findings);
    let name = name?;
    findings.resource =
        Some(ResourceRef { kind: kind.as_str().to_owned(), namespace: namespace.to_owned(), name: name.to_owned() });
    if kind == Kind::MeshConfig && (namespace != SYSTEM_NAMESPACE || name != "mesh") {
        let message = format!("the only MeshConfig is `mesh` in the namespace {SYSTEM_NAMESPACE}");
        findings.error(Code::InvalidValue, &metadata_path.key("name"), message);
    }
    if kind.writer() != Writer::User {
        let message = format!("{kind} resources are written by the control plane; they cannot be applied");
        findings.error(Code::ReadOnly, &root.key("kind"), message);
    }
    Some((kind, namespace.to_owned()))
}

fn find_kind(api_version: &str, word: &str, findings: &mut Findings<'_>) -> Option<Kind> {
    let root = FieldPath::root();
    if let Some(kind) = Kind::find(api_version, word) {
        return Some(kind);
    }
    match Kind::ALL.iter().copied().find(|k| k.as_str() == word) {
        Some(kind) => {
            let path = root.key("apiVersion");
            let position = findings.position(&path);
            let message = format!("`{}` is not the version of {kind}", clip(api_version));
            let suggestion = Some(kind.api_version().to_owned());
            findings.push(Severity::Error, Code::UnknownKind, (&path, position), message, suggestion);
        }
        None => {
            let path = root.key("kind");
            let position = findings.position(&path);
            let suggestion = nearest(word, Kind::ALL.iter().filter(|k| k.user_writable()).map(|k| k.as_str()));
            let message = format!("no kind `{}` in {}", clip(word), clip(api_version));
            findings.push(Severity::Error, Code::UnknownKind, (&path, position), message, suggestion);
        }
    }
    None
}

fn metadata_fields<'n>(metadata: &'n Node, path: &FieldPath, findings: &mut Findings<'_>) -> Option<&'n str> {
    const OURS: [&str; 8] =
        ["name", "namespace", "labels", "annotations", "uid", "generation", "resourceVersion", "creationTimestamp"];
    // What Kubernetes adds to its own output; kept, without effect here.
    const OTHERS: [&str; 6] = [
        "managedFields",
        "ownerReferences",
        "finalizers",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ];
    let Some(entries) = metadata.entries() else {
        findings.error(Code::WrongType, path, format!("expected a mapping, found {}", metadata.describe()));
        return None;
    };
    let ours: Vec<Entry> = entries.iter().filter(|e| !OTHERS.contains(&e.key.as_str())).cloned().collect();
    unknown_keys(&ours, &OURS, path, findings);
    for key in ["namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if metadata.get(key).is_some_and(|n| !n.is_null() && n.text().is_none()) {
            wrong_text(metadata, key, path, findings);
        }
    }
    for key in ["labels", "annotations"] {
        match metadata.get(key) {
            None => {}
            Some(node) if node.is_null() => {}
            Some(node) => match node.entries() {
                Some(entries) => {
                    for entry in entries.iter().filter(|e| e.node.text().is_none()) {
                        wrong_text(node, &entry.key, &path.key(key), findings);
                    }
                }
                None => findings.error(
                    Code::WrongType,
                    &path.key(key),
                    format!("expected a mapping of texts, found {}", node.describe()),
                ),
            },
        }
    }
    let name = text_field(metadata, "name", path, findings)?;
    check_name(name, &path.key("name"), findings).then_some(name)
}

fn check_name(name: &str, path: &FieldPath, findings: &mut Findings<'_>) -> bool {
    let checked = Name::new(name);
    if let Err(error) = &checked {
        findings.error(Code::InvalidValue, path, clip(&error.to_string()));
    }
    checked.is_ok()
}

fn wrong_text(parent: &Node, key: &str, path: &FieldPath, findings: &mut Findings<'_>) {
    let Some(node) = parent.get(key) else { return };
    findings.expected_text(node, &path.key(key));
}

fn text_field<'n>(parent: &'n Node, key: &str, path: &FieldPath, findings: &mut Findings<'_>) -> Option<&'n str> {
    match parent.get(key).filter(|n| !n.is_null()) {
        None => {
            findings.error(Code::MissingField, &path.key(key), "required field is absent");
            None
        }
        Some(node) => {
            if node.text().is_none() {
                wrong_text(parent, key, path, findings);
            }
            node.text()
        }
    }
}

fn unknown_keys(entries: &[Entry], known: &[&str], path: &FieldPath, findings: &mut Findings<'_>) {
    for entry in entries.iter().filter(|e| !known.contains(&e.key.as_str())) {
        let suggestion = findings.nearest(&entry.key, known.iter().copied());
        let at = (&path.key(&entry.key), entry.position);
        findings.push(Severity::Error, Code::UnknownField, at, "unknown field".to_owned(), suggestion);
    }
}

fn check_spec(tree: &Node, kind: Kind, resource: &Resource, findings: &mut Findings<'_>) {
    let path = FieldPath::root().key("spec");
    let absent = Node { position: tree.position, value: NodeValue::Map(Vec::new()) };
    let spec = tree.get("spec").filter(|n| !n.is_null()).unwrap_or(&absent);
    let before = findings.error_count();
    findings.check(spec, SchemaRef::of(kind), &path);
    // Meaning is judged only where the shape is right: one fault, one message.
    if findings.error_count() == before {
        validate::spec(kind, resource, &path, findings);
    }
}

#[cfg(test)]
mod tests;
