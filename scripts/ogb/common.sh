# Sourced by the scripts beside it. Usage: leaderboard DATASET ARGUMENTS OF `graphkit run ncnc` ...
# Sets everything up if need be, trains with 10 seeds and prints a summary of the record. Later arguments win over
# earlier ones, so what the user passes overrides what the script sets.
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"

leaderboard() {
    local dataset=$1 out=runs/ogb previous="" word
    shift
    for word in "$@"; do
        case $word in
            # A smoke run has other settings and must not meet the checkpoints of a whole one.
            --fast) [ "$out" != runs/ogb ] || out=runs/ogb-fast ;;
            --out=*) out=${word#--out=} ;;
            -h | --help) exec "$PY" -m graphkit.cli run ncnc --dataset "$dataset" --help ;;
        esac
        [ "$previous" != --out ] || out=$word
        previous=$word
    done
    "$PY" -m graphkit.cli run ncnc --dataset "$dataset" --runs 10 "$@" --out "$out"
    "$PY" scripts/ogb/summary.py "$out/ncnc/$dataset.json"
}
