#!/bin/sh
# own_shm.sh COMMAND...: run it with a /dev/shm of its own, and fail if it leaves anything there.
#
# What this file guarantees: commands that run side by side do not see each other's segments, so that each can be held to
# account for what it leaves behind. It needs the right to mount; `own_shm.sh --possible` says whether it is there.
#
# Not counted is what glibc itself leaves when a process is killed inside sem_open: sem.XXXXXX, a name no program has seen.
inside='
left() { ls -A /dev/shm | grep -v "^sem\.[A-Za-z0-9]\{6\}\$"; }
mount -t tmpfs -o mode=1777 tmpfs /dev/shm || exit 71
"$@"
status=$?
tries=0
while [ -n "$(left)" ] && [ "$tries" -lt 50 ]; do sleep 0.2; tries=$((tries + 1)); done
left=$(left | head -5 | tr "\n" " ")
[ -z "$left" ] || { echo "left in /dev/shm: $left"; exit 72; }
exit $status'
[ "$1" = --possible ] && set -- true
exec unshare --mount sh -c "$inside" own_shm.sh "$@"
