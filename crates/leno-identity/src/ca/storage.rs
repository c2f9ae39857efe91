//! The authority on disk.
//!
//! ```text
//!   ca/state.json      what the other files mean; written last, so it is the commit point
//!   ca/root-N.key      the root's key, used to make intermediates and to cross-sign; may be kept apart
//!   ca/root-N.pem      the root's certificate, then its cross-signed form if it had a predecessor
//!   ca/issuing-N.pem   the intermediate's certificate and key, one file so that they never disagree
//! ```
//!
//! The directory is 0700 and the files 0600; each is written whole, synced and renamed.

use std::io;
use std::path::{Path, PathBuf};

use leno_model::TrustDomain;
use leno_runtime::files::{atomic_write, create_private_dir};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::certify::{ISSUING_LIFE_S, issuing_end};
use super::rotation::Rotation;
use super::{CaError, DEFAULT_TTL_S};
use crate::bundle::RootCert;
use crate::keys::KeyPair;
use crate::pem;

/// Version of `state.json`; later ones must read it.
const STATE_VERSION: u32 = 1;
/// Largest file read.
const MAX_FILE: u64 = 256 * 1024;

/// What `state.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State {
    pub version: u32,
    pub trust_domain: TrustDomain,
    pub longest_ttl_s: u64,
    pub rotation: Rotation,
}

impl State {
    pub(super) fn first(trust_domain: TrustDomain) -> Self {
        let rotation = Rotation::Stable { current: 1 };
        Self { version: STATE_VERSION, trust_domain, longest_ttl_s: DEFAULT_TTL_S, rotation }
    }
}

/// An intermediate and its key.
#[derive(Debug)]
pub(super) struct Issuing {
    pub key: KeyPair,
    pub certificate: CertificateDer<'static>,
    pub not_after: u64,
}

/// A root and everything under it.
#[derive(Debug)]
pub(super) struct Generation {
    pub number: u32,
    pub root_key: KeyPair,
    pub root: RootCert,
    pub issuing: Issuing,
    /// The root's key and name signed by its predecessor.
    pub cross: Option<CertificateDer<'static>>,
}

impl Generation {
    /// In the last third of its life.
    pub(super) fn issuing_is_old(&self, now: u64) -> bool {
        let left = self.issuing.not_after.saturating_sub(now);
        left < ISSUING_LIFE_S / 3
    }
}

/// Where the files are, or nowhere.
#[derive(Debug)]
pub(super) struct Storage {
    dir: Option<PathBuf>,
}

impl Storage {
    pub(super) fn none() -> Self {
        Self { dir: None }
    }

    pub(super) fn at(dir: &Path) -> Result<Self, CaError> {
        create_private_dir(dir).map_err(|source| file_error(dir, source))?;
        Ok(Self { dir: Some(dir.to_owned()) })
    }

    pub(super) fn describe(&self) -> String {
        self.dir.as_ref().map_or_else(|| "memory".into(), |d| d.display().to_string())
    }

    pub(super) fn read_state(&self) -> Result<Option<State>, CaError> {
        let Some(path) = self.path("state.json") else { return Ok(None) };
        let text = match read(&path) {
            Err(CaError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let state: State = serde_json::from_str(&text).map_err(|e| damaged(&path, e.to_string()))?;
        if state.version > STATE_VERSION {
            let detail = format!("version {} was written by a later release", state.version);
            return Err(damaged(&path, detail));
        }
        Ok(Some(state))
    }

    pub(super) fn write_state(&self, state: &State) -> Result<(), CaError> {
        let text = serde_json::to_vec_pretty(state).expect("plain data");
        self.write("state.json", &text)
    }

    pub(super) fn write_generation(&self, generation: &Generation) -> Result<(), CaError> {
        let number = generation.number;
        self.write(&format!("root-{number}.key"), generation.root_key.to_pem().as_bytes())?;
        let mut roots = vec![generation.root.der()];
        roots.extend(generation.cross.clone());
        self.write(&format!("root-{number}.pem"), pem::write_chain(&roots).as_bytes())?;
        self.write_issuing(generation)
    }

    pub(super) fn write_issuing(&self, generation: &Generation) -> Result<(), CaError> {
        let issuing = &generation.issuing;
        let mut text = Zeroizing::new(pem::write_chain(std::slice::from_ref(&issuing.certificate)));
        text.push_str(&issuing.key.to_pem());
        self.write(&format!("issuing-{}.pem", generation.number), text.as_bytes())
    }

    pub(super) fn read_generation(&self, number: u32) -> Result<Generation, CaError> {
        let path = |name: String| self.path(&name).expect("a state was read, so there is a directory");
        let key_path = path(format!("root-{number}.key"));
        let root_key = KeyPair::from_pem(&read(&key_path)?).map_err(|e| damaged(&key_path, e.to_string()))?;
        let root_path = path(format!("root-{number}.pem"));
        let mut roots =
            pem::read_chain(&read(&root_path)?).map_err(|e| damaged(&root_path, e.to_string()))?.into_iter();
        let root = roots.next().expect("a read chain is not empty");
        let root = RootCert::from_der(&root).map_err(|e| damaged(&root_path, e.to_string()))?;
        if root.pin().0 != root_key.spki_sha256() {
            return Err(damaged(&key_path, "it is not the key of the root certificate beside it".into()));
        }
        let issuing_path = path(format!("issuing-{number}.pem"));
        let issuing = read_issuing(&read(&issuing_path)?).map_err(|detail| damaged(&issuing_path, detail))?;
        Ok(Generation { number, root_key, root, issuing, cross: roots.next() })
    }

    /// Removes the keys of a retired generation; its root certificate stays, for the record.
    pub(super) fn forget_keys(&self, number: u32) -> Result<(), CaError> {
        for name in [format!("root-{number}.key"), format!("issuing-{number}.pem")] {
            let Some(path) = self.path(&name) else { continue };
            match std::fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(file_error(&path, source)),
                _ => {}
            }
        }
        Ok(())
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.dir.as_ref().map(|d| d.join(name))
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), CaError> {
        let Some(path) = self.path(name) else { return Ok(()) };
        atomic_write(&path, content).map_err(|source| file_error(&path, source))
    }
}

fn read_issuing(text: &str) -> Result<Issuing, String> {
    let certificate = pem::read_chain(text).map_err(|e| e.to_string())?.remove(0);
    let at = text.find("-----BEGIN PRIVATE KEY-----").ok_or("it has no private key")?;
    let key = KeyPair::from_pem(&text[at..]).map_err(|e| e.to_string())?;
    let pin = crate::certificate::spki_pin(&certificate).ok_or("its certificate is malformed")?;
    if pin.0 != key.spki_sha256() {
        return Err("its key is not that of its certificate".into());
    }
    let not_after = issuing_end(&certificate)?;
    Ok(Issuing { key, certificate, not_after })
}

fn read(path: &Path) -> Result<Zeroizing<String>, CaError> {
    let size = std::fs::metadata(path).map_err(|source| file_error(path, source))?.len();
    if size > MAX_FILE {
        return Err(damaged(path, format!("{size} bytes are too many")));
    }
    std::fs::read_to_string(path).map(Zeroizing::new).map_err(|source| file_error(path, source))
}

fn file_error(path: &Path, source: io::Error) -> CaError {
    CaError::File { path: path.display().to_string(), source }
}

fn damaged(path: &Path, detail: String) -> CaError {
    CaError::Damaged { path: path.display().to_string(), detail }
}
