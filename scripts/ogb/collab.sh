#!/usr/bin/env bash
# NCN and NCNC on ogbl-collab: who will work with whom, Hits@50 over shared negatives.
#
#   ./scripts/ogb/collab.sh                    ten seeds, then a summary to submit (a GPU is advised)
#   ./scripts/ogb/collab.sh --resume           go on after an interruption: nothing that is finished runs again
#   ./scripts/ogb/collab.sh --fast --runs 2    a smoke run; its numbers mean nothing
#
# The split goes by year. OGB's rules for this dataset admit the validation links as input when the test links are
# scored, because they are of the years in between; the dataset's split does that (LinkSplit.test_edge_index), and the
# model is never trained on them. The epoch is chosen by validation without them.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install ""
leaderboard ogbl-collab --models NCN NCNC "$@"
