#!/usr/bin/env bash
# Records which code of cutover is hot under load, into target/profile/cutover.profdata. `packaging/package.sh` builds with it, which
# takes a tenth off the CPU time of a request.
#
# Needs llvm-profdata of this very toolchain (`rustup component add llvm-tools`) and what benches/README.md names; the load is that of the
# benches, on loopback. A quarter of an hour on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
profdata=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata
if [ ! -x "$profdata" ]; then
    echo "llvm-profdata is missing: rustup component add llvm-tools" >&2
    exit 1
fi
target=$(uname -m)-unknown-linux-gnu
out=$PWD/target/profile
rm -rf "$out/raw"

# The very build of packaging/package.sh, with counters: the names of functions, by which a profile finds them, depend on every setting of
# the build.
RUSTFLAGS="-C target-feature=+crt-static -C profile-generate=$out/raw" \
    cargo build --profile dist --locked --target "$target" --target-dir "$out/build"

# Every case of a kind of traffic, and every feature: what isn't run here is taken for cold, and made small instead of fast.
bench() {
    cargo run --release --manifest-path benches/harness/Cargo.toml -- bench --only cutover --cutover "$out/build/$target/dist/cutover" \
        --rounds 1 --no-valgrind "$@"
}
bench --seconds 2 --case get1k,get1k-browser,get1k-unlike,get64k,get1m,post10k,chunked,tls1k,tls-handshake,tls-resume,h2,h2-clear,h2-h2c,grpc,websocket
bench --case features
# Edits of large files are to be adopted at once as well.
bench --case reload

"$profdata" merge -o "$out/cutover.profdata" "$out"/raw/*.profraw
rustc -vV > "$out/rustc"
echo "$out/cutover.profdata"
