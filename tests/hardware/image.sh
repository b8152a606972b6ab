#!/bin/bash
# Build a kernel and a root filesystem in memory for qemu: Debian's kernel and Python, the drivers, and no more.
#     image.sh amd64|arm64 OUT REQUIREMENT...      (Python packages; wheels only, so that nothing foreign is run)
# OUT gets vmlinuz and root.cpio. Packages: mmdebstrap busybox-static cpio kmod. Twenty seconds on a quiet machine.
set -euo pipefail
arch=$1 out=$2
shift 2
case $arch in
amd64) machine=x86_64 wanted=(ftdi_sio cdc_acm vhci_hcd) ;;
arm64) machine=aarch64 wanted=() ;;
*) echo "$arch: must be amd64 or arm64" && exit 1 ;;
esac
# Debian's generic kernel has all of these as modules; the one for clouds has no USB.
wanted+=(virtio_pci virtio_console virtio_net virtio_blk ext4)
packages=(python3 busybox-static kmod udev "linux-image-$arch")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out" "$work/debian" "$work/root"
cd "$work"

# From where this machine has its own packages. They are unpacked and not installed: the guest needs no service, and
# so the arm64 one is built without running a program of its own.
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
mapfile -t mirrors < <(
    apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian'
)
mmdebstrap --quiet --architectures="$arch" --variant=extract --skip=check/qemu \
    --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr --aptopt='Acquire::Languages "none"' \
    --include="$(IFS=,; echo "${packages[*]}")" "$suite" debian.tar "${mirrors[@]}" >mmdebstrap.log 2>&1 || {
    cat mmdebstrap.log
    exit 1
}
tar -xf debian.tar -C debian --exclude=./dev
version=$(basename debian/usr/lib/modules/*)
cp "debian/boot/vmlinuz-$version" "$out/vmlinuz"

# Of the root: Python, udev, busybox for everything else, and the libraries.
cd "$work/debian"
shopt -s nullglob
cp -a --parents {bin,sbin,lib,lib64*} usr/bin/{python3*,busybox,kmod,udevadm} usr/lib/systemd/systemd-udevd \
    usr/lib/{python3.11,"$machine-linux-gnu",udev} usr/lib*/ld-linux* "$work/root"
cd "$work/root"
mkdir -p dev etc mnt opt/site proc run sys tmp usr/{bin,sbin} var
rm -rf "usr/lib/$machine-linux-gnu"/{gconv,krb5,security} usr/lib/udev/hwdb.d usr/lib/python3.11/{test,idlelib,lib2to3}
cat >etc/passwd <<'PASSWD'
root:x:0:0:root:/tmp:/bin/sh
daisyport:x:100:20:the daemon:/tmp:/bin/sh
anna:x:1000:20:somebody else who may use serial lines:/tmp:/bin/sh
PASSWD
printf '%s\n' root:x:0: tty:x:5: dialout:x:20: daisyport:x:100: anna:x:1000: >etc/group
echo '127.0.0.1 localhost guest' >etc/hosts

# The modules with what they depend on, in the order in which they go in.
depmod -b "$work/debian" "$version"
for module in "${wanted[@]}"; do
    modprobe -d "$work/debian" -S "$version" --show-depends "$module"
done | awk '$1 == "insmod" && !seen[$2]++ {print $2}' >"$work/modules"
mkdir modules
while read -r module; do
    cp "$module" modules/
    basename "$module"
done <"$work/modules" >modules/order

python3 -m pip install --quiet --target opt/site --no-compile --only-binary=:all: --implementation cp \
    --python-version 3.11 --platform "manylinux2014_$machine" --platform "manylinux_2_28_$machine" "$@"
# The emulated processor takes a minute to compile what a real one compiles in a second.
python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash usr/lib/python3.11 opt/site >/dev/null || true

find . | cpio --quiet --create --format=newc --owner=0:0 >"$out/root.cpio.part"
mv "$out/root.cpio.part" "$out/root.cpio"
