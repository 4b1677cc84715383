#!/bin/sh
# Installs the Debian packages that the real-cluster tests need (make e2e). Run as root; does nothing if all are there.
set -eu
packages="binutils buildah ca-certificates conntrack containerd containernetworking-plugins containers-storage debootstrap \
ethtool gcc iproute2 iptables libc6-dev runc socat"
missing=""
for package in $packages; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "install ok installed" || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
if ! command -v apt-get >/dev/null; then
  echo "prerequisites: this system has no apt-get; install yourself:$missing" >&2
  exit 78
fi
if [ "$(id -u)" != 0 ]; then
  echo "prerequisites: not root, cannot install:$missing. Run: sudo scripts/prerequisites.sh" >&2
  exit 77
fi
echo "prerequisites: installing$missing" >&2
apt-get update -q >&2
# shellcheck disable=SC2086  # a list of words on purpose
DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing >&2
