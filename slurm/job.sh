# shellcheck shell=bash
# Sourced by the batch scripts, which say in $root where launch/ lies: enters the environment there is.

# A copy of this script lies in Slurm's spool, so the environment is looked for where it was submitted.
if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -f .venv/bin/activate ]; then
  # shellcheck source=/dev/null
  . .venv/bin/activate
fi

python -c 'import biggan_sn' 2>/dev/null || {
  echo "no environment with biggan_sn: activate it before sbatch, or make .venv in $PWD" >&2
  exit 2
}

# value_of --option "$@": what was given to it last.
value_of() {
  local option=$1 found=
  shift
  while [ $# -gt 0 ]; do
    case $1 in
      "$option") found=${2:-} ;;
      "$option"=*) found=${1#*=} ;;
    esac
    shift
  done
  echo "$found"
}

# on_all_nodes VERB ARGUMENTS: one launch/node.sh on each; where one fails, the others end too.
on_all_nodes() {
  srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" bash "${root:-.}/launch/node.sh" "$@"
}
