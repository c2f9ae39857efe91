//! Messages of the discovery protocol, and a stored collection.
//!
//! The first byte chooses: 0 a control plane's message to a proxy's session, 1 a proxy's to a control plane's, 2 a stored
//! collection; else the messages of enrolment.

use std::time::Instant;

use bytes::Bytes;
use leno_discovery::proto;
use leno_discovery::session::client::{ClientSession, ClientSettings};
use leno_discovery::session::server::ServerSession;
use leno_discovery::{CollectionName, snapshot};
use prost::Message;

/// Messages one after the other, each with its length, as gRPC would give them.
fn messages<M: Message + Default>(mut bytes: &[u8]) -> impl Iterator<Item = M> {
    std::iter::from_fn(move || if bytes.is_empty() { None } else { M::decode_length_delimited(&mut bytes).ok() })
}

/// See the module.
pub fn run(data: &[u8]) {
    let [which, rest @ ..] = data else { return };
    let name: CollectionName = "out:shop/web".parse().expect("a fine name");
    match which {
        0 => {
            let now = Instant::now();
            let mut session = ClientSession::new(ClientSettings::default(), now);
            session.subscribe(&name, std::collections::BTreeMap::new(), now);
            session.connected();
            for message in messages::<proto::ServerMessage>(rest) {
                if session.receive(message).is_err() {
                    return;
                }
                while session.next_message().is_some() {}
            }
            session.disconnected(now, 0.5);
        }
        1 => {
            let mut session = ServerSession::new(Instant::now());
            for message in messages::<proto::ClientMessage>(rest) {
                if session.receive(message).is_err() {
                    return;
                }
            }
        }
        2 => {
            let Ok(entries) = snapshot::decode(&name, Bytes::copy_from_slice(rest)) else { return };
            let again = snapshot::encode(&name, &entries);
            assert_eq!(snapshot::decode(&name, again).expect("what we write we read"), entries);
        }
        _ => {
            let _ = proto::RedeemRequest::decode(rest);
            let _ = proto::RedeemResponse::decode(rest);
            let _ = leno_identity::bundle::TrustBundle::from_json(rest);
        }
    }
}
