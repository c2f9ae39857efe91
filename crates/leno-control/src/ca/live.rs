//! What each open stream trusts and presents: the facts that a rotation of the root waits for.

use std::collections::BTreeMap;

use leno_identity::{PeerIdentity, RootPin};

/// The highest bundle version that a member may claim to hold: beyond it numbers are not exact in every reader of JSON, and
/// whoever lies could otherwise use up those that are left.
pub const MAX_CLAIM: u64 = 1 << 53;

/// One open stream.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Who.
    pub peer: PeerIdentity,
    /// Its instance id.
    pub instance: String,
    /// The bundle version it judges by.
    pub bundle: u64,
    /// The root that its newest leaf chains to.
    root: RootPin,
    /// When that leaf was issued over this stream, Unix seconds; 0 if before.
    issued: u64,
}

impl Stream {
    /// `namespace/instance`, for people.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.peer.spiffe.namespace().unwrap_or("-"), self.instance)
    }
}

/// The open streams, by id.
#[derive(Debug, Default)]
pub struct Live {
    streams: BTreeMap<u64, Stream>,
}

impl Live {
    /// A stream said hello.
    pub fn opened(&mut self, stream: u64, peer: PeerIdentity, instance: &str, bundle: u64) {
        let root = peer.root;
        self.streams.insert(stream, Stream { peer, instance: instance.to_owned(), bundle, root, issued: 0 });
    }

    /// It judges by this bundle from now on.
    pub fn bundle_applied(&mut self, stream: u64, version: u64) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.bundle = stream.bundle.max(version);
        }
    }

    /// It got a new leaf.
    pub fn renewed(&mut self, stream: u64, root: RootPin, now: u64) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            // A leaf under the same root changes nothing that is waited for.
            if stream.root != root {
                (stream.root, stream.issued) = (root, now);
            }
        }
    }

    /// It is over.
    pub fn closed(&mut self, stream: u64) {
        self.streams.remove(&stream);
    }

    /// A stream.
    #[must_use]
    pub fn get(&self, stream: u64) -> Option<&Stream> {
        self.streams.get(&stream)
    }

    /// All, by id.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Stream)> {
        self.streams.iter().map(|(id, stream)| (*id, stream))
    }

    /// Streams that do not judge by this bundle: by an older one, or by one from a time that a restored backup does not know.
    pub fn behind(&self, version: u64) -> impl Iterator<Item = &Stream> {
        self.streams.values().filter(move |s| s.bundle != version)
    }

    /// The stream with the newest bundle after this version. Versions grow only here, so there is one only if we were restored
    /// from a backup, or if it lies.
    #[must_use]
    pub fn ahead(&self, version: u64) -> Option<&Stream> {
        self.streams.values().filter(|s| (version + 1..=MAX_CLAIM).contains(&s.bundle)).max_by_key(|s| s.bundle)
    }

    /// Streams whose leaf is of another root, or of this one only since after `settled`.
    pub fn not_under(&self, root: RootPin, settled: u64) -> impl Iterator<Item = &Stream> {
        self.streams.values().filter(move |s| s.root != root || s.issued > settled)
    }
}
