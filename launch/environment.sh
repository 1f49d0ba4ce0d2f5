# shellcheck shell=bash
# To be sourced from the repository's root: makes the virtual environment if it is not there or
# pyproject.toml has changed since, and enters it. EXTRA names an extra of pyproject.toml, PYTHON
# another interpreter, VENV another folder (an absolute path).
venv=${VENV:-$PWD/.venv}
extra=${EXTRA:+[$EXTRA]}
if [ ! -x "$venv/bin/python" ]; then
  "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed; name one: PYTHON=python3.12 bash $0" >&2
    exit 2
  }
  echo "making the environment $venv"
  "${PYTHON:-python3}" -m venv "$venv"
fi
installed=$venv/.installed-${EXTRA:-run}
if ! cmp -s pyproject.toml "$installed"; then
  if [ ! -d "$(echo "$venv"/lib/python3*/site-packages/torch)" ]; then
    downloads=${TMPDIR:-/tmp}
    room() { df -Pk "$1" | awk 'NR == 2 { print int($4 / 1e6) }'; }
    together=9 # torch and CUDA: 6 GB stay, 3 are downloads
    [ "$(stat -c %d "$venv")" = "$(stat -c %d "$downloads")" ] || together=6
    if [ "$(room "$venv")" -lt "$together" ] || [ "$(room "$downloads")" -lt 3 ]; then
      echo "too little room on the disk: installing takes 6 GB in $venv, where there are" \
        "$(room "$venv"), and meanwhile 3 in $downloads, where there are $(room "$downloads")" >&2
      exit 2
    fi
  fi
  echo "installing biggan_sn$extra (a few minutes and about 6 GB the first time)"
  "$venv/bin/python" -m pip install --quiet --upgrade pip
  "$venv/bin/python" -m pip install --quiet --editable ".$extra"
  cp pyproject.toml "$installed"
fi
PATH=$venv/bin:$PATH
