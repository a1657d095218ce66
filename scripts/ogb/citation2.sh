#!/usr/bin/env bash
# NCN and NCNC on ogbl-citation2: which paper will be cited, MRR over 1,000 negatives of each link's own.
#
#   ./scripts/ogb/citation2.sh                 ten seeds, then a summary to submit (needs a GPU)
#   ./scripts/ogb/citation2.sh --resume        go on after an interruption: nothing that is finished runs again
#
# 2.9 million nodes and 30 million training links. What differs from the other three:
# - negatives of training keep the source and draw the target (--negatives source), as the metric does;
# - a batch's links stay in the input graph (--no-target-link-removal), as in the paper;
# - at most 96 neighbours of each end are completed in training and 192 in evaluation (--max-neighbors 96);
# - NCNC starts from the NCN of the same seed and trains the decoder alone, which is why NCN comes first.
# An evaluation scores 87 million pairs a split: --eval-batch-size trades memory for speed.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install ""
leaderboard ogbl-citation2 --models NCN NCNC "$@"
