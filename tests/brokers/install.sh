#!/bin/sh
# Brokers and foreign clients for the tests, from the system's packages, where they are missing
# and the user may install. Never fails: a test that needs what is still missing says so itself.
set -u

missing=
command -v redis-server >/dev/null || missing="$missing redis-server"
command -v redis-cli >/dev/null || missing="$missing redis-tools"
command -v openssl >/dev/null || missing="$missing openssl"
[ -z "$missing" ] && exit 0

if ! command -v apt-get >/dev/null; then
    echo "tests/brokers: not found:$missing; install them to run the tests that need them" >&2
    exit 0
fi
if [ "$(id -u)" = 0 ]; then
    as_root=
elif sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    echo "tests/brokers: not found:$missing; run: sudo apt-get install$missing" >&2
    exit 0
fi

# The packages start a server of their own on the usual port; the tests must not touch that one,
# and none is wanted. RUNLEVEL=1 tells invoke-rc.d that services are not to be started.
install() {
    $as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -y -q --no-install-recommends $missing </dev/null
}
echo "tests/brokers: installing$missing" >&2
{ $as_root apt-get update -q </dev/null && install; } >/dev/null \
    || echo "tests/brokers: installing$missing failed; their tests cannot run" >&2
exit 0
