#!/bin/bash
# mutants.sh: shows that a folder's tests fail when one of its safety mechanisms is taken out
#
# usage: mutants.sh FOLDER "TESTS" "SUPPORT" LIBRARY… <TABLE
#
#   FOLDER      the folder below src/ whose code is broken
#   TESTS       its tests, below tests/FOLDER, in the order in which they are run
#   SUPPORT     further sources beside the tests, linked to each
#   LIBRARY     what to link with
#
# Each entry of the table is a name, a file, and below it a sed script that breaks one promise. A
# mutant that the tests let live is printed as SURVIVED, and the exit status says how many.
set -u
cd "$(dirname "$0")/.." || exit 2
folder=$1
read -ra tests <<<"$2"
read -ra support <<<"$3"
libraries=("${@:4}" -lcmocka -lisal -lcrypto -lmicrohttpd -lboost_context -lpthread)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
survivors=0
# A broken program may print without end: its log must not fill the disk.
ulimit -f 1048576
flags=(-std=gnu17 -D_GNU_SOURCE -O1 -g -w -I"$dir" -I"$PWD/src" -I"$PWD/include"
	-I"$PWD/tests/$folder" -DSTAGE_PATIENCE_NS='(5 * NS_PER_S)')

# The tests do not change: compiled once, against the headers as they are.
objects=()
for source in "${tests[@]}" "${support[@]}"; do
	gcc "${flags[@]}" -c "tests/$folder/$source.c" -o "$dir/$source.o" || exit 2
done
for source in "${support[@]}"; do
	objects+=("$dir/$source.o")
done

# 0: all passed. 99: it cannot be linked. Else the status of the first that failed.
run_tests() {
	local test status

	for test in "${tests[@]}"; do
		gcc "$dir/$test.o" "${objects[@]}" "$dir/$folder"/*.o "${libraries[@]}" \
			-o "$dir/$test" || return 99
		timeout 60 "$dir/$test" >"$dir/log" 2>&1
		status=$?
		[[ $status == 0 ]] || return $status
	done
}

compile() {
	local source

	for source in "$dir/$folder"/*.c; do
		gcc "${flags[@]}" -c "$source" -o "${source%.c}.o" || return 1
	done
}

# Breaks `file` by `script`, and tells what the tests say of it.
judge() {
	rm -rf "${dir:?}/$folder"
	cp -r "src/$folder" "$dir/$folder"
	sed -i "$script" "$dir/$folder/$file"
	if cmp -s "src/$folder/$file" "$dir/$folder/$file"; then
		verdict="SURVIVED: the script changes nothing"
	elif ! compile; then
		verdict="SURVIVED: does not compile"
	else
		run_tests
		case $? in
		0) verdict=SURVIVED ;;
		99) verdict="SURVIVED: does not link" ;;
		124) verdict="killed by a hang" ;;
		*)
			verdict=$(grep -m1 -o 'FAILED  \] .*' "$dir/log" | cut -c 11-)
			verdict="killed by ${verdict:-a crash}"
			;;
		esac
	fi
	[[ $verdict == SURVIVED* ]] && survivors=$((survivors + 1))
	printf '%-48s %s\n' "$name" "$verdict"
}

name=''
while IFS= read -r line; do
	if [[ $line == $'\t'* ]]; then
		script+="${line#?}"$'\n'
		continue
	fi
	[[ $name ]] && judge
	name=${line% @ *}
	file=${line##* @ }
	script=''
done
[[ $name ]] && judge
exit $survivors
