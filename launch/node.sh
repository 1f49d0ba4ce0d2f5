#!/usr/bin/env bash
# One node's part of a job; to be started on every node, with arguments as for `biggan-sn`:
#   NODES=2 NODE_RANK=0 HEAD=10.0.0.1 bash launch/node.sh train --config ... --run_dir ...
# NODES      how many nodes there are (1; under Slurm those of the job)
# NODE_RANK  number of this one, from 0 (Slurm's)
# HEAD       address of node 0, which all can reach; PORT, a free one there (29500; Slurm: the job's)
# RESTARTS   so many times the processes of this node are started again where one was killed (0); the
#            run goes on from its newest checkpoint
# WAIT       seconds that the nodes wait for one another (600)
# PROCESSES  how many run on each node (as many as it has GPUs; without one, 1)
# TOPOLOGY   a file of launch/topology: one_gpu, gpus, cpu, zero1, zero2 (as many GPUs as there are)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
for name in NODES PROCESSES NODE_RANK RESTARTS WAIT; do
  least=0
  [[ $name != NODES && $name != PROCESSES ]] || least=1
  [[ -z ${!name:-} || ${!name} =~ ^[0-9]+$ && ${!name} -ge $least ]] || {
    echo "$name must be a whole number from $least on, got '${!name}'" >&2
    exit 2
  }
done
nodes=${NODES:-${SLURM_NNODES:-1}}
node_rank=${NODE_RANK:-${SLURM_NODEID:-0}}
if [ -z "${HEAD:-}" ] && [ "$nodes" -gt 1 ]; then
  [ -n "${SLURM_JOB_NODELIST:-}" ] || {
    echo "HEAD is not set: name the address of node 0, which all nodes can reach" >&2
    exit 2
  }
  read -r HEAD < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
fi
# Jobs that share a node, or one that is started again, meet at doors of their own.
door=${SLURM_JOB_ID:+$((20000 + (SLURM_JOB_ID * 10 + ${SLURM_RESTART_COUNT:-0}) % 10000))}
port=${PORT:-${door:-29500}}
gpus=0
[ "${CUDA_VISIBLE_DEVICES-all}" = '' ] ||
  gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
processes=${PROCESSES:-$((gpus > 0 ? gpus : 1))}
topology=${TOPOLOGY:-$([ "$gpus" -gt 0 ] && echo gpus || echo cpu)}
file=$here/topology/$topology.yaml
[ -f "$file" ] || {
  echo "no topology $topology: there are $(cd "$here/topology" && echo *.yaml | sed 's/\.yaml//g')" >&2
  exit 2
}
[[ $gpus -gt 0 || ! $topology =~ ^(gpus|one_gpu)$ ]] || {
  echo "TOPOLOGY=$topology, but there is no GPU here; to try things out: TOPOLOGY=cpu" >&2
  exit 2
}
[ "$topology" != cpu ] || export CUDA_VISIBLE_DEVICES=
[ "$gpus" -gt 0 ] || export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" DS_ACCELERATOR=cpu
# The job falls into several where the launcher goes wrong: each process compares what it finds.
export BIGGAN_SN_PROCESSES=$((nodes * processes))
trap '' USR1 # launchers die of it; what they start takes it as a wish to be saved and stopped
# One process needs no launcher, and accelerate's would not pass on the SIGTERM that saves the run.
if [ "$BIGGAN_SN_PROCESSES" -eq 1 ]; then
  [ "${RESTARTS:-0}" -gt 0 ] || exec python -m biggan_sn "$@"
  exec python "$here/start.py" --standalone --nproc_per_node 1 --max_restarts "$RESTARTS" \
    -m biggan_sn "$@"
fi
meeting=(--main_process_port 0)
[ "$nodes" -eq 1 ] || meeting=(--main_process_ip "$HEAD" --main_process_port "$port"
  --rdzv_conf "timeout=${WAIT:-600}")
exec python "$here/start.py" --config_file "$file" "${meeting[@]}" \
  --num_processes "$BIGGAN_SN_PROCESSES" --num_machines "$nodes" --machine_rank "$node_rank" \
  --max_restarts "${RESTARTS:-0}" -m biggan_sn "$@"
