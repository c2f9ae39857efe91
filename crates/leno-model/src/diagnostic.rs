//! What is wrong with a resource, and where.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::resource::ResourceRef;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The resource is refused or set aside.
    Error,
    /// The resource works but for what the message says.
    Warning,
}

impl Severity {
    /// The word in messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

macro_rules! codes {
    ($($variant:ident $summary:literal;)*) => {
        /// What kind of fault it is: the `reason` of status conditions, in the Gateway API's words where it has one.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Code { $(#[doc = $summary] $variant,)* }

        impl Code {
            /// All, for the reference page.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// The word in conditions.
            #[must_use]
            pub fn as_str(self) -> &'static str { match self { $(Self::$variant => stringify!($variant),)* } }
            /// One sentence for people.
            #[must_use]
            pub fn summary(self) -> &'static str { match self { $(Self::$variant => $summary,)* } }
        }
    };
}

codes! {
    Syntax "The document is not well-formed YAML or JSON.";
    LimitExceeded "A bound on size, depth, count or complexity is exceeded.";
    UnknownKind "No such kind exists in this API version.";
    ReadOnly "The kind or field is written by the control plane.";
    UnknownField "The kind has no such field.";
    MissingField "A required field is absent.";
    WrongType "A field has a value of another type.";
    InvalidValue "A field's value is outside what it may be.";
    UnsupportedValue "The field or value is known to the API, but this version does not act on it.";
    NoMatchingParent "What a route or policy is attached to does not exist or cannot be attached to from here.";
    BackendNotFound "A backend does not exist.";
    InvalidKind "A reference names a kind that cannot be used there.";
    RefNotPermitted "A reference crosses namespaces without a ReferenceGrant.";
    Conflicted "An older resource says otherwise about the same thing, and holds.";
    Undecodable "A resource does not decode in this version.";
}

/// One fault of one resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of fault it is.
    pub code: Code,
    /// The file, `-`, or where else the text came from; empty if there is no text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Line from 1; 0 if there is no text.
    #[serde(default)]
    pub line: u32,
    /// Column from 1, in characters; 0 if there is no text.
    #[serde(default)]
    pub column: u32,
    /// The resource, once its kind and name are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<ResourceRef>,
    /// The field, e.g. `spec.rules[0].matches`; empty for the whole document.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// What is wrong, lower-case, with the offending value.
    pub message: String,
    /// What was probably meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

impl Diagnostic {
    /// A diagnostic about a resource that has no text.
    #[must_use]
    pub fn about(
        resource: ResourceRef,
        severity: Severity,
        code: Code,
        path: &str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            code,
            source: String::new(),
            line: 0,
            column: 0,
            resource: Some(resource),
            path: path.to_owned(),
            message: message.into(),
            suggestion: None,
        }
    }

    /// Whether the resource is refused or set aside.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// `web.yaml:7:5: error: spec.rules[0].matchs: unknown field; did you mean `matches`?`
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.source.is_empty() && self.line == 0 {
            if let Some(resource) = &self.resource {
                write!(f, "{resource}: ")?;
            }
        } else if self.line == 0 {
            write!(f, "{}: ", self.source)?;
        } else {
            let source = if self.source.is_empty() { "input" } else { &self.source };
            write!(f, "{source}:{}:{}: ", self.line, self.column)?;
        }
        write!(f, "{}: ", self.severity.as_str())?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, "; did you mean `{suggestion}`?"),
            None => Ok(()),
        }
    }
}
