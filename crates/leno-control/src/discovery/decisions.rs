//! What a proxy may do: decided here from its verified identity, and carried out by the parts that own each matter (D5, D14).
//!
//! | request | permitted to |
//! |---|---|
//! | enrolment | whoever has a join token |
//! | `mesh`, `out:…` | every member of the mesh |
//! | `in:…`, registration | members whose credential names the service |
//! | renewal | every member for itself, also with a leaf that expired a while ago, which may do nothing else |

use std::sync::Arc;

use bytes::Bytes;
use leno_discovery::proto;
use leno_discovery::server::{Ended, Refusal, Service, StreamHandle};
use leno_discovery::{CollectionName, Hub, Key, limits};
use leno_identity::{Issued, PeerIdentity};
use leno_model::Reason;

use super::accept::Peer;
use super::feed;
use super::streams::{Streams, message};
use crate::assembly::Parts;
use crate::audit::Principal;
use crate::ca::live::MAX_CLAIM;
use crate::registry::Registration;
use crate::registry::admission::{RegisteredAddress, RegisteredPort, RegisteredService};

/// See the module.
pub(super) struct Decisions {
    pub(super) parts: Arc<Parts>,
    pub(super) hub: Arc<Hub>,
    pub(super) streams: Arc<Streams>,
}

impl Decisions {
    fn member<'p>(&self, peer: &'p Peer, stream: &StreamHandle) -> Result<&'p PeerIdentity, Refusal> {
        let identity = verified(peer)?;
        if self.streams.is_member(stream.id(), self.parts.clock.unix_seconds()) {
            return Ok(identity);
        }
        let detail = "the certificate has expired: renew it and connect again";
        Err(Refusal::new(Reason::CertificateExpired, detail))
    }

    /// The leaf of the handshake; a later one of the stream is `Ca::renew`'s to judge.
    fn not_revoked(&self, identity: &PeerIdentity) -> Result<(), Refusal> {
        let verdict = self.parts.ca.bundle().borrow().check_revocation(&identity.spiffe, &identity.serial);
        verdict.map_err(|e| Refusal::new(Reason::CertificateRevoked, e.to_string()))
    }
}

fn verified(peer: &Peer) -> Result<&PeerIdentity, Refusal> {
    let without = || Refusal::new(Reason::UnauthorisedMember, "a client certificate of the mesh is needed");
    peer.identity.as_ref().ok_or_else(without)
}

/// The name under which a proxy's reports are kept.
fn proxy_name(identity: &PeerIdentity, stream: &StreamHandle) -> String {
    format!("{} {}", identity.spiffe, stream.id())
}

fn chain(issued: &Issued) -> Vec<Bytes> {
    issued.chain.iter().map(|c| Bytes::copy_from_slice(c)).collect()
}

impl Service for Decisions {
    type Peer = Peer;

    async fn hello(&self, peer: &Peer, hello: &proto::Hello, stream: &StreamHandle) -> Result<proto::Welcome, Refusal> {
        let identity = verified(peer)?;
        self.not_revoked(identity)?;
        let renew_only = identity.is_expired(self.parts.clock.unix_seconds());
        self.streams.opened(stream, identity, renew_only);
        if !renew_only {
            if hello.bundle_version > MAX_CLAIM {
                let (member, version) = (&identity.spiffe, hello.bundle_version);
                tracing::warn!(%member, version, "a member claims a trust bundle version that is not followed");
            }
            // A rotation waits for members; one that only renews becomes one with its next stream.
            self.parts.ca.live().opened(stream.id(), identity.clone(), &hello.instance, hello.bundle_version);
        }
        // After `opened`: a bundle that is published between the two is sent by one of them.
        let newest = self.parts.ca.bundle().borrow().clone();
        stream.bundle(&message(&newest));
        Ok(proto::Welcome {
            protocol: limits::PROTOCOL,
            software: concat!("leno/", env!("CARGO_PKG_VERSION")).to_owned(),
            trust_domain: self.parts.ca.trust_domain().to_string(),
            identity: identity.spiffe.to_string(),
            ..proto::Welcome::default()
        })
    }

    async fn authorise(&self, peer: &Peer, stream: &StreamHandle, collection: &CollectionName) -> Result<(), Refusal> {
        let identity = &self.member(peer, stream)?.spiffe;
        let CollectionName::Inbound(service) = collection else { return Ok(()) };
        if self.parts.world.permits(identity, service) {
            return Ok(());
        }
        // The world may be a moment behind the store.
        let (namespace, account) = identity.workload_parts().unwrap_or_default();
        let grant = self.parts.ca.grant(namespace, account).await?;
        let granted = grant.is_some_and(|g| g.services.contains(service.name.as_str()));
        if granted && namespace == service.namespace.as_str() {
            return Ok(());
        }
        let detail = format!("{identity} may not serve {service}");
        let principal = Principal::Workload(identity.to_string());
        let (reason, object) = (Reason::UnauthorisedMember, collection.to_string());
        self.parts.audit.refuse(&principal, "subscribe", &object, reason.as_str(), &detail).await;
        Err(Refusal::new(reason, detail))
    }

    fn wanted(&self, collection: &CollectionName) {
        feed::fill(&self.parts.world, &self.hub, collection);
    }

    fn unwanted(&self, _: &CollectionName) {
        // The hub has forgotten it; the world keeps its own.
    }

    fn applied(&self, peer: &Peer, stream: &StreamHandle, key: &Key, version: u64, error: Option<&str>) {
        let Some(identity) = &peer.identity else { return };
        if let Some(error) = error {
            tracing::warn!(proxy = %identity.spiffe, resource = %key, error, "a proxy refuses a resource");
        }
        self.parts.reports.applied(&proxy_name(identity, stream), key, version, error);
    }

    async fn register(&self, peer: &Peer, stream: &StreamHandle, registration: proto::Register) -> Result<(), Refusal> {
        let identity = self.member(peer, stream)?;
        self.parts.registry.register(&identity.spiffe, stream.id(), &registered(registration)).await
    }

    async fn deregister(
        &self,
        peer: &Peer,
        stream: &StreamHandle,
        instance: &str,
        generation: u64,
    ) -> Result<(), Refusal> {
        let identity = self.member(peer, stream)?;
        self.parts.registry.deregister(&identity.spiffe, instance, generation).await
    }

    async fn renew(&self, peer: &Peer, stream: &StreamHandle, csr: &[u8]) -> Result<Vec<Bytes>, Refusal> {
        let came_as = verified(peer)?;
        self.not_revoked(came_as)?;
        let newest = self.streams.newest(stream.id()).unwrap_or_else(|| came_as.clone());
        let issued = self.parts.ca.renew(&newest, csr, Some(stream.id())).await?;
        self.streams.issued(stream.id(), &issued);
        Ok(chain(&issued))
    }

    fn bundle_applied(&self, _: &Peer, stream: &StreamHandle, version: u64) {
        self.parts.ca.live().bundle_applied(stream.id(), version);
    }

    fn answered(&self, _: &Peer, stream: &StreamHandle, answer: proto::QueryAnswer) {
        // Nothing is asked yet that is still waited for here.
        tracing::debug!(stream = stream.id(), query = answer.id, "an answer that nobody waits for");
    }

    async fn closed(&self, peer: &Peer, stream: &StreamHandle, _: Ended) {
        // Closed or lost: a proxy that meant to leave has deregistered before.
        self.streams.closed(stream.id());
        self.parts.ca.live().closed(stream.id());
        self.parts.registry.stream_lost(stream.id());
        if let Some(identity) = &peer.identity {
            self.parts.reports.gone(&proxy_name(identity, stream));
        }
    }

    async fn redeem(&self, peer: &Peer, request: proto::RedeemRequest) -> Result<proto::RedeemResponse, Refusal> {
        let proto::RedeemRequest { token_id, token_secret, csr, instance } = request;
        let redeemed = self.parts.tokens.redeem(&token_id, &token_secret, &csr, &instance).await.inspect_err(|refusal| {
            tracing::warn!(peer = %peer.address, reason = %refusal.reason, detail = refusal.detail, "an enrolment is refused");
        })?;
        let bundle = self.parts.ca.bundle().borrow().clone();
        Ok(proto::RedeemResponse {
            chain: chain(&redeemed.issued),
            bundle: Some(message(&bundle)),
            identity: redeemed.issued.identity.to_string(),
            namespace: redeemed.namespace,
            services: redeemed.services.into_iter().collect(),
        })
    }
}

fn registered(message: proto::Register) -> Registration {
    let port = |p: proto::RegisteredPort| RegisteredPort {
        name: p.name,
        port: p.port,
        target_port: p.target_port,
        protocol: p.protocol,
    };
    let service = |s: proto::RegisteredService| RegisteredService {
        name: s.name,
        ports: s.ports.into_iter().map(port).collect(),
    };
    let address =
        |a: proto::TransportAddress| RegisteredAddress { transport: a.transport, address: a.address, port: a.port };
    Registration {
        instance: message.instance,
        generation: message.generation,
        namespace: message.namespace,
        services: message.services.into_iter().map(service).collect(),
        addresses: message.addresses.into_iter().map(address).collect(),
        labels: message.labels,
        zone: message.zone,
        conditions: message.conditions,
    }
}
