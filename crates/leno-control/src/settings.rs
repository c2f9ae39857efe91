//! The settings of a control plane, in one place.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use leno_model::TrustDomain;
use leno_plan::defaults;

/// Everything that can be set. [`Settings::new`] has the defaults.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Store, authority, audit log and admin token; made if missing.
    pub data_dir: PathBuf,
    /// Where REST is served. Loopback by default: it is plain HTTP.
    pub api: SocketAddr,
    /// Where proxies connect.
    pub discovery: SocketAddr,
    /// Fixed at the first start; none means whatever it was then, or the default.
    pub trust_domain: Option<TrustDomain>,
    /// Lifetime of leaves.
    pub leaf_ttl: Duration,
    /// How long a lost registration is kept.
    pub registration_grace: Duration,
    /// Host names, beside addresses and `localhost`, that requests to the API may name (against DNS rebinding).
    pub api_hosts: Vec<String>,
    /// How long open requests and streams may go on when the process is asked to end.
    pub drain: Duration,
}

impl Settings {
    /// The defaults of DESIGN sections 7 and 9.
    #[must_use]
    pub fn new(data_dir: PathBuf) -> Self {
        Self {
            data_dir,
            api: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15101),
            discovery: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 15100),
            trust_domain: None,
            leaf_ttl: defaults::LEAF_TTL,
            registration_grace: defaults::REGISTRATION_GRACE,
            api_hosts: Vec::new(),
            drain: Duration::from_secs(5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The authority knows no defaults but its own; the reference page prints these.
    #[test]
    fn the_authority_has_the_same_default() {
        assert_eq!(defaults::LEAF_TTL.as_secs(), leno_identity::ca::DEFAULT_TTL_S);
        assert_eq!(crate::tokens::MAX_TTL_S, 30 * 24 * 3600, "as the page says of join tokens");
    }
}
