#!/bin/bash -eu
# Builds every target with its corpus, as OSS-Fuzz wants them: $OUT/TARGET and $OUT/TARGET_seed_corpus.zip.
cd "$SRC/masque"
cargo fuzz build -O
release=fuzz/target/x86_64-unknown-linux-gnu/release
for source in fuzz/fuzz_targets/*.rs; do
    target=$(basename "$source" .rs)
    cp "$release/$target" "$OUT/"
    zip -jq "$OUT/${target}_seed_corpus.zip" "testdata/corpus/$target"/*
done
