//! A collection as bytes on disk, so that a proxy can start from what it last had (D11).
//!
//! A header line, then the wire's own `Resource` messages with their lengths: exact, compact, and readable by later versions
//! for the same reason as the wire is.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

use crate::collection::{CollectionName, Entry, Key};
use crate::proto;

const MAGIC: &[u8] = b"leno collection 1\n";

/// A file that is not a collection, or was cut off. It counts as absent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a stored collection: {0}")]
pub struct SnapshotError(String);

/// Writes a collection.
#[must_use]
pub fn encode(name: &CollectionName, entries: &BTreeMap<Key, Entry>) -> Bytes {
    let mut out = BytesMut::from(MAGIC);
    // The number tells a whole file from one that was cut between two resources.
    out.put_u64(entries.len() as u64);
    let collection = name.to_string();
    for (key, entry) in entries {
        let resource = proto::Resource {
            collection: collection.clone(),
            key: Some(key.to_proto()),
            version: entry.version,
            body: entry.body.clone(),
            ..proto::Resource::default()
        };
        out.reserve(resource.encoded_len() + 10);
        resource.encode_length_delimited(&mut out).expect("room was reserved, and BytesMut grows");
    }
    out.freeze()
}

/// Reads what [`encode`] wrote; refuses a collection of another name.
pub fn decode(name: &CollectionName, mut bytes: Bytes) -> Result<BTreeMap<Key, Entry>, SnapshotError> {
    let error = |detail: &str| SnapshotError(detail.to_owned());
    if !bytes.starts_with(MAGIC) || bytes.len() < MAGIC.len() + 8 {
        return Err(error("no header"));
    }
    bytes.advance(MAGIC.len());
    let count = bytes.get_u64();
    let mut entries = BTreeMap::new();
    while !bytes.is_empty() {
        let resource =
            proto::Resource::decode_length_delimited(&mut bytes).map_err(|e| SnapshotError(e.to_string()))?;
        if resource.collection != name.to_string() {
            return Err(error("it is another collection"));
        }
        let key = Key::from_proto(resource.key).ok_or_else(|| error("a key is malformed"))?;
        entries.insert(key, Entry { version: resource.version, body: resource.body });
    }
    if entries.len() as u64 == count { Ok(entries) } else { Err(error("it was cut off")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collection_survives_and_a_damaged_one_is_refused() {
        let name: CollectionName = "out:shop/web".parse().unwrap();
        let entries: BTreeMap<Key, Entry> = (0..3)
            .map(|n| {
                (Key::new("Endpoint", "shop", &format!("e{n}")), Entry::new(Bytes::from(format!("{{\"n\":{n}}}"))))
            })
            .collect();
        let bytes = encode(&name, &entries);
        assert_eq!(decode(&name, bytes.clone()), Ok(entries));
        assert_eq!(decode(&name, encode(&name, &BTreeMap::new())), Ok(BTreeMap::new()));
        assert!(decode(&CollectionName::Mesh, bytes.clone()).is_err());
        for cut in 0..bytes.len() {
            assert!(decode(&name, bytes.slice(..cut)).is_err(), "cut at {cut}");
        }
        let mut flipped = bytes.to_vec();
        flipped[0] ^= 1;
        assert!(decode(&name, flipped.into()).is_err());
    }
}
