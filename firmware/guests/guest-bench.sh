# Benchmark rows of the busybox guest; sourced by init. Each row is a function bench_<row>.

BENCH_ROWS="sha256 awk shell forkexec syscalls memory tmpfs"

bench_sha256() {
	dd if=/dev/zero bs=1M count=32 2>/dev/null | sha256sum >/dev/null
}

bench_awk() {
	awk 'BEGIN { for (i = 0; i < 200000; i++) x = x * 0.5 + i * 1.25; print x }' >/dev/null
}

bench_shell() {
	n=0
	while [ "$n" -lt 80000 ]; do n=$((n + 1)); done
}

bench_forkexec() {
	n=0
	# A path with a slash: the shell must not run its own `true`.
	while [ "$n" -lt 200 ]; do
		/bin/true
		n=$((n + 1))
	done
}

# One read and one write a byte: 600,000 system calls.
bench_syscalls() {
	dd if=/dev/zero of=/dev/null bs=1 count=300000 2>/dev/null
}

bench_memory() {
	dd if=/dev/zero of=/dev/null bs=1M count=2048 2>/dev/null
}

bench_tmpfs() {
	dd if=/dev/zero of=/tmp/bench bs=64k count=1024 2>/dev/null
	dd if=/tmp/bench of=/dev/null bs=64k 2>/dev/null
	rm /tmp/bench
}

# Hundredths of a second since the start. The 1 keeps 08 and 09 from being read as octal.
centiseconds() {
	read -r up rest </proc/uptime
	echo $((${up%.*} * 100 + 1${up#*.} - 100))
}

bench_row() {
	start=$(centiseconds)
	"bench_$1"
	took=$(($(centiseconds) - start))
	say "BENCH name=$1 seconds=$((took / 100)).$(printf %02d $((took % 100)))"
}

# bench_all [ROW,ROW]: run the rows named, or all.
bench_all() {
	rows=$(echo "${1:-$BENCH_ROWS}" | tr , ' ')
	for row in $rows; do
		case " $BENCH_ROWS " in
		*" $row "*) bench_row "$row" ;;
		*) say "guest: no benchmark row $row" ;;
		esac
	done
	say "BENCH-DONE"
}
