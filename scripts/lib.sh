# Shared by the scripts beside it, which source this file: finds or installs what they need.
# Everything here is quiet when there is nothing to do, and says in one line what it does when there is.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Debian gives ordinary users no sbin, where dpkg looks for its helpers.
export PATH=$PATH:/usr/sbin:/sbin

say() { printf '%s\n' "$*"; }

die() {
    printf '%s: %s\n' "$(basename "$0")" "$1" >&2
    exit 1
}

# Run a noisy command; its output is shown only when it fails, without addresses of package servers,
# which may be private.
quietly() {
    local log status=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 </dev/null || status=$?
    if [ "$status" -ne 0 ]; then
        sed -E -e "s#[a-z+]+://[^ '\")]+#<server>#g" -e "s#host='[^']*'#host=<server>#g" "$log" | tail -n 40 >&2
    fi
    rm -f "$log"
    return "$status"
}

# install_packages PACKAGE…: with apt-get, as root or through sudo.
install_packages() {
    local by_hand="install by hand: $*" as_root=()
    command -v apt-get >/dev/null || die "no apt-get here; $by_hand"
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "neither root nor sudo; $by_hand"
        sudo -v || die "sudo was refused; $by_hand"
        as_root=(sudo)
    fi
    say "installing $* …"
    # A failing update may concern a source that is not needed here: what counts is the installation.
    quietly "${as_root[@]}" apt-get -qq -o DPkg::Lock::Timeout=120 update || true
    quietly "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=120 \
        --no-install-recommends install "$@" || die "apt-get failed; $by_hand"
}

# need COMMAND:PACKAGE…: install the Debian packages of the commands that are missing.
need() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
    done
    if [ "${#missing[@]}" -gt 0 ]; then
        install_packages "${missing[@]}"
    fi
}

need_fuse() {
    need fusermount3:fuse3
    [ -e /dev/fuse ] || die "/dev/fuse is missing; in a container: run it with --device /dev/fuse --cap-add SYS_ADMIN"
}

is_python() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; }

# Set `python` to the path of the first Python that is new enough.
find_python() {
    local name
    for name in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python3.10 python; do
        if [ -n "$name" ] && is_python "$name"; then
            # The real file: a shim may stand for another version in another directory.
            python=$("$name" -c 'import sys; print(sys.executable)')
            return
        fi
    done
    return 1
}

need_python() {
    find_python && return
    install_packages python3 python3-venv
    hash -r
    find_python || die "Python 3.10 or newer is needed; set PYTHON to one, this system's own is older"
}

# make_environment DIRECTORY: an empty virtual environment.
make_environment() {
    need_python
    if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        case $python in
            /usr/bin/*) install_packages "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" ;;
            *) die "$python lacks the modules venv and ensurepip; set PYTHON to another Python ≥ 3.10" ;;
        esac
    fi
    say "making ${1##*/} with $("$python" --version) …"
    quietly "$python" -m venv --clear "$1"
}

# environment DIRECTORY STAMP PIP-ARGUMENTS…: that environment with these things installed. Nothing is done when the
# same things were installed under the same STAMP, a text.
environment() (
    directory=$root/$1 stamp=$2
    shift 2
    stamp_file=$directory/installed-$(printf '%s ' "$@" | sha256sum | cut -c 1-16)
    # One set-up at a time; the lock is on the repository's directory and ends with this subshell.
    flock 9
    [ "$(cat "$stamp_file" 2>/dev/null)" != "$stamp" ] || exit 0
    # An environment without pip is an interrupted one, or made by another tool.
    in_environment() { quietly "$directory/bin/python" -m "$@"; }
    "$directory/bin/python" -c 'import pip' 2>/dev/null || in_environment ensurepip 2>/dev/null \
        || make_environment "$directory" || exit 1
    say "installing into ${directory##*/} …"
    cd "$root" || exit 1
    # Dependency groups need pip 25.1; Debian 12 and Ubuntu 22.04 bring 23 and 22.
    in_environment pip install 'pip>=25.1' && in_environment pip install "$@" || exit 1
    printf '%s' "$stamp" >"$stamp_file"
) 9<"$root"

# use_environment GROUP…: the repository's own environment, with the package (editable) and these dependency groups,
# first in PATH.
use_environment() {
    local group groups=()
    for group in "$@"; do
        groups+=(--group "$group")
    done
    environment .venv "$root $(sha256sum <"$root/pyproject.toml")" --editable . "${groups[@]}" || die "set-up failed"
    export PATH=$root/.venv/bin:$PATH
}

# Servers for the tests of remote stores, which keep out of the system: Debian's packages are unpacked, not installed.
# What cannot be had is told, and its tests are skipped (or fail, with REQUIRE_FUSE=1).
servers_home=${ARTIFACTFS_TEST_SERVERS:-${XDG_CACHE_HOME:-$HOME/.cache}/artifactfs-test-servers}
debian_servers=(radosgw ceph-mon ceph-osd ceph-common openssh-server)
azurite=azurite@3.35.0

# unpack_servers DIRECTORY: the packages and what they need and this system lacks.
unpack_servers() {
    local archives
    archives=$(mktemp -d) && mkdir "$archives/partial" || return 1
    [ "$(id -u)" -ne 0 ] || apt-get -qq -o DPkg::Lock::Timeout=120 update || true
    rm -rf "$1"
    apt-get -qq -y --no-install-recommends --download-only -o Dir::Cache::Archives="$archives" -o Debug::NoLocking=true \
        install "${debian_servers[@]}" && mkdir -p "$1" && find "$archives" -name '*.deb' -exec dpkg -x {} "$1" ';' \
        && touch "$1/complete"
    local status=$?
    rm -rf "$archives"
    return "$status"
}

test_servers() (
    mkdir -p "$servers_home"
    exec 9>"$servers_home/.lock"
    flock 9
    if [ ! -e "$servers_home/debian/complete" ]; then
        say "unpacking ${debian_servers[*]} …"
        quietly unpack_servers "$servers_home/debian" || say "they cannot be had here"
    fi
    if [ "$(cat "$servers_home/npm/complete" 2>/dev/null)" != "$azurite" ]; then
        (need npm:npm) || true
        say "installing $azurite …"
        mkdir -p "$servers_home/npm"
        if quietly npm install --prefix "$servers_home/npm" --no-audit --no-fund --omit=dev "$azurite"; then
            printf '%s' "$azurite" >"$servers_home/npm/complete"
        else
            say "it cannot be had here"
        fi
    fi
)
