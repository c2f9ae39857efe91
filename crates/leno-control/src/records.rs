//! Records of the control plane's own in the store, and reading and writing them with optimistic concurrency.
//!
//! Their kinds begin with `leno:`, which no resource kind does, so that the REST API cannot name them.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use leno_identity::SecretHash;
use leno_store::{Expect, Key, Store, StoreError, Version};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Attempts of a read-change-write cycle: each loses only to another writer's success, so this many in a row mean a fault.
const MAX_ATTEMPTS: usize = 16;

/// A record that lives under one kind.
pub trait Stored: Serialize + DeserializeOwned {
    /// The store's kind.
    const KIND: &'static str;
}

/// What an identity may register (D5). Key: namespace and service account. Written when a token is redeemed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Grant {
    /// Services of its own namespace.
    pub services: BTreeSet<String>,
}

/// A join token. Key: its id. The secret is stored as a hash.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    /// Hash of the secret.
    pub secret: SecretHash,
    /// Where its redeemer lives.
    pub namespace: String,
    /// The identity's service account.
    pub service_account: String,
    /// What may be registered.
    pub services: BTreeSet<String>,
    /// Unix seconds.
    pub created: u64,
    /// Unix seconds.
    pub expires: u64,
    /// Set by the first redemption.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redemption: Option<Redemption>,
}

/// Who redeemed a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Redemption {
    /// SHA-256 of the public key, hex: the same key may redeem again, another may not.
    pub key: String,
    /// Unix seconds.
    pub at: u64,
}

/// A virtual address pair. Key: the last two bytes of the IPv4 address as text, so that one can be given out only once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vip {
    /// Of whom.
    pub namespace: String,
    /// Of whom.
    pub service: String,
    /// From 244.0.0.0/16.
    pub v4: Ipv4Addr,
    /// From the mesh's own /48.
    pub v6: Ipv6Addr,
    /// Unix seconds since the service is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<u64>,
}

/// An entry of the revocation list. Key: its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationRecord {
    /// A SPIFFE ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// For people.
    #[serde(default)]
    pub comment: String,
    /// Unix seconds.
    pub created: u64,
    /// Unix seconds after which no certificate that it covers can be valid or renewed; 0 for never.
    #[serde(default)]
    pub until: u64,
}

/// What is fixed at the first start. One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshRecord {
    /// The trust domain.
    pub trust_domain: String,
    /// The /48 that IPv6 virtual addresses are from (RFC 4193: random, so that two meshes can meet).
    pub prefix6: Ipv6Addr,
}

/// The version of the trust bundle with what it was made from. One record.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BundleRecord {
    /// Grows with every change of the content.
    pub version: u64,
    /// Hash of the content.
    pub content: String,
}

impl Stored for Grant {
    const KIND: &'static str = "leno:Grant";
}
impl Stored for Token {
    const KIND: &'static str = "leno:Token";
}
impl Stored for Vip {
    const KIND: &'static str = "leno:Vip";
}
impl Stored for RevocationRecord {
    const KIND: &'static str = "leno:Revocation";
}
impl Stored for MeshRecord {
    const KIND: &'static str = "leno:Mesh";
}
impl Stored for BundleRecord {
    const KIND: &'static str = "leno:Bundle";
}

/// Why a record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The record does not decode: written by a later version, or damaged.
    #[error("{key} in the store does not decode: {source}")]
    Damaged {
        /// Which.
        key: Key,
        /// Why.
        source: serde_json::Error,
    },
    /// Other writers were faster too often.
    #[error("{0} is being written by too many at once")]
    Contended(Key),
}

impl RecordError {
    /// Whether it is a lost race, which reading again resolves.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Store(StoreError::Conflict { .. } | StoreError::NotFound(_)))
    }
}

/// The key of a record.
#[must_use]
pub fn key<T: Stored>(namespace: &str, name: &str) -> Key {
    Key::new(T::KIND, namespace, name)
}

fn decode<T: Stored>(key: &Key, value: &[u8]) -> Result<T, RecordError> {
    serde_json::from_slice(value).map_err(|source| RecordError::Damaged { key: key.clone(), source })
}

fn encode<T: Stored>(record: &T) -> Bytes {
    serde_json::to_vec(record).expect("records are plain data with text keys").into()
}

/// Reads a record.
pub async fn load<T: Stored>(store: &dyn Store, key: &Key) -> Result<Option<(T, Version)>, RecordError> {
    match store.get(key).await? {
        Some(record) => Ok(Some((decode(key, &record.value)?, record.version))),
        None => Ok(None),
    }
}

/// Reads all records of a type, with their keys.
pub async fn load_all<T: Stored>(store: &dyn Store) -> Result<Vec<(Key, T)>, RecordError> {
    let (records, _) = leno_store::contract::list_all(store, T::KIND, None).await?;
    records.into_iter().map(|r| decode(&r.key, &r.value).map(|record| (r.key, record))).collect()
}

/// Writes a record.
pub async fn save<T: Stored>(store: &dyn Store, key: &Key, record: &T, expect: Expect) -> Result<Version, RecordError> {
    Ok(store.put(key, encode(record), expect).await?)
}

/// Reads, changes and writes until no other writer comes between. `change` returns `None` to leave things as they are.
/// Returns the record as it now is.
pub async fn update<T: Stored>(
    store: &dyn Store,
    key: &Key,
    mut change: impl FnMut(Option<&T>) -> Option<T>,
) -> Result<Option<T>, RecordError> {
    for _ in 0..MAX_ATTEMPTS {
        let found = load::<T>(store, key).await?;
        let Some(wanted) = change(found.as_ref().map(|f| &f.0)) else { return Ok(found.map(|f| f.0)) };
        let expect = found.map_or(Expect::Absent, |(_, version)| Expect::Version(version));
        match save(store, key, &wanted, expect).await {
            Ok(_) => return Ok(Some(wanted)),
            Err(e) if e.is_conflict() => {}
            Err(e) => return Err(e),
        }
    }
    Err(RecordError::Contended(key.clone()))
}

/// Deletes a record; absent is fine.
pub async fn remove(store: &dyn Store, key: &Key, expect: Expect) -> Result<(), RecordError> {
    match store.delete(key, expect).await {
        Ok(()) | Err(StoreError::NotFound(_)) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
