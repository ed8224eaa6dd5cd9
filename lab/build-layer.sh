# Runs install.sh over an overlay of this machine's root, in the mount and process namespaces that lab/layer.py made.
# A PACKAGE of Debian's is there before: what install.sh finds on a server with a real Linux-HA heartbeat, say.
#   sh -eu build-layer.sh LAYER PROJECT [PACKAGE ...]
layer=$1 project=$2 root=$1/merged
shift 2
mount -t overlay overlay -o "lowerdir=/,upperdir=$layer/upper,workdir=$layer/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mkdir "$root/tmp/project"
mount --bind "$project" "$root/tmp/project"
mount -o remount,bind,ro "$root/tmp/project"

# Should install.sh have to add Debian packages, they don't start anything in here.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"

[ $# = 0 ] || chroot "$root" /bin/sh -euc '. /tmp/project/packaging/debian.sh; add_packages "$@"' sh "$@"

[ ! -f "$project/install.sh" ] || chroot "$root" /bin/sh /tmp/project/install.sh

# None of Debian's services belongs to a machine of the lab: only ours start at boot.
for link in "$root"/etc/rc[0-6S].d/[SK]*; do
    [ -L "$link" ] || continue
    grep -qs /opt/ha-manager/ "$root/etc/init.d/$(basename "$(readlink "$link")")" || rm "$link"
done

rm -f "$root/usr/sbin/policy-rc.d"
rm -rf "$root"/var/log/syslog "$root"/var/cache/apt/archives/*.deb
umount "$root/tmp/project"
