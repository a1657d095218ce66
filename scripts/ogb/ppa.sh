#!/usr/bin/env bash
# NCN and NCNC on ogbl-ppa: associations of proteins, Hits@100 over shared negatives.
#
#   ./scripts/ogb/ppa.sh                       ten seeds, then a summary to submit (needs a GPU)
#   ./scripts/ogb/ppa.sh --resume              go on after an interruption: nothing that is finished runs again
#   ./scripts/ogb/ppa.sh --chunk-size 262144   less memory in NCNC, the same numbers
#
# 0.6 million nodes and 21 million training links. A pair of hubs has thousands of neighbours of one end only, and NCNC
# scores a link to each of them; --chunk-size bounds how many at once, and --max-neighbors samples them without bias.
# The validation links are not input at test time.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install ""
leaderboard ogbl-ppa --models NCN NCNC "$@"
