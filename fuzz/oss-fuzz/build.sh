#!/bin/bash -eu
# Builds every target with its corpus and dictionary, as OSS-Fuzz wants them: $OUT/TARGET,
# $OUT/TARGET_seed_corpus.zip and $OUT/TARGET.dict.
cd "$SRC/masque"
# Assertions and overflow checks are on by the profile in fuzz/Cargo.toml.
cargo fuzz build -O
release=${CARGO_TARGET_DIR:-fuzz/target}/x86_64-unknown-linux-gnu/release
for source in fuzz/fuzz_targets/*.rs; do
    target=$(basename "$source" .rs)
    cp "$release/$target" "$OUT/"
    # Built anew, not added to.
    rm -f "$OUT/${target}_seed_corpus.zip"
    zip -jq "$OUT/${target}_seed_corpus.zip" "testdata/corpus/$target"/*
    dictionary=fuzz/dictionaries/$target.dict
    [ ! -e "$dictionary" ] || cp "$dictionary" "$OUT/"
done
