#!/bin/sh
# Installs the Debian packages that building and testing need. Does nothing when all
# are there. Arguments are further architectures to build for: arm64, armv7.
set -eu

packages="
	gcc libc6-dev make pkg-config
	libseccomp-dev
	libnftables-dev libnftables1 libnftnl-dev libmnl0 libjansson-dev libgmp-dev
	busybox-static zstd jq curl iproute2 procps shellcheck
	postgresql mariadb-server-core mariadb-client-core"

for arch in "$@"; do
	case $arch in
	amd64) continue ;;
	arm64) debian=arm64 gnu=aarch64-linux-gnu ;;
	armv7) debian=armhf gnu=arm-linux-gnueabihf ;;
	*) echo "deps.sh: unknown architecture $arch (amd64, arm64, armv7)" >&2 && exit 2 ;;
	esac
	dpkg --print-foreign-architectures | grep -qx "$debian" || dpkg --add-architecture "$debian"
	packages="$packages gcc-$gnu libc6-dev:$debian libseccomp-dev:$debian
		libnftables1:$debian libnftnl-dev:$debian libmnl0:$debian libjansson-dev:$debian libgmp-dev:$debian"
done

missing=
for package in $packages; do
	status=$(dpkg-query -W -f '${db:Status-Status} ' "$package" 2>/dev/null) || status=
	case $status in
	*"installed "*) ;;
	*) missing="$missing $package" ;;
	esac
done
[ -n "$missing" ] || exit 0

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq || echo "deps.sh: going on with the package lists that are here" >&2
# shellcheck disable=SC2086 # a list of words
apt-get install -qq -y --no-install-recommends $missing >/dev/null
