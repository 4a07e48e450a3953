#!/bin/bash
# mutants.sh: shows that the simulator notices when a safety mechanism is taken out of the pool
#
# usage: mutants.sh [BUILD] [SEEDS]   (default: build, 2000)
#
# Each mutation is run over the seeds until one of them breaks a promise. A mutation that breaks
# none is printed as SURVIVED; the exit status says how many did.
set -u
cd "$(dirname "$0")/../.." || exit 2
sim=${1:-build}/sim
seeds=${2:-2000}
survivors=0

[[ -x $sim ]] || {
	echo "mutants.sh: $sim is not built" >&2
	exit 2
}
for name in $("$sim" --help | sed -n '/^Mutations:/,$ s/^  \([a-z-]*\) .*/\1/p'); do
	found=$("$sim" pool --seeds "$seeds" --mutate "$name" 2>/dev/null | grep -m1 '^seed ')
	if [[ -n $found ]]; then
		echo "$name: killed by $found"
	else
		echo "$name: SURVIVED $seeds seeds"
		survivors=$((survivors + 1))
	fi
done
exit "$survivors"
