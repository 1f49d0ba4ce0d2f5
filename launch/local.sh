#!/usr/bin/env bash
# Trains on all GPUs of this machine, or with PROCESSES=N on N processes; arguments as for
# `biggan-sn train`. Without a GPU the processes share the CPU, which is for trying things out.
set -euo pipefail
gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
processes=${PROCESSES:-$((gpus > 0 ? gpus : 1))}
[ "$gpus" -gt 0 ] || export ACCELERATE_USE_CPU=true OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# --multi_gpu also on a CPU: with --cpu, accelerate would start one process and say nothing.
kind=$([ "$processes" -gt 1 ] && echo --multi_gpu || true)
# shellcheck disable=SC2086 # no word when there is one process
exec accelerate launch $kind --num_processes "$processes" --num_machines 1 --mixed_precision no \
  --dynamo_backend no -m biggan_sn train "$@"
