//! Upgrade rehearsal: what earlier versions wrote, this one reads.
//!
//! `testing/golden/VERSION/data-dir.tar.gz` is the data directory of a control plane of that version with the resources of
//! `resources.yaml` beside it; `scripts/golden` makes a new one for each release and never changes an old one. Streams of
//! earlier versions are read by the tests of leno-discovery.

use std::path::Path;

use testbed::skip::can_run;
use testbed::{Mesh, Network, apps};

#[test]
fn data_directories_of_earlier_versions_are_read() {
    if !can_run("upgrade", apps::NEEDS) {
        return;
    }
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../golden");
    let mut versions: Vec<_> = std::fs::read_dir(&goldens)
        .expect("testing/golden")
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.join("data-dir.tar.gz").exists())
        .collect();
    versions.sort();
    assert!(!versions.is_empty(), "no golden in {}", goldens.display());
    for version in versions {
        println!("reading the data directory of {}", version.display());
        let network = Network::new(&["one", "two"]);
        let folder = network.subfolder("golden");
        let archive = version.join("data-dir.tar.gz").display().to_string();
        let _ = network.host("one").run("tar", &["-xzf", &archive, "-C", &folder.display().to_string()]).ok();
        let mesh = Mesh::start_in(&network, "one", "golden", &[]);
        let expected = std::fs::read_to_string(version.join("services.txt")).expect("services.txt");
        let services = mesh.leno(&["get", "services", "-A", "-o", "json"]).ok();
        for name in expected.lines() {
            assert!(services.contains(&format!("\"{name}\"")), "{name} is not among\n{services}");
        }
        let route = mesh.leno(&["get", "httproute", "canary", "-o", "yaml"]).ok();
        assert!(route.contains("weight: 90"), "{route}");
        let pin = std::fs::read_to_string(version.join("pin.txt")).expect("pin.txt");
        let roots = mesh.json(&["ca", "status"])["roots"].to_string();
        assert!(roots.contains(pin.trim()), "the root changed: {roots}");
        // It is not only read: it works.
        let mut member =
            mesh.proxy(network.host("two"), "web", "web", &["--port", "8080", "--admin", "127.0.0.1:15020"]);
        member.wait_ready(15020);
        mesh.wait_for_endpoints("web", 1);
    }
}
