# Installs packages of Debian's over an overlay of this machine's root, in the mount and process namespaces that bench/debian.py made.
#   sh -eu debian-layer.sh FOLDER PROJECT PACKAGE ...
folder=$1 project=$2 root=$1/merged
shift 2
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
cp "$project/packaging/debian.sh" "$root/tmp"

# Nothing that a package brings along is started.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
chroot "$root" /bin/sh -euc '. /tmp/debian.sh; add_packages "$@"' sh "$@"
rm -rf "$root/usr/sbin/policy-rc.d" "$root"/var/cache/apt "$root"/var/lib/apt/lists "$root"/usr/share/doc
