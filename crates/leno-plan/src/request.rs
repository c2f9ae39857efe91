//! A borrowed view of a request's head: what routes and access rules look at.
//!
//! It borrows from the codec's buffers, so that deciding allocates nothing.

/// Where the values of a header come from.
pub trait HeaderSource {
    /// Calls `visit` once per field line named `name` (lower-case; compared without regard to case), in order of arrival.
    fn each(&self, name: &str, visit: &mut dyn FnMut(&[u8]));
}

/// A request's head, borrowed.
#[derive(Clone, Copy)]
pub struct RequestView<'a> {
    /// The method, case-sensitive (RFC 9110 section 9.1).
    pub method: &'a [u8],
    /// The path without its query; in normal form ([`crate::path::normalise`]) whenever the plan matches paths.
    pub path: &'a [u8],
    /// What follows the first `?`, without it.
    pub query: Option<&'a [u8]>,
    /// `Host` or `:authority` as it arrived.
    pub authority: &'a [u8],
    /// The header fields.
    pub headers: &'a dyn HeaderSource,
}

impl<'a> RequestView<'a> {
    /// Splits an origin-form target into path and query.
    #[must_use]
    pub fn split_target(target: &'a [u8]) -> (&'a [u8], Option<&'a [u8]>) {
        match target.iter().position(|&b| b == b'?') {
            Some(at) => (&target[..at], Some(&target[at + 1..])),
            None => (target, None),
        }
    }
}

/// No header fields at all.
#[derive(Debug, Clone, Copy)]
pub struct NoHeaders;

impl HeaderSource for NoHeaders {
    fn each(&self, _name: &str, _visit: &mut dyn FnMut(&[u8])) {}
}

impl HeaderSource for &[(&str, &str)] {
    fn each(&self, name: &str, visit: &mut dyn FnMut(&[u8])) {
        for (_, value) in self.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)) {
            visit(value.as_bytes());
        }
    }
}

impl HeaderSource for Vec<(String, Vec<u8>)> {
    fn each(&self, name: &str, visit: &mut dyn FnMut(&[u8])) {
        for (_, value) in self.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)) {
            visit(value);
        }
    }
}
