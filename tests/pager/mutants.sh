#!/bin/bash
# mutants.sh: takes each mechanism of the pager out, and shows that a test notices
#
# usage: mutants.sh [BUILD]   (a build directory that is up to date; default: build)
#
# The mechanisms are those of enum pager_mutation; the test programs read their number from the
# environment. A mutant that its test lets live is printed as SURVIVED; the exit status counts them.
set -u
cd "$(dirname "$0")/../.." || exit 2
build=${1:-build}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
survivors=0

while read -r number program test name; do
	AFAR_PAGER_MUTATIONS=$number TEST=$test \
		timeout 300 "$build/tests/pager/test_pager_$program" >"$log" 2>&1
	case $? in
	0) verdict=SURVIVED survivors=$((survivors + 1)) ;;
	124) verdict="killed by a hang" ;;
	*) verdict="killed by $test" ;;
	esac
	printf '%-36s %s\n' "$name" "$verdict"
done 2>/dev/null <<'TABLE'
1  fork   what_the_parent_writes_later_is_not_seen_by_the_child       fork raises no counts
2  ends   the_supervisors_duplicate_keeps_far_pages_from_reading_as_zeros  no duplicate
4  paging no_write_is_lost_while_its_page_leaves                     copied without protection
8  ends   a_damaged_page_ends_the_process                            no hash is compared
16 paging a_refused_store_leaves_the_page_here                       dropped before the answer
TABLE
exit $survivors
