#!/bin/sh
# Builds the helper binaries, static, into bin/helpers/ARCH:
#
#	helpers.sh [amd64|arm64|armv7]
#
# runc, the containerd shim and the CNI plugins come from the modules pinned in
# go.mod; nft is our command line on Debian's libnftables, see scripts/solink; pause
# is our own. What is up to date is left alone. It installs nothing: deps.sh does.
set -eu
cd "$(dirname "$0")/.."
. scripts/versions.env

arch=${1:-$(dpkg --print-architecture)}
case $arch in
amd64) GOARCH=amd64 debian=amd64 gnu=x86_64-linux-gnu ;;
arm64) GOARCH=arm64 debian=arm64 gnu=aarch64-linux-gnu ;;
armv7 | armhf) arch=armv7 GOARCH=arm GOARM=7 debian=armhf gnu=arm-linux-gnueabihf ;;
*) echo "helpers.sh: unknown architecture $arch (amd64, arm64, armv7)" >&2 && exit 2 ;;
esac
export GOOS=linux GOARCH GOARM="${GOARM:-}" GOFLAGS="-trimpath -buildvcs=false"

out=bin/helpers/$arch
lib=/usr/lib/$gnu
cc=gcc
[ "$(gcc -dumpmachine 2>/dev/null)" = "$gnu" ] || cc=$gnu-gcc

main() {
	check_packages
	mkdir -p "$out" "bin/build/$arch"
	build_runc
	build_go
	build_pause
	build_nft
}

# check_packages names all that is missing at once.
check_packages() {
	problems=
	command -v "$cc" >/dev/null || problems="$problems
  $cc is not installed"
	need libseccomp-dev "$LIBSECCOMP_VERSION"
	need libnftables1 "$NFTABLES_VERSION"
	need libnftnl-dev "$LIBNFTNL_VERSION"
	need libmnl0 "$LIBMNL_VERSION"
	need libjansson-dev "$JANSSON_VERSION"
	need libgmp-dev "$GMP_VERSION"
	[ -f /usr/include/nftables/libnftables.h ] || problems="$problems
  libnftables-dev is not installed"
	[ -z "$problems" ] && return
	echo "helpers.sh: cannot build for $arch: run scripts/deps.sh $arch$problems" >&2
	exit 1
}

need() {
	version=$(dpkg-query -W -f '${Version}' "$1:$debian" 2>/dev/null) || version=
	case $version in
	"") problems="$problems
  $1:$debian is not installed" ;;
	# Without the epoch, up to what Debian adds.
	"$2"[-+]* | [0-9]:"$2"[-+]*) ;;
	*) problems="$problems
  $1:$debian is $version, but scripts/versions.env pins $2" ;;
	esac
}

version_of() { go list -m -f '{{.Version}}' "$1"; }

# go build leaves a binary alone that is up to date.
build_runc() {
	CGO_ENABLED=1 CC=$cc PKG_CONFIG_LIBDIR=$lib/pkgconfig go build -o "$out/" \
		-tags 'seccomp urfave_cli_no_docs netgo osusergo' \
		-ldflags '-s -w -linkmode external -extldflags -static' \
		github.com/opencontainers/runc
}

build_go() {
	containerd=github.com/containerd/containerd/v2
	cni=github.com/containernetworking/plugins
	CGO_ENABLED=0 go build -o "$out/" -ldflags "-s -w
		-X $containerd/version.Version=$(version_of $containerd)
		-X $cni/pkg/utils/buildversion.BuildVersion=$(version_of $cni)" \
		$containerd/cmd/containerd-shim-runc-v2 \
		$cni/plugins/main/bridge $cni/plugins/main/loopback \
		$cni/plugins/ipam/host-local $cni/plugins/meta/portmap
}

# changed NAME INPUTS… tells whether the inputs, or this script, differ from those
# of the last build of NAME, of which done_with makes a note.
changed() {
	name=$1
	shift
	inputs=$(cat scripts/helpers.sh scripts/versions.env "$@" | sha256sum)
	[ ! -f "$out/$name" ] || [ "$(cat "bin/build/$arch/$name.inputs" 2>/dev/null)" != "$inputs" ]
}

done_with() { echo "$inputs" >"bin/build/$arch/$1.inputs"; }

build_pause() {
	changed pause cmd/edgebox-pause/pause.c || return 0
	machine=
	[ "$arch" != armv7 ] || machine=-marm # Thumb keeps the frame pointer where system calls have their number
	# shellcheck disable=SC2086 # none or one word
	$cc $machine -Os -Wall -Wextra -Werror -static -no-pie -fno-pie -nostdlib -ffreestanding \
		-fno-stack-protector -fno-asynchronous-unwind-tables -fomit-frame-pointer \
		-s -Wl,--build-id=none -Wl,-z,noseparate-code -Wl,-z,norelro \
		-o "$out/pause" cmd/edgebox-pause/pause.c
	done_with pause
}

build_nft() {
	changed nft cmd/edgebox-nft/*.c scripts/solink/main.go "$lib/libnftables.so.1" "$lib/libmnl.so.0" \
		"$lib/libnftnl.a" "$lib/libjansson.a" "$lib/libgmp.a" || return 0
	build=bin/build/$arch
	GOOS='' GOARCH='' go build -o bin/build/solink ./scripts/solink
	bin/build/solink -base 0x10000000 -o "$build/nftables" "$lib/libnftables.so.1"
	bin/build/solink -base 0x12000000 -o "$build/mnl" "$lib/libmnl.so.0"
	$cc -Os -Wall -Wextra -Werror -static -no-pie -fno-pie -s \
		-ffunction-sections -Wl,--gc-sections -DNFTABLES_VERSION="\"$NFTABLES_VERSION\"" \
		-o "$out/nft" cmd/edgebox-nft/*.c "$build/nftables.s" "$build/mnl.s" \
		-Wl,-T,"$build/nftables.ld" -Wl,-T,"$build/mnl.ld" \
		"$lib/libnftnl.a" "$lib/libjansson.a" "$lib/libgmp.a"
	done_with nft
}

main
