//! Our records against the library's own, and against what no peer should send.

use std::io::{Read, Write};
use std::sync::Arc;

use leno_identity::{Authority, KeyPair, TrustBundle, csr};
use leno_model::{SpiffeId, TrustDomain};
use leno_runtime::ManualClock;
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConnection, SupportedCipherSuite};

use super::*;
use crate::tls::context::{TlsContext, TlsIdentity, server_config};
use crate::tls::handshake::Handshake;
use crate::tls::judge::{Judge, Permitted, Trust};
use crate::tls::provider;

const NOW: u64 = 1_800_000_000;

fn context() -> TlsContext {
    let domain = TrustDomain::default();
    let mut authority = Authority::in_memory(&domain, NOW).unwrap();
    let id = SpiffeId::new("spiffe://mesh.leno/ns/shop/sa/web").unwrap();
    let key = KeyPair::generate().unwrap();
    let request = csr::verify(&csr::make(&key).unwrap(), &id).unwrap();
    let issued = authority.issue(&request, &id, 3600, NOW).unwrap();
    let bundle = Arc::new(TrustBundle::single(1, domain, authority.roots()));
    TlsContext::new(TlsIdentity::new(issued.chain, &key).unwrap(), bundle, 1, Arc::new(ManualClock::at(NOW))).unwrap()
}

fn judge(context: &TlsContext) -> Arc<Judge> {
    let permitted = Permitted::AnyMember;
    Judge::new(Trust::Bundle { anchors: context.anchors(), permitted, expired_grace_s: 0 }, true)
}

/// A client's settings with one cipher only.
fn client_config(context: &TlsContext, suite: SupportedCipherSuite) -> ClientConfig {
    let provider = CryptoProvider { cipher_suites: vec![suite], ..CryptoProvider::clone(provider()) };
    struct At;
    impl std::fmt::Debug for At {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("At")
        }
    }
    impl rustls::time_provider::TimeProvider for At {
        fn current_time(&self) -> Option<rustls_pki_types::UnixTime> {
            Some(rustls_pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(NOW)))
        }
    }
    ClientConfig::builder_with_details(Arc::new(provider), Arc::new(At))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(judge(context))
        .with_client_cert_resolver(context.identity().resolver())
}

/// Our records at one end, the library's connection at the other.
fn with_library(suite: SupportedCipherSuite, is_client_ours: bool) -> (Records, Connection) {
    let context = context();
    let name = "web.shop".try_into().unwrap();
    let (client, server) = (client_config(&context, suite), server_config(&context, judge(&context), &[]));
    let (mut ours, mut theirs) = if is_client_ours {
        let ours = Handshake::client(client, name).unwrap();
        (ours, Connection::from(ServerConnection::new(Arc::new(server)).unwrap()))
    } else {
        let ours = Handshake::server(server, context.identity().resolver()).unwrap();
        (ours, Connection::from(ClientConnection::new(Arc::new(client), name).unwrap()))
    };
    theirs.set_buffer_limit(None);
    let (mut to_us, mut plain) = (Vec::new(), Buffer::new());
    for _ in 0..10 {
        let mut to_them = Buffer::new();
        let progress = ours.advance(&to_us, &mut plain, &mut to_them).unwrap();
        feed(&mut theirs, &to_them).unwrap();
        to_us = drain(&mut theirs);
        if progress.is_complete {
            let (records, rest) = ours.finish().unwrap();
            assert!(rest.is_empty() && plain.is_empty() && to_us.is_empty() && !theirs.is_handshaking());
            return (records, theirs);
        }
    }
    panic!("the handshake never ends");
}

fn feed(theirs: &mut Connection, mut bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let mut plain = Vec::new();
    while !bytes.is_empty() {
        theirs.read_tls(&mut bytes).unwrap();
        theirs.process_new_packets()?;
        let _ = theirs.reader().read_to_end(&mut plain);
    }
    Ok(plain)
}

fn drain(theirs: &mut Connection) -> Vec<u8> {
    let mut out = Vec::new();
    while theirs.wants_write() {
        theirs.write_tls(&mut out).unwrap();
    }
    out
}

/// Two ends of ours.
fn pair() -> (Records, Records) {
    let context = context();
    let suite = provider().cipher_suites[0];
    let mut client = Handshake::client(client_config(&context, suite), "web.shop".try_into().unwrap()).unwrap();
    let server = server_config(&context, judge(&context), &[]);
    let mut server = Handshake::server(server, context.identity().resolver()).unwrap();
    let (mut to_client, mut plain) = (Buffer::new(), Buffer::new());
    loop {
        let (mut to_server, from_server) = (Buffer::new(), std::mem::take(&mut to_client));
        let is_client_done = client.advance(&from_server, &mut plain, &mut to_server).unwrap().is_complete;
        let is_server_done = server.advance(&to_server, &mut plain, &mut to_client).unwrap().is_complete;
        if is_client_done && is_server_done {
            return (client.finish().unwrap().0, server.finish().unwrap().0);
        }
    }
}

fn open(records: &mut Records, bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let mut plain = Buffer::new();
    records.open(bytes, &mut plain).map(|()| plain.to_vec())
}

fn seal(records: &mut Records, plain: &[u8]) -> Buffer {
    let mut out = Buffer::new();
    records.seal(plain, &mut out).unwrap();
    out
}

fn body(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 251) as u8).collect()
}

#[test]
fn every_cipher_and_role_meets_the_library() {
    for suite in provider().cipher_suites.clone() {
        for is_client_ours in [true, false] {
            let (mut ours, mut theirs) = with_library(suite, is_client_ours);
            // Replaced after three records, and once in between because they ask for it.
            ours.share = ours.sealing.used + 3;
            for length in [1, 100, MAX_CONTENT, MAX_CONTENT + 1, 200_000] {
                let sent = body(length);
                let sealed = seal(&mut ours, &sent);
                assert_eq!(feed(&mut theirs, &sealed).unwrap(), sent, "{suite:?}, client {is_client_ours}");
                ours.share = 3;
                theirs.writer().write_all(&sent).unwrap();
                assert_eq!(open(&mut ours, &drain(&mut theirs)).unwrap(), sent);
                theirs.refresh_traffic_keys().unwrap();
                assert_eq!(open(&mut ours, &drain(&mut theirs)).unwrap(), b"");
            }
            theirs.send_close_notify();
            assert_eq!(open(&mut ours, &drain(&mut theirs)).unwrap(), b"");
            assert!(ours.is_closed_by_peer());
            let mut out = seal(&mut ours, b"still");
            ours.close(&mut out).unwrap();
            ours.seal(b"nothing", &mut out).unwrap();
            assert_eq!(feed(&mut theirs, &out).unwrap(), b"still");
            assert!(theirs.process_new_packets().unwrap().peer_has_closed());
        }
    }
}

#[test]
fn an_answer_to_a_key_update_goes_before_the_next_record_and_once() {
    let (mut client, mut server) = pair();
    let mut asked = Buffer::new();
    for _ in 0..3 {
        client.sealing.seal(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 1], &mut asked).unwrap();
        client.sealing = client.secrets.next_sealing().unwrap();
    }
    assert_eq!(open(&mut server, &asked).unwrap(), b"");
    let plain = seal(&mut server, b"x").len() - seal(&mut server, b"x").len();
    assert_eq!(plain, HEADER + 5 + 1 + TAG, "one KeyUpdate, however often they asked");
    let (mut client, mut server) = pair();
    client.share = client.sealing.used;
    let sealed = seal(&mut client, b"first");
    assert_eq!((open(&mut server, &sealed).unwrap(), server.owes_update), (b"first".to_vec(), false));
}

#[test]
fn the_share_of_a_key_is_the_ciphers_own() {
    assert_eq!(pair().0.share, 1 << 24);
}

#[test]
fn what_was_changed_is_not_opened() {
    let sent = body(40);
    let count = HEADER + sent.len() + 1 + TAG;
    for at in 0..count {
        let (mut client, mut server) = pair();
        let mut sealed = seal(&mut client, &sent);
        assert_eq!(sealed.len(), count);
        sealed[at] ^= 1;
        // Enough behind it for a length that has grown by 256.
        (0..6).for_each(|_| sealed.extend_from_slice(&seal(&mut client, &sent)));
        let mut plain = Buffer::new();
        let error = server.open(&sealed, &mut plain).unwrap_err();
        assert!(plain.is_empty(), "byte {at}");
        let mut alert = Buffer::new();
        server.fail(&error, &mut alert);
        assert!(matches!(open(&mut client, &alert), Err(Error::AlertReceived(_))), "byte {at}: {error}");
    }
}

#[test]
fn records_neither_repeat_nor_change_places_nor_get_lost() {
    for order in [&[0, 0][..], &[1, 0], &[1]] {
        let (mut client, mut server) = pair();
        let sealed = [seal(&mut client, b"one"), seal(&mut client, b"two")];
        let bytes: Vec<u8> = order.iter().flat_map(|&n| sealed[n].to_vec()).collect();
        assert_eq!(open(&mut server, &bytes), Err(Error::DecryptError), "{order:?}");
    }
    let (mut client, mut server) = pair();
    let sealed = seal(&mut client, b"to the server");
    assert_eq!(open(&mut client, &sealed), Err(Error::DecryptError), "not what we said ourselves");
    assert_eq!(open(&mut server, &sealed).unwrap(), b"to the server");
}

#[test]
fn lengths_and_kinds_are_judged_before_the_record_is_there() {
    for (header, expected) in [
        ([DATA, 3, 3, 0x41, 0x01], Error::PeerSentOversizedRecord),
        ([DATA, 3, 3, 0, 16], Error::DecryptError),
        ([20, 3, 3, 0, 1], InvalidMessage::InvalidContentType.into()),
        ([ALERT, 3, 3, 0, 2], InvalidMessage::InvalidContentType.into()),
        ([HANDSHAKE, 3, 3, 0, 100], InvalidMessage::InvalidContentType.into()),
    ] {
        assert_eq!(open(&mut pair().0, &header), Err(expected.clone()));
        let mut bytewise = pair().0;
        let result = header.iter().try_for_each(|b| open(&mut bytewise, &[*b]).map(drop));
        assert_eq!(result, Err(expected));
    }
}

#[test]
fn rules_behind_the_seal() {
    let update = |request: u8| vec![KEY_UPDATE, 0, 0, 1, request];
    let ticket = [vec![NEW_SESSION_TICKET, 0, 0, 20], vec![7; 20]].concat();
    let too_many_updates: Error = PeerMisbehaved::TooManyKeyUpdateRequests.into();
    let is_early = |kind, content: Vec<u8>| (kind, content, 1, true);
    // Kind, content, how often; the error that a server makes of it, or none.
    for ((kind, content, times, is_final), expected) in [
        (is_early(0, vec![]), Some(PeerMisbehaved::IllegalTlsInnerPlaintext.into())),
        (is_early(20, vec![1]), Some(PeerMisbehaved::IllegalMiddleboxChangeCipherSpec.into())),
        (is_early(99, vec![1]), Some(PeerMisbehaved::IllegalMiddleboxChangeCipherSpec.into())),
        (is_early(ALERT, vec![2]), Some(InvalidMessage::MessageTooShort.into())),
        (is_early(ALERT, vec![2, 80]), Some(Error::AlertReceived(AlertDescription::InternalError))),
        (is_early(ALERT, vec![1, 90]), None),
        ((ALERT, vec![1, 90], 33, true), Some(PeerMisbehaved::TooManyWarningAlertsReceived.into())),
        (is_early(HANDSHAKE, vec![]), Some(InvalidMessage::InvalidEmptyPayload.into())),
        (is_early(HANDSHAKE, update(2)), Some(InvalidMessage::InvalidKeyUpdate.into())),
        (is_early(HANDSHAKE, vec![KEY_UPDATE, 0, 0, 0]), Some(InvalidMessage::InvalidKeyUpdate.into())),
        (
            is_early(HANDSHAKE, [update(0), update(0)].concat()),
            Some(PeerMisbehaved::KeyEpochWithPendingFragment.into()),
        ),
        (is_early(HANDSHAKE, vec![KEY_UPDATE, 1, 0, 1]), Some(InvalidMessage::HandshakePayloadTooLarge.into())),
        (
            is_early(HANDSHAKE, ticket),
            Some(Error::InappropriateHandshakeMessage {
                expect_types: vec![rustls::HandshakeType::KeyUpdate],
                got_type: rustls::HandshakeType::NewSessionTicket,
            }),
        ),
        ((DATA, vec![], 32, false), None),
        ((DATA, vec![], 33, true), Some(PeerMisbehaved::TooManyEmptyFragments.into())),
    ] {
        let (mut client, mut server) = pair();
        let mut bytes = Buffer::new();
        (0..times).for_each(|_| client.sealing.seal(kind, &content, &mut bytes).unwrap());
        if !is_final {
            client.seal(b"x", &mut bytes).unwrap();
            (0..times).for_each(|_| client.sealing.seal(kind, &content, &mut bytes).unwrap());
        }
        assert_eq!(open(&mut server, &bytes).err(), expected, "{kind} {content:?}");
    }
    let (mut client, mut server) = pair();
    let mut bytes = Buffer::new();
    for _ in 0..33 {
        client.sealing.seal(HANDSHAKE, &update(0), &mut bytes).unwrap();
        client.sealing = client.secrets.next_sealing().unwrap();
    }
    assert_eq!(open(&mut server, &bytes), Err(too_many_updates));
}

#[test]
fn messages_may_be_cut_and_tickets_are_passed_over() {
    let ticket = [vec![NEW_SESSION_TICKET, 0, 0, 20], vec![7; 20]].concat();
    let (mut client, mut server) = pair();
    let mut bytes = Buffer::new();
    server.sealing.seal(HANDSHAKE, &[&ticket[..], &ticket[..5]].concat(), &mut bytes).unwrap();
    server.sealing.seal(HANDSHAKE, &ticket[5..], &mut bytes).unwrap();
    server.seal(b"data", &mut bytes).unwrap();
    assert_eq!(open(&mut client, &bytes).unwrap(), b"data");
    assert!(client.message.capacity() == 0 && client.partial.capacity() == 0);
    bytes.clear();
    server.sealing.seal(HANDSHAKE, &ticket[..5], &mut bytes).unwrap();
    server.seal(b"data", &mut bytes).unwrap();
    assert_eq!(open(&mut client, &bytes), Err(PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into()));
}

#[test]
fn padding_is_taken_off_and_its_size_is_bounded() {
    for (content, padding) in [(&b"abc"[..], 0), (b"abc", 1), (b"abc", 5000), (b"", 77), (b"ab\0\0", 3)] {
        let (mut client, mut server) = pair();
        let mut bytes = Buffer::new();
        // `seal` puts one byte behind the content: a zero, and the kind stands before it.
        let padded = [content, &[DATA], &vec![0; padding][..]].concat();
        client.sealing.seal(0, &padded, &mut bytes).unwrap();
        assert_eq!(open(&mut server, &bytes).unwrap(), content);
    }
    let (mut client, mut server) = pair();
    let mut bytes = Buffer::new();
    client.sealing.seal(DATA, &vec![1; MAX_CONTENT + 1], &mut bytes).unwrap();
    assert_eq!(open(&mut server, &bytes), Err(Error::PeerSentOversizedRecord));
}

#[test]
fn nothing_is_taken_after_the_last_word() {
    let (mut client, mut server) = pair();
    let mut bytes = seal(&mut client, b"last");
    client.close(&mut bytes).unwrap();
    bytes.extend_from_slice(&[0xff; 100]);
    assert_eq!(open(&mut server, &bytes).unwrap(), b"last");
    assert!(server.is_closed_by_peer());
    assert_eq!(open(&mut server, &[0; 10]).unwrap(), b"");
    let mut again = Buffer::new();
    client.close(&mut again).unwrap();
    assert!(again.is_empty());
}

#[test]
fn an_idle_session_holds_its_keys_and_no_buffer() {
    let (mut client, mut server) = pair();
    for _ in 0..10 {
        let sealed = seal(&mut client, &body(40_000));
        for piece in sealed.chunks(1000) {
            open(&mut server, piece).unwrap();
        }
    }
    assert_eq!((server.partial.capacity(), server.message.capacity(), client.partial.capacity()), (0, 0, 0));
    let (records, session) = (size_of::<Records>(), size_of::<crate::TlsSession>());
    assert!(records <= 2048 && session <= 512, "{records} and {session} bytes");
}
