//! Who may call the API, and by which name: the admin token, and the Host check against DNS rebinding.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use leno_api::ErrorReason;
use leno_identity::SecretHash;
use leno_runtime::files::atomic_write;

use super::failure::Failure;
use super::{Api, Shared};
use crate::audit::Principal;

/// File name in the data directory, mode 0600.
pub const TOKEN_FILE: &str = "admin.token";
/// Bytes of the token.
const TOKEN_BYTES: usize = 32;
/// A shorter one in the file is taken for a mistake.
const MIN_TOKEN: usize = 32;

/// The admin token's hash and the names of this server.
#[derive(Debug)]
pub struct Access {
    token: SecretHash,
    hosts: Vec<String>,
}

impl Access {
    /// Access by this token, under these names beside addresses and `localhost`.
    #[must_use]
    pub fn new(token: &str, hosts: Vec<String>) -> Self {
        let hosts = hosts.into_iter().map(|h| h.to_ascii_lowercase()).collect();
        Self { token: SecretHash::of(token), hosts }
    }

    /// Reads the admin token, or makes it at the first start.
    pub fn token_in(directory: &Path) -> std::io::Result<String> {
        let path = directory.join(TOKEN_FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) if text.trim().len() >= MIN_TOKEN => Ok(text.trim().to_owned()),
            Ok(_) => {
                let message = format!(
                    "{} holds fewer than {MIN_TOKEN} characters; remove it to have a new one made",
                    path.display()
                );
                Err(std::io::Error::other(message))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let mut bytes = [0; TOKEN_BYTES];
                getrandom::fill(&mut bytes).map_err(|e| std::io::Error::other(e.to_string()))?;
                let token = URL_SAFE_NO_PAD.encode(bytes);
                atomic_write(&path, format!("{token}\n").as_bytes())?;
                Ok(token)
            }
            Err(e) => Err(e),
        }
    }

    fn permits(&self, headers: &HeaderMap) -> bool {
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        // Two of them is one too many to know which was meant.
        let (Some(value), None) = (given.next(), given.next()) else { return false };
        let Ok(text) = value.to_str() else { return false };
        let Some((scheme, token)) = text.split_once(' ') else { return false };
        // Hashed before it is compared, in constant time.
        scheme.eq_ignore_ascii_case("bearer") && self.token.matches(token.trim())
    }

    /// A page on another site can make a browser send requests here under a name that the site controls, never under an
    /// address or one of our names.
    fn knows(&self, authority: &str) -> bool {
        let host = match authority.strip_prefix('[') {
            Some(rest) => rest.split_once(']').map_or("", |(inside, _)| inside),
            None => authority.split(':').next().unwrap_or_default(),
        };
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        host == "localhost" || host.parse::<IpAddr>().is_ok() || self.hosts.contains(&host)
    }
}

/// Refuses requests without the admin token.
pub async fn authenticated(State(api): Shared, request: Request, next: Next) -> Response {
    if api.access.permits(request.headers()) {
        return next.run(request).await;
    }
    let given = if request.headers().contains_key(header::AUTHORIZATION) { "a wrong token" } else { "no token" };
    let object = format!("{} {}", request.method(), request.uri().path());
    api.audit.refuse(&Principal::Token("(api)".into()), "api", &object, "unauthenticated", given).await;
    let message = format!(
        "{given}: send the admin token as a bearer token; the first start wrote it to {TOKEN_FILE} in the data directory"
    );
    Failure::new(StatusCode::UNAUTHORIZED, ErrorReason::Unauthenticated, message).into_response()
}

/// Refuses requests for hosts that this is not.
pub async fn known_host(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().unwrap_or_default(),
        _ => return Failure::bad_request("a request names exactly one Host").into_response(),
    };
    // An absolute-form target must say the same (RFC 9112 section 3.2.2).
    let agrees = request.uri().authority().is_none_or(|a| a.as_str().eq_ignore_ascii_case(host));
    if agrees && api.access.knows(host) {
        return next.run(request).await;
    }
    let message = "the request's Host is not a name of this server; use its address, or --api-host NAME to add one";
    Failure::new(StatusCode::FORBIDDEN, ErrorReason::ForbiddenHost, message).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_names_are_known() {
        let access = Access::new("x", vec!["Mesh.example".into()]);
        for good in ["localhost", "LOCALHOST:15101", "127.0.0.1:1", "[::1]:15101", "10.1.2.3", "mesh.example.:80"] {
            assert!(access.knows(good), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "evil.example:15101",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "[::1",
            "a@b",
        ] {
            assert!(!access.knows(bad), "{bad}");
        }
    }

    #[test]
    fn the_token_is_made_once_and_kept_private() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let token = Access::token_in(directory.path()).unwrap();
        assert_eq!(Access::token_in(directory.path()).unwrap(), token);
        let file = directory.path().join(TOKEN_FILE);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&file, "short").unwrap();
        assert!(Access::token_in(directory.path()).unwrap_err().to_string().contains("admin.token"));
    }

    #[test]
    fn one_bearer_token_is_needed() {
        let access = Access::new("secret", Vec::new());
        let headers = |values: &[&str]| {
            let mut map = HeaderMap::new();
            for value in values {
                map.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            map
        };
        assert!(access.permits(&headers(&["Bearer secret"])) && access.permits(&headers(&["bearer secret"])));
        for bad in [
            &[][..],
            &["Bearer"],
            &["Bearer secre"],
            &["Basic secret"],
            &["secret"],
            &["Bearer secret", "Bearer secret"],
        ] {
            assert!(!access.permits(&headers(bad)), "{bad:?}");
        }
    }
}
