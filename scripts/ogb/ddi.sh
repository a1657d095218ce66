#!/usr/bin/env bash
# NCN and NCNC on ogbl-ddi: interactions of drugs, Hits@20 over shared negatives.
#
#   ./scripts/ogb/ddi.sh                       ten seeds, then a summary to submit (a GPU is advised)
#   ./scripts/ogb/ddi.sh --resume              go on after an interruption: nothing that is finished runs again
#   ./scripts/ogb/ddi.sh --fast --runs 2 --models NCN --epochs 1 --batch-size 1000000
#                                              a smoke run that a laptop can do (20 s a seed); its numbers mean nothing
#
# The graph is small and dense, 500 neighbours a node, so that sums over common neighbours are most of the work. Nodes
# have no features: each gets an embedding. NCNC starts from the NCN of the same seed and trains the decoder alone,
# which is why NCN comes first. The validation links do not tell much here: with some seeds the epoch that they choose
# is far from the best one for test, and the standard deviation is large. All seeds count.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install ""
leaderboard ogbl-ddi --models NCN NCNC "$@"
