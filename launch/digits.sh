# shellcheck shell=bash
# To be sourced from the repository's root, in the environment: makes shards of real handwritten
# digits in $data if they are not there.
data=data/digits32
if [ ! -f "$data/heldout/index.npz" ]; then
  printf '\n== %s\n' "shards of real handwritten digits"
  rm -rf "$data"
  python -m data_tools.make_shards digits "$data"
fi
