#!/usr/bin/env bash
# All that waits for a GPU, in less than ten minutes on one: the tests that need it, the forms of the
# layers of BigGAN-128, and its step at full size in the settings that compete. It goes on where one
# fails, and ends with 1 then.
#   OUT      folder for the records (one JSON file each) and logs; runs/gpu_check
#   SECONDS_IN_ALL  after so many nothing more is started and what runs is ended; 570
#   PEERS    a file of lines NAME=COMMAND, timed as well: programs that print one line of JSON
#   CONFIG   another YAML than configs/imagenet128_biggan.yaml, and
#   BATCHES  other batches than "256 512 1024 2048", to try the script itself
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
OUT=${OUT:-runs/gpu_check}
CONFIG=${CONFIG:-configs/imagenet128_biggan.yaml}
BATCHES=${BATCHES:-256 512 1024 2048}
deadline=$((SECONDS + ${SECONDS_IN_ALL:-570}))
failed=0
mkdir -p "$OUT" || exit 1
python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
    echo 'gpu_check: no CUDA device on this machine' >&2
    exit 2
}

# name, command...
timed() {
    local name=$1 left=$((deadline - SECONDS)) start=$SECONDS
    shift
    if ((left < 10)); then
        echo "$name: no time left"
        failed=1
        return
    fi
    timeout "$left" "$@" > "$OUT/$name.log" 2>&1
    local code=$?
    ((code == 0)) || failed=1
    echo "$name: exit code $code, $((SECONDS - start)) s; $(tail -n 1 "$OUT/$name.log" | cut -c 1-300)"
}

# name, options of bench...
bench() {
    local name=$1
    shift
    timed "$name" python -m biggan_sn bench --config "$CONFIG" --d_steps 1 --collapse.every 0 \
        --json "$OUT/$name.json" "$@"
}

read -r first _ <<< "$BATCHES"
timed tests python -m pytest -q -m gpu -p no:cacheprovider
bench layers --mode layers --batch_size "$first" --rounds 5 --table "$OUT/forms.json"
bench step --batch_size "$first" --rounds 5 --steps_per_round 4 \
    --profile "$OUT/step_operations.txt" --against "speed.forms=$OUT/forms.json"
bench fp32 --batch_size "$first" --rounds 2 --steps_per_round 2 --precision fp32
if [[ -n ${PEERS:-} ]]; then
    while IFS='=' read -r name command; do
        [[ -z $name ]] || timed "peer_$name" bash -c "$command"
    done < "$PEERS"
fi
for batch in $BATCHES; do # until it no longer fits
    [[ $batch == "$first" ]] || bench "step_$batch" --batch_size "$batch" --rounds 2 --steps_per_round 2
done
bench px256 --batch_size "$first" --rounds 2 --steps_per_round 2 --data.resolution 256 --model.z_dim 140
bench deep256 --batch_size "$first" --rounds 2 --steps_per_round 2 --data.resolution 256 \
    --model.name biggan_deep --model.channels 128 --model.z_dim 128
bench weights --mode weights --batch_size "$first" --rounds 5 --steps_per_round 4
bench sample --mode sample --batch_size "$first" --rounds 5
# Last: compilers take minutes.
bench compiled --batch_size "$first" --rounds 3 --steps_per_round 4 --speed.compile true
bench graphs --batch_size 16 --rounds 3 --steps_per_round 8 --speed.compile true \
    --against speed.cuda_graphs=true
echo "gpu_check: records and logs in $OUT"
exit "$failed"
