#!/usr/bin/env bash
# oci.sh BINARY DIRECTORY VERSION: an OCI image of a static binary and the authorities of this machine, without a container engine.
set -euo pipefail

binary=$1 directory=$2 version=$3
image=$directory:latest
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

rm -rf "$directory"
umoci init --layout "$directory"
umoci new --image "$image"
umoci unpack --rootless --image "$image" "$work/bundle"
root=$work/bundle/rootfs
install -D -m 755 "$binary" "$root/usr/local/bin/cutover"
install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
# The user has no name in the image and needs none. State goes to a volume, see docs/kubernetes.md.
install -d -m 755 "$root/etc/cutover"
umoci repack --image "$image" "$work/bundle"
umoci config --image "$image" \
    --config.entrypoint /usr/local/bin/cutover \
    --config.cmd run --config.cmd -c --config.cmd /etc/cutover/cutover.toml \
    --config.user 65532:65532 \
    --config.label org.opencontainers.image.title=cutover \
    --config.label "org.opencontainers.image.version=$version"
umoci gc --layout "$directory"
tar -C "$directory" -cf "$directory.tar" .
echo "image: $directory.tar (skopeo copy oci-archive:$directory.tar docker://…)"
