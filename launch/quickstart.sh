#!/usr/bin/env bash
# From a bare machine with Python to pictures: environment, shards of real digits, a BigGAN trained
# on them, a sample grid and a truncation strip. May be run again: it goes on where it stopped.
# Arguments go to the training, for instance: bash launch/quickstart.sh --steps 200
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
EXTRA=deepspeed
. launch/environment.sh
. launch/digits.sh

run=runs/digits32_biggan
say() { printf '\n== %s\n' "$*"; }

say "training configs/digits32_biggan.yaml (about five minutes on two cores)"
if [ -f "$run/config.yaml" ]; then # with its own config, which may by now be a longer run's
  biggan-sn train --run_dir "$run" --data.path "$data/train" \
    --data.heldout "$data/heldout" "$@"
else
  biggan-sn train --config configs/digits32_biggan.yaml --run_dir "$run" "$@"
fi

say "pictures and scores"
biggan-sn sample "$run" --per_class 10 --out "$run/samples.png"
biggan-sn sweep "$run" --standing_statistics 16 --out "$run/sweep"
biggan-sn interpolate "$run" --out "$run/interpolation.png"
biggan-sn neighbours "$run" --out "$run/neighbours.png"
biggan-sn evaluate "$run"
biggan-sn report "$run"

activate=${venv#"$PWD"/}/bin/activate
cat <<TEXT

Look at    $run/report.html        all of the run on one page
           $run/samples.png        a column for each digit, none picked by hand
           $run/sweep/sweep.png    from little truncation noise (alike) to much (varied)
           $run/sweep/curves.png   what that does to FID, Inception score, precision and recall
           $run/interpolation.png  from digit to digit
           $run/neighbours.png     the real digits nearest to samples
Next       source $activate
           tensorboard --logdir $run/tensorboard
           biggan-sn sample $run --classes 3 5 8 --truncation 0.7 --seed 1 --out three.png
           biggan-sn train --run_dir $run --steps 5000    # train the same run further
Your own images, one folder per class:
           python -m data_tools.make_shards folder IMAGES data/mine --resolution 64
           biggan-sn train --config configs/folder64_biggan.yaml --run_dir runs/mine \\
             --data.path data/mine --data.num_classes HOW_MANY
TEXT
