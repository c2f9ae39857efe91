//! How plans look at and change what codecs read: adapters between heads as bytes and the plan's views, and the one place where a
//! path is normalised.

use std::borrow::Cow;

use bytes::Bytes;
use leno_http::{Fields, Refusal, RequestHead};
use leno_model::Reason;
use leno_plan::path;
use leno_plan::{HeaderEditor, HeaderSource, RequestView};

/// Header fields as rules see them.
pub struct Look<'a>(pub &'a Fields);

impl HeaderSource for Look<'_> {
    fn each(&self, name: &str, visit: &mut dyn FnMut(&[u8])) {
        self.0.get_all(name).for_each(visit);
    }
}

/// Header fields as filters change them.
pub struct Edit<'a>(pub &'a mut Fields);

impl HeaderEditor for Edit<'_> {
    fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }
    fn set(&mut self, name: &str, value: &[u8]) {
        self.0.set(name, value);
    }
    fn append(&mut self, name: &str, value: &[u8]) {
        self.0.append(name, value);
    }
}

/// The view of a head; `look` borrows its fields.
pub fn view<'a>(head: &'a RequestHead, look: &'a Look<'a>) -> RequestView<'a> {
    let (path, query) = RequestView::split_target(&head.target);
    RequestView { method: head.method.as_str().as_bytes(), path, query, authority: &head.authority, headers: look }
}

/// Brings the path into its one normal form if `needed`: some rule looks at paths, and what it decides on must be what the next
/// hop gets. Otherwise the path is forwarded untouched (DESIGN section 7).
pub fn normalise_path(head: &mut RequestHead, needed: bool) -> Result<(), Refusal> {
    if !needed {
        return Ok(());
    }
    let (path, query) = RequestView::split_target(&head.target);
    let normal = path::normalise(path).map_err(|e| Refusal::new(Reason::MalformedRequest, e.to_string()))?;
    if let Cow::Owned(mut target) = normal {
        if let Some(query) = query {
            target.push(b'?');
            target.extend_from_slice(query);
        }
        head.target = Bytes::from(target);
    } else if path.is_empty() {
        head.target = Bytes::from([b"/", &head.target[..]].concat());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use leno_http::Method;

    #[test]
    fn what_is_decided_on_is_what_is_sent() {
        for (target, expected) in [
            ("/a/../admin?x=/../y", Some("/admin?x=/../y")),
            ("//admin", Some("/admin")),
            ("/%61dmin", Some("/admin")),
            ("/a?b", Some("/a?b")),
            ("?x", Some("/?x")),
            ("*", Some("*")),
            ("/admin%2f", None),
            ("/a%00", None),
        ] {
            let mut head = RequestHead::new(Method::Get, "web", target);
            let done = normalise_path(&mut head, true);
            assert_eq!(done.is_ok().then_some(&*head.target), expected.map(str::as_bytes), "{target}");
            let mut untouched = RequestHead::new(Method::Get, "web", target);
            normalise_path(&mut untouched, false).unwrap();
            assert_eq!(untouched.target, target);
        }
    }
}
