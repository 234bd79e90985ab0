#!/usr/bin/env bash
# tools/redis.sh: prints the path of a redis-server for the tests, which start their own on a free port.
# $REDIS_SERVER, else the one on PATH, else Debian's unpacked below build/redis: this needs no root,
# installs nothing into the system and starts no service.
set -euo pipefail
cd "$(dirname "$0")/.."
step() { echo "==> $*" >&2; }
die() { echo "error: $*" >&2; exit 1; }

if [ -n "${REDIS_SERVER:-}" ]; then
    [ -x "$REDIS_SERVER" ] || die "REDIS_SERVER=$REDIS_SERVER is not a program"
    echo "$REDIS_SERVER"
    exit
fi
command -v redis-server && exit
home=$PWD/build/redis
server=$home/redis-server
if [ -x "$server" ]; then
    echo "$server"
    exit
fi
command -v apt-get >/dev/null || die "no redis-server on PATH: install Redis, or name its server in REDIS_SERVER"

rm -rf "$home"
mkdir -p "$home"/{lists/partial,cache/archives/partial,root}
# apt's own state is below build/redis as well; only the list of installed packages is the system's.
apt=(-qq -o "Dir::State::lists=$home/lists" -o "Dir::Cache=$home/cache" -o Debug::NoLocking=1 -o APT::Sandbox::User=)
step "redis-server: none on PATH, so Debian's is unpacked into build/redis"
apt-get "${apt[@]}" update >&2 || die "apt-get update failed: install redis-server, or name one in REDIS_SERVER"
mapfile -t packages < <(apt-get "${apt[@]}" -s --no-install-recommends install redis-server | awk '$1 == "Inst" {print $2}')
[ "${#packages[@]}" -gt 0 ] || die "Debian's redis-server cannot be resolved: install it, or name one in REDIS_SERVER"
(cd "$home/cache/archives" && apt-get "${apt[@]}" download "${packages[@]}" >&2)
for deb in "$home"/cache/archives/*.deb; do dpkg -x "$deb" "$home/root"; done
libraries=$(cd "$home" && find root -name '*.so*' -printf '$here/%h\n' | sort -u | paste -sd:)
cat >"$server.new" <<END
#!/bin/sh
here=\$(dirname "\$(readlink -f "\$0")")
LD_LIBRARY_PATH="$libraries\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}" exec "\$here/root/usr/bin/redis-server" "\$@"
END
chmod +x "$server.new"
"$server.new" --version >&2
mv "$server.new" "$server"
rm -rf "$home/lists" "$home/cache"
echo "$server"
