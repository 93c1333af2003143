#!/bin/sh
# Runs the server, and builds and starts it anew whenever a source file changes. Needs entr.
trap 'kill "$watcher"; wait; exit 0' INT TERM
while :; do
  find Cargo.toml Cargo.lock config migrations src -type f | entr -dnr cargo run --locked &
  watcher=$!
  wait "$watcher"
  # 2: a file came or went, so the list is made anew.
  [ $? -eq 2 ] || exit 1
done
