#!/usr/bin/env bash
# Trains on all GPUs of this machine, or with PROCESSES=N on N processes; arguments as for
# `biggan-sn train`. Without a GPU the processes share the CPU, which is for trying things out.
set -euo pipefail
gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
processes=${PROCESSES:-$((gpus > 0 ? gpus : 1))}
[ "$gpus" -gt 0 ] || export ACCELERATE_USE_CPU=true OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# One process needs no launcher, and accelerate's would not pass on the SIGTERM that saves the run.
[ "$processes" -gt 1 ] || exec python -m biggan_sn train "$@"
# --multi_gpu also on a CPU: with --cpu, accelerate would start one process and say nothing.
exec accelerate launch --multi_gpu --num_processes "$processes" --num_machines 1 \
  --mixed_precision no --dynamo_backend no -m biggan_sn train "$@"
