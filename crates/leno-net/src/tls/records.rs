//! The record layer of TLS 1.3 after the handshake (RFC 8446 sections 4.6.3, 5 and 6): records opened and sealed from
//! where they lie to where they are wanted, without the queues and copies between.
//!
//! ```text
//!   bytes ─▶ records ─▶ opened ─┬─ application data ─▶ plain
//!                               ├─ KeyUpdate ─▶ the next key; an answer before we seal again, if asked for
//!                               └─ alert ─▶ closed, or an error
//!   plain ─▶ slices of 16 KiB ─▶ sealed ─▶ out          (a KeyUpdate first when the key has sealed its share)
//! ```
//!
//! The handshake and the derivation of every key are the TLS library's, the ciphers the cryptography library's; here are the
//! sequence numbers, the framing and the few messages that may still come. Why: docs/adr/0008-records-of-our-own.md.

#[cfg(test)]
mod tests;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, Error, ExtractedSecrets, InvalidMessage, PeerMisbehaved,
    SupportedCipherSuite,
};

use super::buffer::Buffer;

/// Type, version and length before every record.
const HEADER: usize = 5;
/// Of all three ciphers.
const TAG: usize = 16;
/// Most bytes of content in one record (RFC 8446 section 5.1).
pub(super) const MAX_CONTENT: usize = 16 * 1024;
/// Most bytes after the header: content, its type and padding, tag (RFC 8446 section 5.2).
const MAX_RECORD: usize = MAX_CONTENT + 256;
/// Records in a row that bring no data, as other libraries count them.
const MAX_FRUITLESS: u8 = 32;
/// A sequence number must not come back to 0; keys are replaced long before.
const MAX_RECORDS: u64 = 0xffff_ffff_ffff_0000;
/// Most bytes of a message after the handshake: a ticket, which we let pass.
const MAX_MESSAGE: usize = 64 * 1024;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// Where the next keys come from.
pub(super) enum Secrets {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

impl Secrets {
    fn suite(&self) -> SupportedCipherSuite {
        match self {
            Self::Client(c) => c.negotiated_cipher_suite(),
            Self::Server(s) => s.negotiated_cipher_suite(),
        }
    }

    fn next_sealing(&mut self) -> Result<Key, Error> {
        Key::new(match self {
            Self::Client(c) => c.update_tx_secret(),
            Self::Server(s) => s.update_tx_secret(),
        }?)
    }

    fn next_opening(&mut self) -> Result<Key, Error> {
        Key::new(match self {
            Self::Client(c) => c.update_rx_secret(),
            Self::Server(s) => s.update_rx_secret(),
        }?)
    }
}

/// One direction's key and how often it was used.
struct Key {
    key: LessSafeKey,
    iv: [u8; aead::NONCE_LEN],
    used: u64,
}

impl Key {
    fn new((used, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, Error> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&aead::CHACHA20_POLY1305, key, iv),
            _ => return Err(unusable()),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| unusable())?;
        Ok(Self { key: LessSafeKey::new(key), iv: iv.as_ref().try_into().map_err(|_| unusable())?, used })
    }

    /// The next record's nonce; no nonce is given twice.
    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, of_number) in nonce[aead::NONCE_LEN - 8..].iter_mut().zip(self.used.to_be_bytes()) {
            *byte ^= of_number;
        }
        self.used += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    /// Appends one record. `content` fits into it.
    fn seal(&mut self, kind: u8, content: &[u8], out: &mut Buffer) -> Result<(), Error> {
        let length = u16::try_from(content.len() + 1 + TAG).expect("at most 16 KiB of content");
        let [l0, l1] = length.to_be_bytes();
        let header = [DATA, 3, 3, l0, l1];
        let at = out.len();
        let (place, record) = out.room(HEADER + usize::from(length)).split_at_mut(HEADER);
        place.copy_from_slice(&header);
        let (sealed, end) = record.split_at_mut(content.len());
        let nonce = self.nonce();
        let done = self.key.seal_out_of_place_scatter(nonce, Aad::from(header), content, sealed, &[kind], end);
        done.map_err(|_| {
            out.truncate(at);
            Error::EncryptError
        })
    }

    /// Appends what is in a record; which kind it is.
    fn open(&mut self, header: [u8; HEADER], sealed: &[u8], plain: &mut Buffer) -> Result<u8, Error> {
        let at = plain.len();
        let (sealed, tag) = sealed.split_last_chunk::<TAG>().ok_or(Error::DecryptError)?;
        let opened = plain.room(sealed.len());
        let nonce = self.nonce();
        if self.key.open_separate_gather(nonce, Aad::from(header), sealed, tag, opened).is_err() {
            // What a failed attempt leaves behind is nobody's to see.
            opened.fill(0);
            plain.truncate(at);
            return Err(Error::DecryptError);
        }
        // Zeros are padding; what stands before them is the kind.
        let kind = opened.iter().rposition(|&b| b != 0).map(|end| (end, opened[end]));
        let (end, kind) = kind.unwrap_or((0, 0));
        plain.truncate(at + end);
        match kind {
            0 => Err(PeerMisbehaved::IllegalTlsInnerPlaintext.into()),
            _ if end > MAX_CONTENT => Err(Error::PeerSentOversizedRecord),
            _ => Ok(kind),
        }
    }
}

fn unusable() -> Error {
    Error::General("keys of a cipher that we do not have".to_owned())
}

/// Both directions of a session whose handshake is complete.
pub(super) struct Records {
    sealing: Key,
    opening: Key,
    secrets: Secrets,
    /// Records that a key may seal before it is replaced.
    share: u64,
    /// The start of a record whose rest has not come.
    partial: Vec<u8>,
    /// The start of a message after the handshake whose rest has not come.
    message: Vec<u8>,
    /// Records since the last data.
    fruitless: u8,
    /// The peer asked for another key of ours.
    owes_update: bool,
    has_closed: bool,
    is_closed_by_peer: bool,
}

impl Records {
    pub fn new(secrets: ExtractedSecrets, next: Secrets) -> Result<Self, Error> {
        let share = next.suite().tls13().map_or(1, |s| s.common.confidentiality_limit).min(MAX_RECORDS);
        Ok(Self {
            sealing: Key::new(secrets.tx)?,
            opening: Key::new(secrets.rx)?,
            secrets: next,
            share,
            partial: Vec::new(),
            message: Vec::new(),
            fruitless: 0,
            owes_update: false,
            has_closed: false,
            is_closed_by_peer: false,
        })
    }

    /// Whether the peer said that it sends no more.
    pub fn is_closed_by_peer(&self) -> bool {
        self.is_closed_by_peer
    }

    /// Takes bytes as they come and appends what they bring.
    pub fn open(&mut self, mut input: &[u8], plain: &mut Buffer) -> Result<(), Error> {
        while !input.is_empty() && !self.is_closed_by_peer {
            if self.partial.is_empty() {
                match split_record(input)? {
                    Some((header, sealed, rest)) => {
                        input = rest;
                        self.open_record(header, sealed, plain)?;
                    }
                    None => {
                        let wanted = input.first_chunk().map_or(Ok(HEADER), |header| length_of(*header));
                        self.partial.reserve_exact(HEADER + wanted?);
                        self.partial.extend_from_slice(input);
                        return Ok(());
                    }
                }
            } else {
                self.complete_partial(&mut input, plain)?;
            }
        }
        Ok(())
    }

    /// Takes from `input` what the record that was cut needs, and no more.
    fn complete_partial(&mut self, input: &mut &[u8], plain: &mut Buffer) -> Result<(), Error> {
        let wanted = match self.partial.first_chunk() {
            None => HEADER,
            Some(header) => HEADER + length_of(*header)?,
        };
        let missing = wanted.saturating_sub(self.partial.len()).min(input.len());
        self.partial.extend_from_slice(&input[..missing]);
        *input = &input[missing..];
        let record = std::mem::take(&mut self.partial);
        match split_record(&record)? {
            // Its memory goes back: most reads end with a record.
            Some((header, sealed, _)) => self.open_record(header, sealed, plain),
            None => {
                self.partial = record;
                Ok(())
            }
        }
    }

    fn open_record(&mut self, header: [u8; HEADER], sealed: &[u8], plain: &mut Buffer) -> Result<(), Error> {
        let at = plain.len();
        let kind = self.opening.open(header, sealed, plain)?;
        if kind == DATA {
            self.fruitless = if plain.len() > at { 0 } else { self.fruitless + 1 };
            return match () {
                () if self.fruitless > MAX_FRUITLESS => Err(PeerMisbehaved::TooManyEmptyFragments.into()),
                () if !self.message.is_empty() => Err(PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into()),
                () => Ok(()),
            };
        }
        let content = plain[at..].to_vec();
        plain.truncate(at);
        match kind {
            ALERT => self.on_alert(&content),
            HANDSHAKE => self.on_messages(&content),
            _ => Err(PeerMisbehaved::IllegalMiddleboxChangeCipherSpec.into()),
        }
    }

    fn on_alert(&mut self, content: &[u8]) -> Result<(), Error> {
        let &[_, description] = content else { return Err(InvalidMessage::MessageTooShort.into()) };
        match AlertDescription::from(description) {
            AlertDescription::CloseNotify => {
                self.is_closed_by_peer = true;
                self.partial = Vec::new();
                Ok(())
            }
            // The one warning that TLS 1.3 still has; it means nothing here (RFC 8446 section 6.1).
            AlertDescription::UserCanceled => self.keep_calm(PeerMisbehaved::TooManyWarningAlertsReceived),
            other => Err(Error::AlertReceived(other)),
        }
    }

    fn on_messages(&mut self, content: &[u8]) -> Result<(), Error> {
        self.keep_calm(PeerMisbehaved::TooManyKeyUpdateRequests)?;
        if content.is_empty() {
            return Err(InvalidMessage::InvalidEmptyPayload.into());
        }
        self.message.extend_from_slice(content);
        while let Some((&[kind, l0, l1, l2], rest)) = self.message.split_first_chunk() {
            let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
            if length > MAX_MESSAGE {
                return Err(InvalidMessage::HandshakePayloadTooLarge.into());
            }
            let Some(body) = rest.get(..length) else { break };
            let is_last = rest.len() == length;
            match (kind, body, &self.secrets) {
                // A key ends with its record.
                (KEY_UPDATE, _, _) if !is_last => return Err(PeerMisbehaved::KeyEpochWithPendingFragment.into()),
                (KEY_UPDATE, &[request @ (0 | 1)], _) => {
                    self.opening = self.secrets.next_opening()?;
                    self.owes_update |= request == 1;
                }
                (KEY_UPDATE, _, _) => return Err(InvalidMessage::InvalidKeyUpdate.into()),
                // We resume no sessions.
                (NEW_SESSION_TICKET, _, Secrets::Client(_)) => {}
                _ => {
                    return Err(Error::InappropriateHandshakeMessage {
                        expect_types: vec![rustls::HandshakeType::KeyUpdate],
                        got_type: kind.into(),
                    });
                }
            }
            if is_last {
                self.message = Vec::new();
                break;
            }
            self.message.drain(..4 + length);
        }
        Ok(())
    }

    fn keep_calm(&mut self, error: PeerMisbehaved) -> Result<(), Error> {
        self.fruitless += 1;
        if self.fruitless > MAX_FRUITLESS { Err(error.into()) } else { Ok(()) }
    }

    /// Appends `plain` in records.
    pub fn seal(&mut self, plain: &[u8], out: &mut Buffer) -> Result<(), Error> {
        if self.has_closed {
            return Ok(());
        }
        for content in plain.chunks(MAX_CONTENT) {
            if self.owes_update || self.sealing.used >= self.share {
                // The last record under the old key.
                self.sealing.seal(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0], out)?;
                self.sealing = self.secrets.next_sealing()?;
                self.owes_update = false;
            }
            self.sealing.seal(DATA, content, out)?;
        }
        Ok(())
    }

    /// Appends the word that nothing follows; once.
    pub fn close(&mut self, out: &mut Buffer) -> Result<(), Error> {
        self.put_alert(1, AlertDescription::CloseNotify, out)
    }

    /// Appends the word why nothing follows; none if a word was said before, or the peer said why itself.
    pub fn fail(&mut self, error: &Error, out: &mut Buffer) {
        let description = match error {
            Error::AlertReceived(_) => return,
            Error::DecryptError => AlertDescription::BadRecordMac,
            Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
            Error::InvalidMessage(InvalidMessage::InvalidKeyUpdate) => AlertDescription::IllegalParameter,
            Error::InvalidMessage(_) => AlertDescription::DecodeError,
            Error::PeerMisbehaved(_) | Error::InappropriateHandshakeMessage { .. } => {
                AlertDescription::UnexpectedMessage
            }
            _ => AlertDescription::InternalError,
        };
        let _ = self.put_alert(2, description, out);
    }

    fn put_alert(&mut self, level: u8, description: AlertDescription, out: &mut Buffer) -> Result<(), Error> {
        if std::mem::replace(&mut self.has_closed, true) {
            return Ok(());
        }
        self.sealing.seal(ALERT, &[level, description.into()], out)
    }
}

/// The bytes after a header; judged before any of them is stored.
fn length_of([kind, _, _, l0, l1]: [u8; HEADER]) -> Result<usize, Error> {
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    match () {
        () if kind != DATA => Err(InvalidMessage::InvalidContentType.into()),
        () if length > MAX_RECORD => Err(Error::PeerSentOversizedRecord),
        () if length <= TAG => Err(Error::DecryptError),
        () => Ok(length),
    }
}

/// A record's header, the record, and what follows it.
type Split<'a> = ([u8; HEADER], &'a [u8], &'a [u8]);

/// The first record of `bytes` if it is whole.
fn split_record(bytes: &[u8]) -> Result<Option<Split<'_>>, Error> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
    let length = length_of(*header)?;
    Ok(rest.split_at_checked(length).map(|(sealed, rest)| (*header, sealed, rest)))
}
