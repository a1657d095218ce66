# Sourced by the scripts beside it. Usage: leaderboard DATASET ARGUMENTS OF `graphkit run nat` ...
# Sets everything up if need be, trains with 5 seeds, as TGB's leaderboards ask for, and prints a summary of the record.
# Later arguments win over earlier ones, so what the user passes overrides what the script sets.
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"

leaderboard() {
    local dataset=$1 out=runs/tgb previous="" word
    shift
    for word in "$@"; do
        case $word in
            # A smoke run has other settings and must not meet the checkpoints of a whole one.
            --fast) [ "$out" != runs/tgb ] || out=runs/tgb-fast ;;
            --out=*) out=${word#--out=} ;;
            -h | --help) exec "$PY" -m graphkit.cli run nat --dataset "$dataset" --help ;;
        esac
        [ "$previous" != --out ] || out=$word
        previous=$word
    done
    "$PY" -m graphkit.cli run nat --dataset "$dataset" --runs 5 "$@" --out "$out"
    "$PY" scripts/ogb/summary.py --seeds 5 --metric MRR "$out/nat/$dataset.json"
}
