//! What fuzzing of configurations has found worth keeping, replayed (the other targets' corpora are
//! replayed by masque-testkit).

#[path = "promises/configuration.rs"]
mod promise;

use std::fs;
use std::path::Path;

/// `CORPUS` names the only target to replay, if it is another one's turn.
#[test]
fn every_text_of_the_corpus_keeps_its_promise() {
    if std::env::var("CORPUS").is_ok_and(|only| only != "configuration") {
        return;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/corpus/configuration");
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("there is a corpus")
        .map(|entry| entry.expect("readable").path())
        .collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        // libtest shows it if the promise is broken.
        println!("{}", file.display());
        promise::configuration(&fs::read(&file).expect("readable"));
    }
}
