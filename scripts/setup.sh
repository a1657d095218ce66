# Sourced by run and test: makes .venv if there is none and installs what is asked for, once.
# Usage: install EXTRAS   ("" or "[test]" or "[test,lint]"); afterwards $PY is the environment's Python.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
PY=.venv/bin/python

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.12 python3.11 python; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "GraphKit needs Python 3.11 or newer; install one, or name it: PYTHON=/path/to/python $0" >&2
    return 1
}

install() {
    local extras=$1 python stamp mark
    stamp=.venv/installed$(echo "$extras" | tr -c 'a-z\n' '-')
    mark=$(cat setup.cfg pyproject.toml constraints.txt | cksum)
    if [ -x "$PY" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$mark" ]; then
        return
    fi
    if [ ! -x "$PY" ]; then
        python=$(find_python) || exit 1
        echo "making .venv with $("$python" --version) ..." >&2
        "$python" -m venv .venv || exit 1
    fi
    echo "installing graphkit$extras (once; about half a minute with a fast package index) ..." >&2
    # --no-compile: modules are compiled when first imported, which most of PyTorch never is.
    "$PY" -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e ".$extras" || exit 1
    echo "$mark" >"$stamp"
}
