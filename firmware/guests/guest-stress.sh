# Mixed load of the busybox guest with every result checked; sourced by init. Each part is a
# function stress_<part>, run in its own process, all parts of a round at once. A part prints
# why it failed and returns non-zero.

STRESS_PARTS="gzip bzip2 xz forks modules patch"
STRESS_DIR=/tmp/stress
STRESS_MODULES="dummy loop xxhash_generic lz4_compress"
STRESS_DATA=/usr/share/guest/data.xz

# Checksum of standard input. The part named by stress_fault on the kernel command line gets
# spoilt input from the second round on, to prove that a mismatch is found.
stress_sum() {
	{
		cat
		[ "$stress_fault" = "$part" ] && [ "$round" -gt 1 ] && echo fault
	} | sha256sum | cut -c1-64
}

# expect WHAT SUM WANTED
expect() {
	[ "$2" = "$3" ] && return 0
	echo "$1 is $(echo "$2" | cut -c1-16), should be $(echo "$3" | cut -c1-16)"
	return 1
}

# same_as_first NAME SUM: the first round's sum is what later ones must give.
same_as_first() {
	[ -f "$STRESS_DIR/$1.first" ] || echo "$2" >"$STRESS_DIR/$1.first"
	expect "$1" "$2" "$(cat "$STRESS_DIR/$1.first")"
}

# Compress and decompress with PROGRAM: the same compressed bytes as ever, the same data back.
round_trip() {
	"$1" -c "$STRESS_DIR/data" >"$STRESS_DIR/$1.out" || return 1
	same_as_first "$1" "$(stress_sum <"$STRESS_DIR/$1.out")" || return 1
	"$1" -dc "$STRESS_DIR/$1.out" >"$STRESS_DIR/$1.back" || return 1
	expect "$1 -d" "$(sha256sum <"$STRESS_DIR/$1.back" | cut -c1-64)" "$data_sum"
}

stress_gzip() {
	round_trip gzip
}

stress_bzip2() {
	round_trip bzip2
}

# busybox only decompresses xz; what must come out was written down when the image was made.
stress_xz() {
	expect "xz -d" "$(xz -dc "$STRESS_DATA" | stress_sum)" "$data_sum"
}

# Thirty children at once, each starting a program and giving a number.
stress_forks() {
	n=0
	while [ $n -lt 30 ]; do
		(/bin/true && echo $((n * n))) &
		n=$((n + 1))
	done >"$STRESS_DIR/forks.out"
	wait
	same_as_first forks "$(sort -n "$STRESS_DIR/forks.out" | stress_sum)" || return 1
	[ "$(wc -l <"$STRESS_DIR/forks.out")" -eq 30 ] || { echo "a child is missing"; return 1; }
}

loaded() {
	for module in $STRESS_MODULES; do
		[ -d "/sys/module/$module" ] && echo "$module"
	done
}

stress_modules() {
	for module in $STRESS_MODULES; do
		modprobe "$module" || return 1
	done
	expect "modules loaded" "$(loaded | stress_sum)" \
		"$(for module in $STRESS_MODULES; do echo "$module"; done | sha256sum | cut -c1-64)" ||
		return 1
	ip link show dummy0 >/dev/null || return 1
	for module in $STRESS_MODULES; do
		rmmod "$module" || return 1
	done
	[ -z "$(loaded)" ] || { echo "modules stay: $(loaded)"; return 1; }
}

# Function tracing and static keys both rewrite kernel code. That the new code runs shows in the
# trace: calls while traced, no more of them afterwards.
stress_patch() {
	tracing=/sys/kernel/tracing
	echo function >$tracing/current_tracer || return 1
	: </proc/uptime
	calls=$(head -n 200 $tracing/trace | grep -c '<-')
	echo nop >$tracing/current_tracer || return 1
	[ "$calls" -gt 0 ] || { echo "no function was traced"; return 1; }
	left=$(head -n 200 $tracing/trace | grep -c '<-')
	expect "calls traced after the end" "$(echo "$left" | stress_sum)" \
		"$(echo 0 | sha256sum | cut -c1-64)" || return 1
	for state in 1 0; do
		echo $state >/proc/sys/kernel/sched_schedstats || return 1
		expect "sched_schedstats" "$(cat /proc/sys/kernel/sched_schedstats)" $state || return 1
	done
}

stress_prepare() {
	mkdir -p $STRESS_DIR
	mount -t tracefs tracefs /sys/kernel/tracing
	# All functions if stress_ftrace=all: tens of thousands of places to patch.
	filter=$(option stress_ftrace 'vfs_*')
	[ "$filter" = all ] || echo "$filter" >/sys/kernel/tracing/set_ftrace_filter
	xz -dc $STRESS_DATA >$STRESS_DIR/data
	data_sum=$(cat /usr/share/guest/data.sha256)
}

stress_round() {
	pids=
	for part in $STRESS_PARTS; do
		"stress_$part" >"$STRESS_DIR/$part.why" 2>&1 &
		pids="$pids $part:$!"
	done
	failed=0
	for pid in $pids; do
		wait "${pid#*:}" && continue
		failed=1
		say "STRESS-FAIL ${pid%:*}: $(tail -n 1 "$STRESS_DIR/${pid%:*}.why")"
	done
	return $failed
}

# stress_all SECONDS FAULT: rounds until the time is over; ends early after a failure.
stress_all() {
	stress_fault=$2
	stress_prepare
	end=$(($(cut -d. -f1 /proc/uptime) + $1))
	round=0
	while :; do
		round=$((round + 1))
		stress_round || return 1
		say "STRESS round=$round uptime=$(uptime_seconds)"
		[ "$(cut -d. -f1 /proc/uptime)" -lt "$end" ] || break
	done
	say "STRESS-DONE rounds=$round"
}
