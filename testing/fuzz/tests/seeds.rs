//! Runs every seed and every input that once found something, so that they need no fuzzer to keep what they found.

use std::fs;
use std::path::Path;

#[test]
fn every_target_takes_its_seeds() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    let mut folders: Vec<_> =
        fs::read_dir(&seeds).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    folders.sort();
    let mut names: Vec<_> = fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    assert_eq!(folders, names, "one folder of seeds for each target");
    for (name, target) in fuzz::TARGETS {
        let files: Vec<_> = fs::read_dir(seeds.join(name)).unwrap().map(|f| f.unwrap().path()).collect();
        assert!(files.len() >= 2, "{name} has too few seeds");
        for file in files {
            println!("{}", file.display());
            target(&fs::read(&file).unwrap());
        }
    }
}
