#!/bin/sh
# Installs ha_manager on this Debian server, or brings it up to date. Run again at any time: only what is missing is done.
# The programs are made anew beside those that run, and take their place at one blow: an installation that is interrupted, or
# finds no package index, leaves the old ones as they were.
set -eu
# What is installed is read by others than root (ha amIactive, the user of Postgres), whatever the caller's mask.
umask 022

usage() {
    cat <<'END'
usage: install.sh [--root DIR] [--scanner] [--without-heartbeat] [--uninstall]

  --root DIR           install into the Debian system under DIR (with /proc and /dev mounted in it) instead of this one
  --scanner            this is a scanning node: the Manager and the director; no Postgres, no heartbeat, no ha_manager, no notifier.
                       Remembered for the next run
  --without-heartbeat  leave the init script and the commands of heartbeat to the Linux-HA that runs here; so it is without this
                       word, too, where Debian's package heartbeat is installed
  --uninstall          stop the services and remove the programs; configuration and data stay

Installs: Debian packages that are missing, /opt/ha-manager, the commands in /usr/bin, the init scripts manager, heartbeat,
ha_manager, logrelay, notifier and director (manager starts at boot and starts the others), and sample configuration where
there is none yet.

  sudo ./install.sh && sudo ha start
  sudo ./install.sh --scanner && sudo manager-ctl keys make
END
}

say() { echo "install: $*"; }
die() { echo "install: $*" >&2; exit 1; }

here=$(cd "$(dirname "$0")" && pwd)
prefix=/opt/ha-manager
venv=$prefix/venv
services='manager heartbeat ha_manager logrelay notifier director'
. "$here/packaging/debian.sh"

# It was installed as a scanning node, or is now
is_scanner() { [ -n "$scanner" ] || [ -e "$prefix/share/scanner" ]; }

# owned_by_debian FILE: belongs to another package (a real Linux-HA heartbeat, say), which is not ours to replace
owned_by_debian() { dpkg-query -S "$1" >/dev/null 2>&1; }

# The heartbeat of this server is a real Linux-HA: ours keeps out of its way (docs/linux-ha.md)
linux_ha_stays() {
    [ -z "$without_heartbeat" ] || return 0
    case $(dpkg-query -W -f '${db:Status-Status}' heartbeat 2>/dev/null) in
        '' | not-installed) return 1 ;;
    esac
}

in_other_root() {
    root=$1; shift
    [ -x "$root/usr/bin/dpkg" ] || die "$root is not a Debian system; make one with debootstrap"
    copy=$(mktemp -d "$root/var/tmp/ha-install.XXXXXX")
    trap 'rm -rf "$copy"' EXIT
    (cd "$here" && tar -cf - --exclude=./.venv --exclude=./.git .) | tar -xf - -C "$copy"
    chroot "$root" /bin/sh "/var/tmp/${copy##*/}/install.sh" "$@"
}

debian_packages() {
    missing=$(missing_packages "$here/packaging/debian-packages.txt")
    if is_scanner; then missing=$(for package in $missing; do [ "$package" = postgresql ] || echo "$package"; done); fi
    [ -n "$missing" ] || return 0
    say "installing Debian packages:" $missing
    add_packages $missing
}

# What decides the content of the virtual environment
stamp() { { /usr/bin/python3 -VV; cat "$here/requirements.txt"; } | sha256sum | cut -d' ' -f1; }

# The next virtual environment, in $next: a copy of the present one where that holds the right packages
virtual_environment() {
    wanted=$(stamp)
    mkdir -p "$prefix"
    next=$(mktemp -d "$prefix/venv.XXXXXX")
    trap 'rm -rf "$next"' EXIT
    chmod 0755 "$next"
    if [ "$(cat "$venv/.requirements" 2>/dev/null)" = "$wanted" ]; then
        cp -a "$venv/." "$next"
        return
    fi
    /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "Python 3.11 or later is needed: use Debian 12 or later"
    say "installing Python packages into $venv"
    /usr/bin/python3 -m venv "$next"
    pip_install --progress-bar off -r "$here/requirements.txt"
    echo "$wanted" >"$next/.requirements"
}

pip_install() { "$next/bin/python" -P -m pip install --disable-pip-version-check --no-input "$@"; }

# The packages themselves: built from a copy, so that nothing is written into the checkout
project() {
    say "installing ha_manager $(sed -n 's/^version *= *//p' "$here/setup.cfg")"
    build=$(mktemp -d)
    trap 'rm -rf "$build" "$next"' EXIT
    for name in setup.cfg pyproject.toml README.md LICENSE; do
        [ ! -e "$here/$name" ] || cp "$here/$name" "$build/"
    done
    awk '/^[a-z]/ { inside = /^packages *=/ } /^ / && inside && !/\./ { print $1 }' "$here/setup.cfg" | while read -r package; do
        cp -r "$here/$package" "$build/"
    done
    find "$build" -name __pycache__ -prune -exec rm -rf {} +
    pip_install --quiet --no-deps --no-build-isolation --force-reinstall "$build"
    rm -rf "$build"
}

# $venv becomes a link to $next. Who runs goes on with what it has loaded.
switch() {
    ln -s "${next##*/}" "$next.link"
    if [ -d "$venv" ] && [ ! -L "$venv" ]; then mv "$venv" "$next.old"; fi # an installation of before
    mv -fT "$next.link" "$venv"
    trap - EXIT
    for old in "$prefix"/venv.*; do
        [ "$old" = "$next" ] || rm -rf "$old"
    done
}

commands() {
    mkdir -p "$prefix/bin" "$prefix/lib"
    install -m 0644 "$here/init.d/functions" "$prefix/lib/init-functions"
    for file in "$here"/packaging/bin/*; do
        [ -f "$file" ] || continue
        name=${file##*/}
        install -m 0755 "$file" "$prefix/bin/$name"
        case $name in cl_status | hb_standby | hb_takeover)
            if linux_ha_stays; then
                if [ "$(readlink "/usr/bin/$name")" = "$prefix/bin/$name" ]; then rm "/usr/bin/$name"; fi
                continue
            fi ;;
        esac
        if owned_by_debian "/usr/bin/$name"; then
            say "/usr/bin/$name belongs to a Debian package and stays; ours is $prefix/bin/$name"
        else
            ln -sfn "$prefix/bin/$name" "/usr/bin/$name"
        fi
    done
}

boot_services() {
    for name in $services; do
        if [ "$name" = heartbeat ] && linux_ha_stays; then
            say "Linux-HA's heartbeat stays what /etc/init.d/heartbeat, cl_status, hb_standby and hb_takeover are about." \
                "To put ours in its place: docs/linux-ha.md"
            continue
        fi
        if owned_by_debian "/etc/init.d/$name"; then
            say "/etc/init.d/$name belongs to a Debian package and stays"
            continue
        fi
        install -m 0755 "$here/init.d/$name" "/etc/init.d/$name"
        if command -v systemctl >/dev/null; then
            mkdir -p /usr/local/lib/systemd/system
            install -m 0644 "$here/init.d/systemd/$name.service" "/usr/local/lib/systemd/system/$name.service"
        fi
    done
    # Only the Manager starts at boot; it knows which roles this device has, and starts the others.
    update-rc.d manager defaults
    if command -v systemctl >/dev/null; then systemctl enable --quiet manager.service 2>/dev/null || :; fi
    if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
}

# Samples where there is nothing yet; one that nobody touched since it was installed is brought up to date.
sample_configuration() {
    samples=$prefix/share/conf
    if is_scanner; then conf='conf-scanner conf/var/wasp/conf/director'; else conf=conf; fi
    (cd "$here" && find $conf -type f ! -name '.*') | while read -r path; do
        file=${path#*/} new=$here/$path mode=0644
        [ ! -x "$new" ] || mode=0755
        case $file in */authkeys) mode=0600 ;; esac
        if [ ! -e "/$file" ] && [ ! -e "$samples/$file" ] || cmp -s "/$file" "$samples/$file"; then
            cmp -s "$new" "/$file" || install -D -m "$mode" "$new" "/$file"
        elif [ -e "/$file" ] && ! cmp -s "$new" "/$file" && ! cmp -s "$new" "$samples/$file"; then
            say "/$file is yours and stays; the new sample is $samples/$file"
        fi
        install -D -m "$mode" "$new" "$samples/$file"
    done
    folders 0755 /etc/ha_manager /etc/ha_manager/hooks.d /etc/heartbeat /etc/Manager /etc/director /var/lib/heartbeat
    folders 0700 /etc/ha_manager/keys /var/lib/ha_manager /opt/finjan/configuration/ha
}

# One that is there keeps its mode: while HA is on, Postgres must pass /var/lib/ha_manager.
folders() {
    mode=$1; shift
    for folder in "$@"; do
        [ -d "$folder" ] || install -d -m "$mode" "$folder"
    done
}

# ours NAME: /etc/init.d/NAME is ours, or gone
ours() { [ ! -e "/etc/init.d/$1" ] || grep -qs "$prefix/" "/etc/init.d/$1"; }

ha_is_on() { [ -e /var/lib/ha_manager/postgres/postgresql.conf ]; }

uninstall() {
    # While HA is on, nothing but ha_manager starts Postgres.
    if ha_is_on; then
        die "HA is on here, and Postgres would be left without anybody to start it: ha stop, then again; nothing was removed"
    fi
    for name in $services; do
        if [ ! -e "/etc/init.d/$name" ] || ! ours "$name"; then continue; fi
        say "stopping $name"
        "/etc/init.d/$name" stop || die "$name does not stop: see /var/log/syslog; nothing was removed"
    done
    for name in $services; do
        if ! ours "$name"; then continue; fi
        if command -v systemctl >/dev/null; then systemctl disable --quiet "$name.service" 2>/dev/null || :; fi
        rm -f "/etc/init.d/$name" "/usr/local/lib/systemd/system/$name.service"
        update-rc.d "$name" remove
    done
    find /usr/bin -maxdepth 1 -type l -lname "$prefix/bin/*" -delete
    rm -rf "$prefix"
    if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
    say "done; configuration (/etc/ha_manager, /etc/heartbeat, /etc/Manager, /etc/director, /var/wasp) and data (/var/lib/ha_manager, /var/lib/heartbeat) stay"
}

root='' action=install without_heartbeat='' scanner=''
while [ $# -gt 0 ]; do
    case $1 in
        --root) [ $# -gt 1 ] || { usage >&2; exit 2; }; root=$2; shift ;;
        --root=*) root=${1#--root=} ;;
        --without-heartbeat) without_heartbeat=--without-heartbeat ;;
        --scanner) scanner=--scanner ;;
        --uninstall) action=uninstall ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done
[ "$(id -u)" = 0 ] || die "root is needed: sudo $0"
if [ -n "$root" ] && [ "$root" != / ]; then
    if [ "$action" = uninstall ]; then in_other_root "$root" --uninstall; else in_other_root "$root" $without_heartbeat $scanner; fi
    exit
fi
if [ "$action" = uninstall ]; then uninstall; exit; fi

if is_scanner; then
    services='manager director'
    install -D -m 0644 /dev/null "$prefix/share/scanner"
fi
debian_packages
virtual_environment
project
switch
commands
boot_services
sample_configuration
if is_scanner; then
    say "done: manager-ctl keys make, then manager-ctl keys accept with the line of the active policy server's ha keys show"
elif ha_is_on; then
    say "done: what runs goes on with the programs of before; how each takes up the new ones: docs/operations.md, \"A new version\""
else
    say "done: configure /var/wasp/conf/ha/current/module.xml and /etc/ha_manager/ha_manager.conf, then: ha start"
fi
