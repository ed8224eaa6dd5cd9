# Debian packages for install.sh and setup-env.sh; sourced. Promise: nothing is fetched or installed twice, and apt is not
# even asked when nothing is missing.

# wanted_packages FILE: names in it, one a line; comments dropped
wanted_packages() {
    sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' "$1"
}

# missing_packages FILE: names of those that are not installed
missing_packages() {
    for package in $(wanted_packages "$1"); do
        case $(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null) in
            ?i*) ;;
            *) echo "$package" ;;
        esac
    done
}

# add_packages NAME...: apt's own output shows how far it is
add_packages() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q || return
    apt-get install -q -y --no-install-recommends -o Dpkg::Use-Pty=0 "$@"
}
