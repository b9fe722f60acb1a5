//! What fuzzing has found worth keeping, and once-failing inputs, replayed.

use std::fs;
use std::path::Path;

use masque_testkit::fuzz::TARGETS;

#[test]
fn every_input_of_every_corpus_keeps_its_promise() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/corpus");
    for (name, body) in TARGETS {
        let mut files: Vec<_> = fs::read_dir(root.join(name))
            .unwrap_or_else(|error| panic!("{name} has no corpus: {error}"))
            .map(|entry| entry.expect("readable").path())
            .collect();
        files.sort();
        assert!(!files.is_empty(), "{name}");
        for file in files {
            // libtest shows it if the body panics.
            println!("{}", file.display());
            body(&fs::read(&file).expect("readable"));
        }
    }
}
