#!/bin/sh
# Prints what the container's first process sees of itself and its surroundings: 'NAME:LINE' for files, sections
# for the rest. Arguments: the exit code, then paths to look at and to try to write.
code=$1
shift
own=/proc/$$
grep -s '' $own/status $own/mountinfo $own/limits $own/uid_map $own/gid_map $own/setgroups $own/oom_score_adj \
    $own/cgroup $own/personality $own/timens_offsets $own/coredump_filter $own/loginuid \
    /proc/sys/kernel/hostname /proc/sys/kernel/domainname /proc/sys/kernel/msgmax /proc/sys/kernel/shmmni \
    /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/fs/mqueue/msg_max
echo "== cmdline"; tr '\0' '\n' <$own/cmdline
echo "== env"; tr '\0' '\n' <$own/environ
echo "== pwd"; pwd
echo "== umask"; umask
echo "== session"; sed 's/.*) //' <$own/stat | cut -d' ' -f4,5 | sed "s/^$$ /its own /"
echo "== links"; ls -l $own/cwd $own/root $own/exe $own/ns $own/fd
echo "== files"; ls -lan /dev /dev/pts /dev/shm /dev/mqueue "$@" 2>&1
echo "== writes"
for path in "$@" /proc/sys/kernel/msgmax; do
    if [ -d "$path" ]; then target=$path/written; else target=$path; fi
    if true 2>/dev/null >>"$target"; then echo "$path yes"; else echo "$path no"; fi
done
echo "== opens"
for device in /dev/*; do
    if [ -c "$device" ] && [ ! -L "$device" ] && [ "$device" != /dev/console ]; then
        if true 2>/dev/null <"$device"; then echo "$device yes"; else echo "$device no"; fi
    fi
done
echo "== calls"
mkdir /tmp/made 2>&1; chmod 700 /tmp 2>&1; chown 1 /tmp 2>&1; mknod /tmp/null c 1 3 2>&1; hostname probe 2>&1
ionice -p $$ 2>&1; taskset -p $$ 2>&1 | sed 's/.*: //'
exit "$code"
