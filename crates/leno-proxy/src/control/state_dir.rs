//! What a proxy keeps on disk: who it is, whom it trusts, and the last good state of what it uses (D11).
//!
//! | file | content |
//! |---|---|
//! | `identity.pem` | private key and chain, in one file so that they never differ |
//! | `joining.pem` | the key of an enrolment under way: redeeming again with it is the same redemption |
//! | `joined-with` | the id (not the secret) of the token that was redeemed |
//! | `bundle.json` | the trust bundle |
//! | `instance`, `generation` | the name of this instance, and how often it was started |
//! | `lock` | held by the proxy that uses the directory, or by the supervisor of several in turn |
//! | `collections/*.bin` | one last good collection each; the `out.*` files are the working set |
//!
//! The directory is 0700, every file 0600 and replaced atomically.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use leno_discovery::{CollectionName, Entry, Key, snapshot};
use leno_identity::{KeyPair, TrustBundle, pem};
use leno_model::NamespacedName;
use leno_net::tls::TlsIdentity;
use leno_runtime::files::{atomic_write, create_private_dir};

/// Largest stored collection read: as large as the largest that a stream of full messages could have made is not useful.
const MAX_COLLECTION: u64 = 256 << 20;

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another proxy uses it.
    #[error("another proxy uses the state directory {root} ({detail}): give each its own with --state-dir")]
    InUse {
        /// The directory.
        root: PathBuf,
        /// Who holds it.
        detail: String,
    },
    /// A file has the wrong content.
    #[error("{path}: {detail}")]
    Content {
        /// Which.
        path: PathBuf,
        /// Why.
        detail: String,
    },
}

/// A state directory that no other proxy uses, until dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "held for what dropping it does")]
pub struct StateLock(leno_sys::FileLock);

/// See the module.
#[derive(Debug, Clone)]
pub struct StateDir {
    root: PathBuf,
}

/// Key and certificate of this workload.
pub struct StoredIdentity {
    /// The chain with its facts.
    pub tls: TlsIdentity,
    /// Whom to trust.
    pub bundle: TrustBundle,
}

impl StateDir {
    /// Opens the directory, or makes it.
    pub fn open(root: &Path) -> Result<Self, StateError> {
        let dir = Self { root: root.to_owned() };
        for path in [dir.root.clone(), dir.root.join("collections")] {
            create_private_dir(&path).map_err(|source| StateError::File { path, source })?;
        }
        Ok(dir)
    }

    /// Keeps other proxies out: two would take each other's registration, certificate and files.
    pub fn lock(&self) -> Result<StateLock, StateError> {
        let path = self.path("lock");
        match leno_sys::FileLock::acquire(&path) {
            Ok(lock) => Ok(StateLock(lock)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(StateError::InUse { root: self.root.clone(), detail: error.to_string() })
            }
            Err(source) => Err(StateError::File { path, source }),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.path(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StateError::File { path, source }),
        }
    }

    fn read_text(&self, name: &str) -> Result<Option<String>, StateError> {
        let Some(bytes) = self.read(name)? else { return Ok(None) };
        String::from_utf8(bytes).map(Some).map_err(|_| self.content(name, "it is not text"))
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        let path = self.path(name);
        atomic_write(&path, content).map_err(|source| StateError::File { path, source })
    }

    fn content(&self, name: &str, detail: impl ToString) -> StateError {
        StateError::Content { path: self.path(name), detail: detail.to_string() }
    }

    /// The stored identity and bundle, if the workload has joined before.
    pub fn identity(&self) -> Result<Option<StoredIdentity>, StateError> {
        let Some(text) = self.read_text("identity.pem")? else { return Ok(None) };
        let wrong = |e: &dyn ToString| self.content("identity.pem", e.to_string());
        let key = KeyPair::from_pem(private_part(&text)).map_err(|e| wrong(&e))?;
        let chain = pem::read_chain(&text).map_err(|e| wrong(&e))?;
        let tls = TlsIdentity::new(chain, &key).map_err(|e| wrong(&e))?;
        let Some(bundle) = self.read("bundle.json")? else { return Ok(None) };
        let bundle = TrustBundle::from_json(&bundle).map_err(|e| self.content("bundle.json", e))?;
        Ok(Some(StoredIdentity { tls, bundle }))
    }

    /// Stores a key with its chain.
    pub fn store_identity(&self, key: &KeyPair, tls: &TlsIdentity) -> Result<(), StateError> {
        let text = format!("{}{}", *key.to_pem(), pem::write_chain(tls.chain()));
        self.write("identity.pem", text.as_bytes())
    }

    /// Stores the bundle.
    pub fn store_bundle(&self, bundle: &TrustBundle) -> Result<(), StateError> {
        self.write("bundle.json", &bundle.to_json())
    }

    /// The key to join with: that of an attempt that was cut short, or a new one, stored before anything is sent.
    pub fn joining_key(&self) -> Result<KeyPair, StateError> {
        let wrong = |e: &dyn ToString| self.content("joining.pem", e.to_string());
        if let Some(text) = self.read_text("joining.pem")? {
            return KeyPair::from_pem(&text).map_err(|e| wrong(&e));
        }
        let key = KeyPair::generate().map_err(|e| wrong(&e))?;
        self.write("joining.pem", key.to_pem().as_bytes())?;
        Ok(key)
    }

    /// The id of the token that the identity was joined with.
    pub fn joined_with(&self) -> Result<Option<String>, StateError> {
        Ok(self.read_text("joined-with")?.map(|id| id.trim().to_owned()))
    }

    /// Stores the id of the token that was redeemed.
    pub fn store_joined_with(&self, id: &str) -> Result<(), StateError> {
        self.write("joined-with", id.as_bytes())
    }

    /// The enrolment is over.
    pub fn forget_joining_key(&self) {
        // What is left over is only a key without a certificate.
        let _ = fs::remove_file(self.path("joining.pem"));
    }

    /// The name of this instance: `given`, or one made up once.
    pub fn instance(&self, given: Option<&str>, service: &NamespacedName) -> Result<String, StateError> {
        if let Some(given) = given {
            return Ok(given.to_owned());
        }
        // An empty or damaged file is as good as none: the name only has to stay as long as it can.
        if let Some(stored) = self.read_text("instance")?.filter(|text| leno_model::Name::new(text.trim()).is_ok()) {
            return Ok(stored.trim().to_owned());
        }
        let mut random = [0u8; 4];
        getrandom::fill(&mut random).map_err(|e| self.content("instance", e))?;
        // A label has at most 63 characters.
        let name: String = service.name.as_str().chars().take(54).collect();
        let instance = format!("{}-{:08x}", name.trim_end_matches('-'), u32::from_be_bytes(random));
        self.write("instance", instance.as_bytes())?;
        Ok(instance)
    }

    /// The generation of this start: greater than every one before, also when the directory was lost, for which the wall
    /// clock stands in.
    pub fn next_generation(&self, unix_ms: u64) -> Result<u64, StateError> {
        let stored = self.read_text("generation")?.and_then(|t| t.trim().parse::<u64>().ok()).unwrap_or(0);
        let next = stored.saturating_add(1).max(unix_ms);
        self.write("generation", next.to_string().as_bytes())?;
        Ok(next)
    }

    /// Stores a collection.
    pub fn store_collection(&self, name: &CollectionName, content: &[u8]) -> Result<(), StateError> {
        self.write(&file_name(name), content)
    }

    /// Forgets a collection.
    pub fn remove_collection(&self, name: &CollectionName) {
        let path = self.path(&file_name(name));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "cannot remove a stored collection");
            }
            _ => {}
        }
    }

    /// Every stored collection. One that cannot be read counts as absent: it comes again from the control plane.
    pub fn collections(&self) -> Vec<(CollectionName, BTreeMap<Key, Entry>)> {
        let Ok(files) = fs::read_dir(self.path("collections")) else { return Vec::new() };
        let mut found = Vec::new();
        for file in files.flatten() {
            let Some(name) = file.file_name().to_str().and_then(collection_name) else { continue };
            match read_collection(&file.path(), &name) {
                Ok(entries) => found.push((name, entries)),
                Err(error) => {
                    tracing::warn!(path = %file.path().display(), error, "a stored collection is left out");
                }
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }
}

fn read_collection(path: &Path, name: &CollectionName) -> Result<BTreeMap<Key, Entry>, String> {
    let size = fs::metadata(path).map_err(|e| e.to_string())?.len();
    if size > MAX_COLLECTION {
        return Err(format!("it has {size} bytes"));
    }
    let bytes = fs::read(path).map_err(|e| e.to_string())?;
    snapshot::decode(name, Bytes::from(bytes)).map_err(|e| e.to_string())
}

/// The first block of the file; the chain follows it.
fn private_part(text: &str) -> &str {
    const END: &str = "-----END PRIVATE KEY-----\n";
    text.find(END).map_or(text, |at| &text[..at + END.len()])
}

/// DNS labels have no dots, so that a dot separates.
fn file_name(name: &CollectionName) -> String {
    let text = name.to_string().replace([':', '/'], ".");
    format!("collections/{text}.bin")
}

fn collection_name(file: &str) -> Option<CollectionName> {
    let text = file.strip_suffix(".bin")?;
    text.replacen('.', ":", 1).replacen('.', "/", 1).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> NamespacedName {
        NamespacedName::new("shop", "web").unwrap()
    }

    #[test]
    fn generations_only_grow_and_instances_stay() {
        let place = tempfile::tempdir().unwrap();
        let dir = StateDir::open(place.path()).unwrap();
        assert_eq!(dir.next_generation(1000).unwrap(), 1000);
        assert_eq!(dir.next_generation(500).unwrap(), 1001, "a clock that steps back");
        let instance = dir.instance(None, &service()).unwrap();
        assert!(instance.starts_with("web-") && leno_model::Name::new(&instance).is_ok(), "{instance}");
        assert_eq!(dir.instance(None, &service()).unwrap(), instance);
        assert_eq!(dir.instance(Some("mine"), &service()).unwrap(), "mine");
    }

    #[test]
    fn collections_are_kept_and_damage_is_left_out() {
        let place = tempfile::tempdir().unwrap();
        let dir = StateDir::open(place.path()).unwrap();
        let names = [CollectionName::Mesh, CollectionName::Inbound(service()), CollectionName::Outbound(service())];
        let entries: BTreeMap<Key, Entry> =
            [(Key::new("Service", "shop", "web"), Entry::new(Bytes::from_static(b"{}")))].into();
        for name in &names {
            dir.store_collection(name, &snapshot::encode(name, &entries)).unwrap();
        }
        let expected: Vec<_> = names.iter().map(|n| (n.clone(), entries.clone())).collect();
        assert_eq!(dir.collections(), expected);
        dir.store_collection(&names[0], b"damaged").unwrap();
        dir.remove_collection(&names[1]);
        assert_eq!(dir.collections(), expected[2..]);
    }

    #[test]
    fn an_enrolment_that_was_cut_short_goes_on_with_its_key() {
        let place = tempfile::tempdir().unwrap();
        let dir = StateDir::open(place.path()).unwrap();
        let key = dir.joining_key().unwrap();
        assert_eq!(dir.joining_key().unwrap().spki_der(), key.spki_der());
        dir.forget_joining_key();
        assert_ne!(dir.joining_key().unwrap().spki_der(), key.spki_der());
        assert!(dir.identity().unwrap().is_none());
    }
}
