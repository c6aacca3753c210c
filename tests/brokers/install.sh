#!/bin/sh
# Brokers and foreign clients for the tests, from the system's packages, where they are missing
# and the user may install. Never fails: a test that needs what is still missing says so itself.
# Quick when all is there. The first argument may be a Python that has the tests' packages: it gets
# Kafka, which no system packages, from Maven Central.
set -u
cd "$(dirname "$0")/../.."

missing=
need() { # PROGRAM PACKAGE
    command -v "$1" >/dev/null || missing="$missing $2"
}
need redis-server redis-server
need redis-cli redis-tools
need rabbitmq-server rabbitmq-server
need amqp-publish amqp-tools
need kcat kcat
need java default-jre-headless
need mvn maven
need openssl openssl
need zsh zsh
need fish fish
need chromium chromium

policy=/usr/sbin/policy-rc.d

# The packages start a server of their own on the usual port; the tests must not touch that one,
# and none is wanted. The policy is what every package's script asks before it starts a service.
forbid_services() {
    [ -e "$policy" ] && return
    ours=yes
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
}

allow_services() {
    [ -z "$ours" ] || $as_root rm -f "$policy"
    ours=
}

apt() {
    $as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -y -q --no-install-recommends "$@" </dev/null >/dev/null
}

install_missing() {
    if ! command -v apt-get >/dev/null; then
        echo "tests/brokers: not found:$missing; install them for the tests that need them" >&2
        return
    fi
    if [ "$(id -u)" = 0 ]; then
        as_root=
    elif sudo -n true 2>/dev/null; then
        as_root="sudo -n"
    else
        echo "tests/brokers: not found:$missing; run: sudo apt-get install$missing" >&2
        return
    fi
    echo "tests/brokers: installing$missing" >&2
    ours=
    trap allow_services EXIT
    trap 'exit 130' INT TERM HUP
    forbid_services
    $as_root apt-get update -q </dev/null >/dev/null
    # One that this system does not have must not cost the others.
    apt $missing 2>/dev/null || for package in $missing; do
        apt "$package" || echo "tests/brokers: $package cannot be installed" >&2
    done
    allow_services
}

[ -z "$missing" ] || install_missing
if [ -n "${1:-}" ] && command -v mvn >/dev/null; then
    "$1" -m tests.brokers.kafka </dev/null || true
fi
exit 0
