# Makes a machine of namespaces out of the host's programs and runs a script on
# it. $1 is an empty folder, its root. /etc, /var, /opt, /run and /tmp are its
# own; the rest is the host's, where mounts of this namespace may cover things.
set -e
root=$1 script=$2
for d in /*; do
	case $d in
	/etc | /var | /opt | /run | /tmp | /lost+found) mkdir -p "$root$d" ;;
	*) if [ -L "$d" ]; then cp -P "$d" "$root$d"; elif [ -d "$d" ]; then mkdir -p "$root$d" && mount --rbind "$d" "$root$d"; fi ;;
	esac
done
for f in passwd group hosts ld.so.cache; do
	[ ! -e /etc/$f ] || cp /etc/$f "$root/etc/$f"
done
mkdir -p "$root/var/local-bin"
mount --bind "$root/var/local-bin" "$root/usr/local/bin"
[ ! -e "$root/var/mounts.sh" ] || . "$root/var/mounts.sh"
exec chroot "$root" ${TEST_SHELL:-/bin/sh} "$script"
