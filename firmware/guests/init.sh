#!/bin/sh
# First process of the busybox guest: mounts, modules, the ready line, then what the kernel
# command line asks for (autotest=poweroff|reboot|panic|bench|stress|shell).
# modules=none leaves the modules alone, modules=a,b loads only those.

export PATH=/sbin:/usr/sbin:/bin:/usr/bin HOME=/root TERM=vt100

mount_basics() {
	mount -t proc proc /proc
	mount -t sysfs sys /sys
	mount -t devtmpfs dev /dev
	mkdir -p /dev/pts
	mount -t devpts devpts /dev/pts
	mount -t tmpfs tmp /tmp
}

# option NAME [DEFAULT]: the last NAME=value of the kernel command line.
option() {
	value=$2
	for word in $(cat /proc/cmdline); do
		case $word in
		"$1"=*) value=${word#*=} ;;
		esac
	done
	echo "$value"
}

uptime_seconds() {
	read -r up rest </proc/uptime
	echo "$up"
}

# say WORD...: one line in one write, so that the kernel's own messages cannot cut it.
say() {
	echo "$*"
}

load_modules() {
	wanted=$(option modules default)
	case $wanted in
	none) return ;;
	default) wanted=$(cat /etc/guest/modules) ;;
	esac
	for module in $(echo "$wanted" | tr , ' '); do
		modprobe "$module" || say "guest: module $module did not load"
	done
}

# power VERB: end the machine. Never returns.
power() {
	sync
	"$1" -f
	while :; do sleep 1; done
}

act() {
	case $1 in
	poweroff | reboot) power "$1" ;;
	panic) echo c >/proc/sysrq-trigger ;;
	bench)
		. /lib/guest/bench.sh
		bench_all "$(option bench)"
		power poweroff
		;;
	stress)
		. /lib/guest/stress.sh
		stress_all "$(option stress_seconds 60)" "$(option stress_fault)"
		power poweroff
		;;
	shell | '') ;;
	*) say "guest: autotest=$1 is not known" ;;
	esac
}

/bin/busybox mkdir -p /sbin /usr/bin /usr/sbin
/bin/busybox --install -s
mount_basics
hostname guest
ip link set lo up
load_modules
# Warnings and errors still reach the console; chatter would mix with the lines printed here.
dmesg -n 5
say "GUEST-READY uptime=$(uptime_seconds)"
cat /proc/partitions
act "$(option autotest)"
# From here busybox's init starts a shell whenever there is none, see /etc/inittab.
exec /sbin/init
