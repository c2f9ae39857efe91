//! What a route changes on its way: headers, redirects, rewrites. Data, and pure functions that apply it.

use crate::host::Host;
use crate::path;
use crate::request::RequestView;

/// Something that has header fields which can be changed; names are lower-case.
pub trait HeaderEditor {
    /// Removes every line of that name.
    fn remove(&mut self, name: &str);
    /// Replaces every line of that name by one.
    fn set(&mut self, name: &str, value: &[u8]);
    /// Adds a line, keeping those there are.
    fn append(&mut self, name: &str, value: &[u8]);
}

/// One filter of a route rule or backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// Changes the request's headers.
    RequestHeaders(HeaderEdit),
    /// Changes the response's headers.
    ResponseHeaders(HeaderEdit),
    /// Answers with a redirect; nothing is sent upstream.
    Redirect(Redirect),
    /// Changes path or host before sending.
    Rewrite(Rewrite),
}

/// Header changes, applied in the order set, add, remove.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderEdit {
    /// Name (lower-case) and value.
    pub set: Vec<(Box<str>, Box<str>)>,
    /// Name (lower-case) and value.
    pub add: Vec<(Box<str>, Box<str>)>,
    /// Names (lower-case).
    pub remove: Vec<Box<str>>,
}

impl HeaderEdit {
    /// Applies the changes.
    pub fn apply(&self, fields: &mut dyn HeaderEditor) {
        for (name, value) in &self.set {
            fields.set(name, value.as_bytes());
        }
        for (name, value) in &self.add {
            fields.append(name, value.as_bytes());
        }
        for name in &self.remove {
            fields.remove(name);
        }
    }
}

/// Whether a filter may touch this header. Framing, routing and hop-by-hop fields are the proxy's (RFC 9110 section 7.6.1):
/// editing them would desynchronise the two sides. `Host` is changed by a rewrite.
#[must_use]
pub fn header_is_editable(name: &str) -> bool {
    const OWNED: [&str; 11] = [
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "leno-reason",
    ];
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.bytes().all(token) && !OWNED.iter().any(|o| o.eq_ignore_ascii_case(name))
}

/// Whether a text can be a header value (RFC 9110 section 5.5, without obs-text).
#[must_use]
pub fn header_value_is_fine(value: &str) -> bool {
    value.bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b))
}

/// A change of path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathModifier {
    /// Replaces the whole path.
    Full(Box<str>),
    /// Replaces the elements that the rule's prefix match covered.
    Prefix(Box<str>),
}

impl PathModifier {
    /// The new path. `prefix_elements` is the number of path elements that the matched prefix has
    /// ([`crate::route::RouteChoice::prefix_elements`]); `path` is in normal form.
    #[must_use]
    pub fn apply(&self, path: &[u8], prefix_elements: usize) -> Vec<u8> {
        match self {
            Self::Full(new) => rooted(new.as_bytes()),
            Self::Prefix(new) => {
                let rest = path::after_elements(path, prefix_elements);
                let head = new.as_bytes().strip_suffix(b"/").unwrap_or(new.as_bytes());
                let rest: &[u8] = if rest.is_empty() && new.ends_with('/') { b"/" } else { rest };
                rooted(&[head, rest].concat())
            }
        }
    }
}

fn rooted(path: &[u8]) -> Vec<u8> {
    if path.first() == Some(&b'/') { path.to_vec() } else { [b"/", path].concat() }
}

/// A change of path or host before a request is sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rewrite {
    /// The new `Host` or `:authority`.
    pub hostname: Option<Box<str>>,
    /// The new path; the query is kept.
    pub path: Option<PathModifier>,
}

impl Rewrite {
    /// The new target (path and query), if it changes.
    #[must_use]
    pub fn target(&self, path: &[u8], query: Option<&[u8]>, prefix_elements: usize) -> Option<Vec<u8>> {
        let mut target = self.path.as_ref()?.apply(path, prefix_elements);
        append_query(&mut target, query);
        Some(target)
    }
}

fn append_query(target: &mut Vec<u8>, query: Option<&[u8]>) {
    if let Some(query) = query {
        target.push(b'?');
        target.extend_from_slice(query);
    }
}

/// A redirect (Gateway API `RequestRedirect`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`; the request's if absent.
    pub scheme: Option<Box<str>>,
    /// The request's if absent.
    pub hostname: Option<Box<str>>,
    /// Absent: the well-known one if `scheme` is set, otherwise the request's.
    pub port: Option<u16>,
    /// The request's if absent.
    pub path: Option<PathModifier>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

impl Redirect {
    /// The value of `Location`. `scheme` is the request's; `None` if its authority is not a host, which deserves a 400.
    #[must_use]
    pub fn location(&self, request: &RequestView<'_>, scheme: &str, prefix_elements: usize) -> Option<Vec<u8>> {
        let host = Host::parse(request.authority);
        let new_scheme = self.scheme.as_deref().unwrap_or(scheme);
        let port = match (self.port, &self.scheme) {
            (Some(port), _) => Some(port),
            (None, Some(_)) => None,
            (None, None) => host.as_ref().ok().and_then(|h| h.port),
        };
        let mut location = format!("{new_scheme}://").into_bytes();
        match &self.hostname {
            Some(name) => location.extend_from_slice(name.as_bytes()),
            None => location.extend_from_slice(host.ok()?.name.to_string().as_bytes()),
        }
        let well_known = matches!((new_scheme, port), ("http", Some(80)) | ("https", Some(443)));
        if let Some(port) = port.filter(|_| !well_known) {
            location.extend_from_slice(format!(":{port}").as_bytes());
        }
        match &self.path {
            Some(modifier) => location.extend_from_slice(&modifier.apply(request.path, prefix_elements)),
            None => location.extend_from_slice(request.path),
        }
        append_query(&mut location, request.query);
        Some(location)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::NoHeaders;

    #[test]
    fn prefixes_are_replaced_by_elements() {
        // Gateway API, HTTPPathModifier: the table of its documentation.
        for (path, elements, new, expected) in [
            ("/foo/bar", 1, "/xyz", "/xyz/bar"),
            ("/foo/bar", 1, "/xyz/", "/xyz/bar"),
            ("/foo/", 1, "/xyz", "/xyz/"),
            ("/foo", 1, "/xyz", "/xyz"),
            ("/foo", 1, "/xyz/", "/xyz/"),
            ("/foo/bar", 1, "", "/bar"),
            ("/foo/", 1, "", "/"),
            ("/foo", 1, "", "/"),
            ("/foo", 1, "/", "/"),
            ("/foo/bar", 1, "/", "/bar"),
            ("/foo/bar", 0, "/xyz", "/xyz/foo/bar"),
            ("/", 0, "/xyz", "/xyz/"),
            ("/f%6Fo%3B/bar", 1, "/xyz", "/xyz/bar"),
            ("/a/b/c", 2, "/z", "/z/c"),
        ] {
            let got = PathModifier::Prefix(new.into()).apply(path.as_bytes(), elements);
            assert_eq!(String::from_utf8(got).unwrap(), expected, "{path} {new}");
        }
        assert_eq!(PathModifier::Full("x".into()).apply(b"/a", 0), b"/x");
        let rewrite = Rewrite { hostname: None, path: Some(PathModifier::Prefix("/n".into())) };
        assert_eq!(rewrite.target(b"/a/b", Some(b"q=1?&"), 1).unwrap(), b"/n/b?q=1?&");
        assert_eq!(Rewrite::default().target(b"/a", None, 0), None);
    }

    #[test]
    fn redirects_keep_what_they_do_not_set() {
        let redirect = |scheme: Option<&str>, hostname: Option<&str>, port, path| Redirect {
            scheme: scheme.map(Into::into),
            hostname: hostname.map(Into::into),
            port,
            path,
            status: 302,
        };
        let full = Some(PathModifier::Full("/new".into()));
        for (authority, redirect, expected) in [
            ("Web:8081", redirect(None, None, None, None), "http://web:8081/a?q"),
            ("web:8081", redirect(Some("https"), None, None, None), "https://web/a?q"),
            ("web", redirect(Some("https"), None, Some(443), None), "https://web/a?q"),
            ("web", redirect(None, Some("shop.example"), Some(80), None), "http://shop.example/a?q"),
            ("[::1]:8081", redirect(None, None, Some(9000), full), "http://[::1]:9000/new?q"),
        ] {
            let view = RequestView {
                method: b"GET",
                path: b"/a",
                query: Some(b"q"),
                authority: authority.as_bytes(),
                headers: &NoHeaders,
            };
            let got = redirect.location(&view, "http", 1).unwrap();
            assert_eq!(String::from_utf8(got).unwrap(), expected, "{authority}");
        }
        let view = RequestView { method: b"GET", path: b"/", query: None, authority: b"a\r\nb", headers: &NoHeaders };
        assert_eq!(redirect(None, None, None, None).location(&view, "http", 0), None);
    }

    #[derive(Default)]
    struct Log(Vec<String>);
    impl HeaderEditor for Log {
        fn remove(&mut self, name: &str) {
            self.0.push(format!("-{name}"));
        }
        fn set(&mut self, name: &str, value: &[u8]) {
            self.0.push(format!("={name}:{}", String::from_utf8_lossy(value)));
        }
        fn append(&mut self, name: &str, value: &[u8]) {
            self.0.push(format!("+{name}:{}", String::from_utf8_lossy(value)));
        }
    }

    #[test]
    fn header_edits_are_applied_in_order() {
        let edit = HeaderEdit {
            set: vec![("a".into(), "1".into())],
            add: vec![("b".into(), "2".into())],
            remove: vec!["c".into()],
        };
        let mut log = Log::default();
        edit.apply(&mut log);
        assert_eq!(log.0, ["=a:1", "+b:2", "-c"]);
    }

    #[test]
    fn framing_headers_are_not_editable() {
        for name in ["Content-Length", "host", "transfer-encoding", "", ":path", "a b", "a\r\nb"] {
            assert!(!header_is_editable(name), "{name:?}");
        }
        assert!(header_is_editable("x-env") && header_value_is_fine("a b") && !header_value_is_fine("a\r\nb"));
    }
}
