# Everything that ./run-tests and ./demo need on this machine: Debian packages and .venv. Sourced, with $project set; leaves $python.
# Promise: what is there is not fetched again; nothing is started on this machine; pip's and apt's own configuration counts.
. "$project/packaging/debian.sh"

python=$project/.venv/bin/python
setup_say() { echo "setup: $*" >&2; }
setup_die() { echo "setup: $*" >&2; exit 1; }

setup_packages() {
    missing=$(missing_packages "$project/packaging/debian-packages.txt")
    [ -n "$missing" ] || return 0
    # The machines of a lab lie over this root: it must not change under them.
    for lab in "${HA_LAB_DIR:-/var/tmp/ha-lab}"/labs/*/state.json; do
        [ ! -e "$lab" ] || setup_die "a lab is up, so packages can't be installed now: $python -m lab down --all, then again"
    done
    setup_say "installing Debian packages:" $missing
    # Tests and demo start their own servers, in namespaces; Debian's stay off on this machine.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT INT TERM HUP
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        add_packages $missing || setup_die "apt could not install what is missing"
        rm -f "$policy"
        trap - EXIT INT TERM HUP
    else
        add_packages $missing || setup_die "apt could not install what is missing"
    fi
}

setup_stamp() {
    { "$python" -VV; cat "$project/requirements.txt" "$project/requirements-dev.txt" "$project/setup.cfg"; echo "$project"; } | sha256sum
}

setup_venv() {
    if [ "$(cat "$project/.venv/.stamp" 2>/dev/null)" = "$(setup_stamp 2>/dev/null)" ]; then return; fi
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || setup_die "Python 3.11 or later is needed: use Debian 12 or later"
        setup_say "making .venv"
        /usr/bin/python3 -m venv --clear "$project/.venv"
    fi
    setup_say "installing Python packages into .venv"
    pip="$python -m pip --disable-pip-version-check --no-input install --progress-bar off"
    $pip -r "$project/requirements-dev.txt" >&2 || setup_die "pip could not install requirements-dev.txt"
    $pip --quiet --no-deps --no-build-isolation --editable "$project" >&2 || setup_die "pip could not install the project into .venv"
    setup_stamp >"$project/.venv/.stamp"
}

setup_env() {
    [ "$(id -u)" = 0 ] || setup_die "root is needed: sudo $0"
    command -v dpkg-query >/dev/null || setup_die "this needs Debian 12 or later"
    # One at a time, also when two commands are started together
    exec 9<"$project/packaging/setup-env.sh"
    flock 9
    setup_packages
    setup_venv
    exec 9<&-
}
