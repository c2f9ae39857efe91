//! Certificates for the peers: one root, one leaf used at both ends, P-256 like Leno's.

use std::path::PathBuf;
use std::time::Duration;

use testbed::Network;
use testbed::process::run;

/// Files in PEM.
pub struct Certificates {
    /// Root certificate.
    pub root: PathBuf,
    /// Leaf certificate.
    pub leaf: PathBuf,
    /// Leaf key.
    pub key: PathBuf,
    /// Leaf and key in one file.
    pub both: PathBuf,
}

/// Makes them with openssl once per run.
pub fn make(network: &Network) -> Certificates {
    let folder = network.subfolder("certificates");
    let file = |name: &str| folder.join(name);
    let made =
        Certificates { root: file("root.pem"), leaf: file("leaf.pem"), key: file("leaf.key"), both: file("both.pem") };
    let script = "set -e\n\
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout root.key -out root.pem -days 2 -subj /CN=root\n\
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout leaf.key -out leaf.csr -subj /CN=peer\n\
        printf 'subjectAltName=DNS:peer\\nextendedKeyUsage=serverAuth,clientAuth\\n' >ext\n\
        openssl x509 -req -in leaf.csr -CA root.pem -CAkey root.key -CAcreateserial -days 2 -extfile ext -out leaf.pem\n\
        cat leaf.pem leaf.key >both.pem\n\
        chmod 644 leaf.key both.pem\n";
    let mut command = std::process::Command::new("sh");
    command.args(["-c", script]).current_dir(&folder);
    let _ = run(&mut command, Duration::from_secs(30)).ok();
    made
}
