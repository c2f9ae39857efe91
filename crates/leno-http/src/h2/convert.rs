//! Between HTTP/2 header maps and our heads (RFC 9113 section 8).

use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use leno_model::Reason;

use crate::authority::Authority;
use crate::head::{BodyLength, Fields, Method, RequestHead, ResponseHead, Version};
use crate::hygiene;
use crate::refusal::Refusal;
use crate::{MAX_FIELDS, MAX_HEAD};

/// A request as it came from the `h2` crate, which has refused connection-specific fields and bad pseudo-headers already.
pub fn request(parts: http::request::Parts, is_end: bool) -> Result<RequestHead, Refusal> {
    let method = Method::parse(parts.method.as_str().as_bytes()).ok_or_else(|| malformed("invalid method"))?;
    let authority = authority(&parts.uri, &parts.headers)?;
    let target = if method == Method::Connect {
        let parsed = Authority::parse(&authority).map_err(malformed)?;
        parsed.port.ok_or_else(|| malformed("CONNECT without a port"))?;
        authority.clone()
    } else {
        let path = parts.uri.path_and_query().map_or("", |p| p.as_str());
        let is_fine = path.starts_with('/') || (path == "*" && method == Method::Options);
        if !is_fine {
            return Err(malformed("path does not begin with a slash"));
        }
        Bytes::copy_from_slice(path.as_bytes())
    };
    let length = length(&parts.headers, is_end).map_err(malformed)?;
    let expect_continue = match parts.headers.get(http::header::EXPECT) {
        None => false,
        Some(value) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => !is_end,
        Some(_) => return Err(Refusal { status: Some(417), ..malformed("unknown expectation") }),
    };
    let fields = fields(&parts.headers, &["host", "content-length", "expect"])
        .map_err(|rule| Refusal::new(Reason::HeadTooLarge, rule))?;
    Ok(RequestHead {
        method,
        target,
        authority,
        fields,
        length,
        expect_continue,
        upgrade: None,
        version: Version::Http2,
    })
}

/// `:authority`, or `host` in its place; where there are both they must agree (RFC 9113 section 8.3.1).
fn authority(uri: &http::Uri, headers: &HeaderMap) -> Result<Bytes, Refusal> {
    let mut hosts = headers.get_all(http::header::HOST).iter();
    let (host, other) = (hosts.next(), hosts.next());
    if other.is_some() {
        return Err(malformed("more than one Host"));
    }
    let parse = |text| Authority::parse(text).map_err(malformed);
    match (uri.authority(), host) {
        (Some(authority), None) => {
            parse(authority.as_str().as_bytes())?;
            Ok(Bytes::copy_from_slice(authority.as_str().as_bytes()))
        }
        (Some(authority), Some(host)) => {
            if !parse(authority.as_str().as_bytes())?.is_same(&parse(host.as_bytes())?, 80) {
                return Err(malformed("Host differs from :authority"));
            }
            Ok(Bytes::copy_from_slice(authority.as_str().as_bytes()))
        }
        (None, Some(host)) => {
            parse(host.as_bytes())?;
            Ok(Bytes::copy_from_slice(host.as_bytes()))
        }
        (None, None) => Err(malformed("no authority")),
    }
}

fn length(headers: &HeaderMap, is_end: bool) -> Result<BodyLength, &'static str> {
    let mut lengths = headers.get_all(http::header::CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (None, _) if is_end => Ok(BodyLength::None),
        (None, _) => Ok(BodyLength::Unknown),
        (Some(value), None) => match crate::h1::content_length(value.as_bytes()) {
            Ok(length) => Ok(BodyLength::Exact(length)),
            Err(_) => Err("invalid Content-Length"),
        },
        (Some(_), Some(_)) => Err("more than one Content-Length"),
    }
}

/// A final or interim response as it came from the `h2` crate. `is_end` tells that no body follows.
pub fn response(status: http::StatusCode, headers: &HeaderMap, is_end: bool) -> Result<ResponseHead, &'static str> {
    let status = status.as_u16();
    if status == 101 {
        return Err("101 in HTTP/2");
    }
    let length = if status < 200 { BodyLength::None } else { length(headers, is_end)? };
    Ok(ResponseHead { status, fields: fields(headers, &["content-length"])?, length, upgrade: None })
}

/// The fields of a map but those in `without`, as one block of lines.
pub fn fields(map: &HeaderMap, without: &[&str]) -> Result<Fields, &'static str> {
    if map.len() > MAX_FIELDS + without.len() && map.iter().filter(|(n, _)| n.as_str() != "cookie").count() > MAX_FIELDS
    {
        return Err("more than 100 header fields");
    }
    let mut block = Vec::with_capacity(map.iter().map(|(n, v)| n.as_str().len() + v.len() + 4).sum());
    let mut lines: Vec<(std::ops::Range<usize>, std::ops::Range<usize>)> = Vec::with_capacity(map.len());
    let mut write = |name: &str, values: &mut dyn Iterator<Item = &HeaderValue>, separator: &[u8]| {
        let start = block.len();
        block.extend_from_slice(name.as_bytes());
        block.extend_from_slice(b": ");
        let value = block.len();
        for (index, part) in values.enumerate() {
            if index > 0 {
                block.extend_from_slice(separator);
            }
            block.extend_from_slice(part.as_bytes());
        }
        // HTTP/2 values have no whitespace around them (RFC 9113 section 8.2.1), but not everybody keeps to it.
        lines.push((start..start + name.len(), trimmed(&block, value)));
        block.extend_from_slice(b"\r\n");
    };
    for name in map
        .keys()
        .map(HeaderName::as_str)
        .filter(|name| !without.contains(name) && !hygiene::is_hop_by_hop(name.as_bytes()))
    {
        let mut values = map.get_all(name).iter();
        if name == "cookie" {
            // Crumbs become one field again (RFC 9113 section 8.2.3).
            write(name, &mut values, b"; ");
        } else {
            values.for_each(|value| write(name, &mut std::iter::once(value), b""));
        }
    }
    if lines.len() > MAX_FIELDS {
        return Err("more than 100 header fields");
    }
    if block.len() > MAX_HEAD {
        return Err("head over 64 KiB");
    }
    let block = Bytes::from(block);
    let lines: Vec<_> = lines.iter().map(|(name, value)| (&block[name.clone()], &block[value.clone()])).collect();
    Ok(Fields::from_parsed(&block, lines.into_iter()))
}

fn trimmed(block: &[u8], start: usize) -> std::ops::Range<usize> {
    let value = &block[start..];
    let front = value.len() - value.trim_ascii_start().len();
    let length = value.trim_ascii().len();
    if length == 0 { start..start } else { start + front..start + front + length }
}

/// A header map for the `h2` crate; connection-specific fields, which it would refuse, are left out.
pub fn map(fields: &Fields) -> Result<HeaderMap, &'static str> {
    let mut map = HeaderMap::with_capacity(fields.len() + 2);
    for (name, value) in fields.iter().filter(|(name, _)| !hygiene::is_hop_by_hop(name)) {
        let name = HeaderName::from_bytes(name).map_err(|_| "invalid field name")?;
        map.append(name, HeaderValue::from_bytes(value).map_err(|_| "invalid field value")?);
    }
    Ok(map)
}

/// Adds `content-length`, if the length is known.
pub fn set_length(map: &mut HeaderMap, length: BodyLength) {
    if let BodyLength::Exact(length) = length {
        map.insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
    }
}

/// A request for the `h2` crate. The address stands in for a missing authority.
pub fn to_request(head: &RequestHead, address: SocketAddr) -> Result<http::Request<()>, &'static str> {
    let authority = match head.authority.is_empty() {
        true => http::uri::Authority::try_from(address.to_string()),
        false => http::uri::Authority::try_from(&head.authority[..]),
    };
    let mut uri = http::uri::Parts::default();
    uri.authority = Some(authority.map_err(|_| "invalid authority")?);
    if head.method != Method::Connect {
        uri.scheme = Some(http::uri::Scheme::HTTP);
        uri.path_and_query = Some(http::uri::PathAndQuery::try_from(&head.target[..]).map_err(|_| "invalid path")?);
    }
    let mut request = http::Request::new(());
    *request.method_mut() = http::Method::from_bytes(head.method.as_str().as_bytes()).map_err(|_| "invalid method")?;
    *request.uri_mut() = http::Uri::from_parts(uri).map_err(|_| "invalid target")?;
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = map(&head.fields)?;
    set_length(request.headers_mut(), head.length);
    if head.expect_continue {
        request.headers_mut().insert(http::header::EXPECT, HeaderValue::from_static("100-continue"));
    }
    Ok(request)
}

/// A response for the `h2` crate.
pub fn to_response(head: &ResponseHead) -> Result<http::Response<()>, &'static str> {
    let mut response = http::Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(head.status).map_err(|_| "invalid status")?;
    if head.status == 101 {
        return Err("101 in HTTP/2");
    }
    *response.headers_mut() = map(&head.fields)?;
    if head.status >= 200 && head.status != 204 {
        set_length(response.headers_mut(), head.length);
    }
    Ok(response)
}

fn malformed(rule: &'static str) -> Refusal {
    Refusal::new(Reason::MalformedRequest, rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(uri: &str, headers: &[(&str, &str)]) -> http::request::Parts {
        let mut builder = http::Request::builder().method("POST").uri(uri).version(http::Version::HTTP_2);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    #[test]
    fn requests() {
        let head = request(
            parts(
                "http://web:80/a%2f?b=%20",
                &[("te", "trailers"), ("cookie", "a=1"), ("x", " y "), ("cookie", "b=2"), ("content-length", "3")],
            ),
            false,
        )
        .unwrap();
        assert_eq!((&head.target[..], &head.authority[..]), (&b"/a%2f?b=%20"[..], &b"web:80"[..]));
        assert_eq!(head.length, BodyLength::Exact(3));
        let mut lines = Vec::new();
        head.fields.write_lines(&mut lines);
        assert_eq!(String::from_utf8(lines).unwrap(), "te: trailers\r\ncookie: a=1; b=2\r\nx:  y \r\n");
        assert_eq!(head.fields.get("x"), Some(&b"y"[..]));
    }

    #[test]
    fn one_host_or_none() {
        for (uri, headers, expected) in [
            ("http://a/", &[][..], Ok("a")),
            ("http://a/", &[("host", "A:80")][..], Ok("a")),
            ("/", &[("host", "b:1")][..], Ok("b:1")),
            ("http://a/", &[("host", "b")][..], Err("Host differs")),
            ("/", &[("host", "a"), ("host", "a")][..], Err("more than one Host")),
            ("/", &[("host", "a/b")][..], Err("invalid character")),
            ("/", &[][..], Err("no authority")),
            ("http://u@a/", &[][..], Err("invalid character")),
        ] {
            match (request(parts(uri, headers), true), expected) {
                (Ok(head), Ok(host)) => assert_eq!(&head.authority[..], host.as_bytes()),
                (Err(refusal), Err(rule)) => {
                    assert_eq!(refusal.reason, Reason::MalformedRequest);
                    assert!(refusal.detail.contains(rule), "{uri} {headers:?}: {}", refusal.detail);
                }
                (found, expected) => panic!("{uri} {headers:?}: {found:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn limits_are_on_what_was_decoded() {
        let names: Vec<String> = (0..101).map(|n| format!("h{n}")).collect();
        let many: Vec<_> = names.iter().map(|n| (n.as_str(), "x")).collect();
        assert_eq!(request(parts("http://a/", &many), true).unwrap_err().reason, Reason::HeadTooLarge);
        let crumbs = vec![("cookie", "c"); 500];
        assert_eq!(request(parts("http://a/", &crumbs), true).unwrap().fields.len(), 1);
        let long = "c".repeat(1000);
        let bomb = vec![("cookie", long.as_str()); 70];
        assert_eq!(request(parts("http://a/", &bomb), true).unwrap_err().reason, Reason::HeadTooLarge);
    }

    #[test]
    fn round_trip() {
        let mut head = RequestHead::new(Method::Post, "web", "/a.B/C?x=%2F");
        head.fields.append("Content-Type", b"application/grpc");
        head.fields.append("TE", b"trailers");
        head.fields.append("Connection", b"x");
        head.length = BodyLength::Unknown;
        let found =
            request(to_request(&head, SocketAddr::from(([127, 0, 0, 1], 80))).unwrap().into_parts().0, false).unwrap();
        head.fields.remove("connection");
        head.version = Version::Http2;
        assert_eq!(found, head);
    }
}
