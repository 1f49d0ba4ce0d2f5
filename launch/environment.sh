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
  room=$(df -Pk "$venv" "${TMPDIR:-/tmp}" | awk 'NR == 2 || $4 < least { least = $4 } END { print least }')
  if [ -z "$(ls "$venv"/.installed-* 2>/dev/null)" ] && [ "$room" -lt 10000000 ]; then
    echo "installing takes 9 GB of disk at the most (torch and CUDA), of which 6 stay;" \
      "there are $((room / 1000000)) GB at $venv and ${TMPDIR:-/tmp}" >&2
    exit 2
  fi
  echo "installing biggan_sn$extra (a few minutes and about 6 GB the first time)"
  "$venv/bin/python" -m pip install --quiet --upgrade pip
  "$venv/bin/python" -m pip install --quiet --editable ".$extra"
  cp pyproject.toml "$installed"
fi
PATH=$venv/bin:$PATH
