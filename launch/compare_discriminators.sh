#!/usr/bin/env bash
# What each constraint on D does to the spectra of its weights, as figure 3 of Miyato et al. 2018
# compares them: trains the digits once with each of configs/layers/discriminator_*.yaml and draws
# the spectra. About a quarter of an hour on two cores. May be run again: it goes on where it stopped.
# Arguments go to every training.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
EXTRA=deepspeed
. launch/environment.sh
. launch/digits.sh

runs=runs/compare_discriminators

trained=()
for layer in configs/layers/discriminator_*.yaml; do
  name=$(basename "${layer#configs/layers/discriminator_}" .yaml)
  printf '\n== %s\n' "$name"
  biggan-sn train --config configs/digits32_biggan.yaml --config configs/layers/short.yaml \
    --config "$layer" --run_dir "$runs/$name" "$@"
  trained+=("$runs/$name")
done

biggan-sn spectrum "${trained[@]}" --out "$runs/spectra.png"
