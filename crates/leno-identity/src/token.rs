//! Join tokens: `leno1.<id>.<secret>.<pin>`.
//!
//! The id finds the record, the secret proves the right to join, the pin is the SHA-256 of the root's public key and
//! lets the joining side refuse a false control plane before it has sent anything. The control plane stores the hash
//! of the secret only.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::{Zeroize, Zeroizing};

const VERSION: &str = "leno1";
/// Bytes of an id: 64 bits never collide among the tokens of one mesh.
const ID_BYTES: usize = 8;
/// Bytes of a secret: 256 bits cannot be guessed.
const SECRET_BYTES: usize = 32;
/// Longest token read.
pub const MAX_TOKEN: usize = 512;

/// Why a text is not a token. The secret is never part of a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No text.
    #[error("the join token is empty")]
    Empty,
    /// Over [`MAX_TOKEN`].
    #[error("a join token of {0} characters is longer than 512")]
    TooLong(usize),
    /// Another version, or not a token at all.
    #[error("not a join token of this version: it must start with `leno1.` (make one with `leno token create`)")]
    Version,
    /// Too few or too many parts: usually a token cut while copying.
    #[error("a join token has 4 parts separated by `.`, this one has {0}: was it cut while copying?")]
    Parts(usize),
    /// A part that is not base64url of the right length.
    #[error("the join token's {0} is malformed: was it cut while copying?")]
    Part(&'static str),
    /// The random source failed.
    #[error("the system's random source failed: {0}")]
    Random(String),
}

/// SHA-256 of a root certificate's SubjectPublicKeyInfo.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootPin(pub [u8; 32]);

/// SHA-256 of a token's secret: what the control plane stores.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// Hashes a secret as it came over the wire.
    #[must_use]
    pub fn of(secret: &str) -> Self {
        // The prefix keeps this hash from meaning anything elsewhere.
        let mut salted = Zeroizing::new(Vec::with_capacity(64 + secret.len()));
        salted.extend_from_slice(b"leno join token secret v1\0");
        salted.extend_from_slice(secret.as_bytes());
        Self(crate::sha256(&salted))
    }

    /// Whether `secret` is the one that was hashed; in constant time.
    #[must_use]
    pub fn matches(&self, secret: &str) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.0, &Self::of(secret).0).is_ok()
    }
}

/// A join token. `Debug` masks the secret; only [`Self::to_text`] reveals it.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    id: String,
    secret: Zeroizing<String>,
    pin: RootPin,
}

impl JoinToken {
    /// Makes a token for the mesh with this root.
    pub fn generate(pin: RootPin) -> Result<Self, TokenError> {
        let mut id = [0u8; ID_BYTES];
        let mut secret = [0u8; SECRET_BYTES];
        getrandom::fill(&mut id)
            .and_then(|()| getrandom::fill(&mut secret))
            .map_err(|e| TokenError::Random(e.to_string()))?;
        let token = Self {
            id: id.iter().map(|b| format!("{b:02x}")).collect(),
            secret: Zeroizing::new(URL_SAFE_NO_PAD.encode(secret)),
            pin,
        };
        secret.zeroize();
        Ok(token)
    }

    /// The public part that finds the record: 16 hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The secret, to be sent only over a channel whose root matched [`Self::pin`].
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// What to store.
    #[must_use]
    pub fn secret_hash(&self) -> SecretHash {
        SecretHash::of(&self.secret)
    }

    /// The root that the control plane must present.
    #[must_use]
    pub fn pin(&self) -> RootPin {
        self.pin
    }

    /// The whole token; the text is wiped when dropped.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{VERSION}.{}.{}.{}", self.id, *self.secret, self.pin))
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    /// Surrounding white space is ignored: tokens are read from files that end in a newline.
    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        if text.len() > MAX_TOKEN {
            return Err(TokenError::TooLong(text.len()));
        }
        let parts: Vec<&str> = text.split('.').collect();
        if parts[0] != VERSION {
            return Err(TokenError::Version);
        }
        let [_, id, secret, pin] = parts[..] else { return Err(TokenError::Parts(parts.len())) };
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if id.len() != ID_BYTES * 2 || !id.bytes().all(hex) {
            return Err(TokenError::Part("id"));
        }
        let decoded = Zeroizing::new(URL_SAFE_NO_PAD.decode(secret).map_err(|_| TokenError::Part("secret"))?);
        if decoded.len() != SECRET_BYTES {
            return Err(TokenError::Part("secret"));
        }
        let pin = pin.parse().map_err(|_| TokenError::Part("pin"))?;
        Ok(Self { id: id.to_owned(), secret: Zeroizing::new(secret.to_owned()), pin })
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({}.***)", self.id)
    }
}

macro_rules! digest_text {
    ($type:ident, $name:literal) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($name, "({})"), self)
            }
        }
        impl FromStr for $type {
            type Err = TokenError;
            fn from_str(text: &str) -> Result<Self, TokenError> {
                let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Part($name))?;
                Ok(Self(bytes.try_into().map_err(|_| TokenError::Part($name))?))
            }
        }
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
digest_text!(RootPin, "pin");
digest_text!(SecretHash, "hash");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip() {
        let token = JoinToken::generate(RootPin([9; 32])).unwrap();
        let text = token.to_text();
        assert!(text.starts_with("leno1."));
        let again: JoinToken = format!(" {}\n", *text).parse().unwrap();
        assert_eq!(again, token);
        assert_eq!(again.pin(), RootPin([9; 32]));
        assert!(!format!("{token:?}").contains(token.secret()));
    }

    #[test]
    fn secrets_match_their_hash_only() {
        let token = JoinToken::generate(RootPin([0; 32])).unwrap();
        let other = JoinToken::generate(RootPin([0; 32])).unwrap();
        let stored: SecretHash = serde_json::from_str(&serde_json::to_string(&token.secret_hash()).unwrap()).unwrap();
        assert!(stored.matches(token.secret()));
        assert!(!stored.matches(other.secret()));
        assert!(!stored.matches(""));
    }

    #[test]
    fn malformed_tokens_say_what_is_wrong() {
        let good = JoinToken::generate(RootPin([1; 32])).unwrap().to_text();
        let part = |n: usize| good.split('.').nth(n).unwrap().to_owned();
        for (bad, expected) in [
            (String::new(), TokenError::Empty),
            ("leno2.a.b.c".into(), TokenError::Version),
            ("eyJhbGciOi".into(), TokenError::Version),
            ("leno1.0011223344556677".into(), TokenError::Parts(2)),
            (format!("{}.x", *good), TokenError::Parts(5)),
            (format!("leno1.XX.{}.{}", part(2), part(3)), TokenError::Part("id")),
            (format!("leno1.{}.{}.{}", part(1), &part(2)[1..], part(3)), TokenError::Part("secret")),
            (good[..good.len() - 4].to_owned(), TokenError::Part("pin")),
            ("leno1.".repeat(200), TokenError::TooLong(1200)),
        ] {
            assert_eq!(bad.parse::<JoinToken>().unwrap_err(), expected, "{bad}");
        }
    }
}
