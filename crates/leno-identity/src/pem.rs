//! Certificate chains as PEM text, the form in which they lie on disk.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Longest PEM text read; a chain of [`crate::certificate::MAX_CHAIN`] certificates of the largest size fits.
pub const MAX_PEM: usize = 256 * 1024;

/// Why a PEM text was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// Over [`MAX_PEM`].
    #[error("a PEM text of {0} bytes is longer than 262144")]
    TooLong(usize),
    /// Not PEM.
    #[error("malformed PEM: {0}")]
    Malformed(String),
    /// No `CERTIFICATE` block.
    #[error("the PEM text has no certificate")]
    Empty,
}

/// Writes a chain as consecutive `CERTIFICATE` blocks, leaf first.
#[must_use]
pub fn write_chain(chain: &[CertificateDer<'_>]) -> String {
    let mut text = String::new();
    for certificate in chain {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let body = STANDARD.encode(certificate.as_ref());
        let mut rest = body.as_str();
        while !rest.is_empty() {
            // RFC 7468 section 2: lines of 64 characters.
            let (line, tail) = rest.split_at(rest.len().min(64));
            text.push_str(line);
            text.push('\n');
            rest = tail;
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

/// Reads consecutive `CERTIFICATE` blocks; at least one.
pub fn read_chain(text: &str) -> Result<Vec<CertificateDer<'static>>, PemError> {
    if text.len() > MAX_PEM {
        return Err(PemError::TooLong(text.len()));
    }
    let chain = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| PemError::Malformed(e.to_string()))?;
    if chain.is_empty() { Err(PemError::Empty) } else { Ok(chain) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_round_trip() {
        let chain = vec![CertificateDer::from(vec![7u8; 100]), CertificateDer::from(vec![1u8, 2, 3])];
        let text = write_chain(&chain);
        assert!(text.lines().all(|l| l.len() <= 64));
        assert_eq!(read_chain(&text).unwrap(), chain);
        assert_eq!(read_chain("hello"), Err(PemError::Empty));
        assert!(matches!(
            read_chain("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"),
            Err(PemError::Malformed(_))
        ));
        assert!(matches!(read_chain(&" ".repeat(MAX_PEM + 1)), Err(PemError::TooLong(_))));
    }
}
