#!/usr/bin/env bash
# Trains on all GPUs of this machine, or with PROCESSES=N on N processes; arguments as for
# `biggan-sn train`. TOPOLOGY names another file of launch/topology, as zero1. Without a GPU the
# processes share the CPU, which is for trying things out.
set -euo pipefail
NODES=1 NODE_RANK=0 exec bash "$(dirname "${BASH_SOURCE[0]}")/node.sh" train "$@"
