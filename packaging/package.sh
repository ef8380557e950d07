#!/usr/bin/env bash
# Builds what is installed by others, into target/package: a static binary, a Debian package and an OCI image.
#
# Needs cargo-deb (`cargo install cargo-deb`) for the package and umoci for the image; neither root nor a container engine. What is
# missing is named, and the rest is built.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(uname -m)-unknown-linux-gnu
out=target/package
binary=target/$target/dist/cutover
mkdir -p "$out"

# Static: it runs on any distribution, and in an image without one.
flags="-C target-feature=+crt-static"
# Only the compiler that has recorded a profile can read it.
profile=$PWD/target/profile
if [ -f "$profile/cutover.profdata" ] && [ "$(rustc -vV)" = "$(cat "$profile/rustc")" ]; then
    flags+=" -C profile-use=$profile/cutover.profdata"
else
    echo "built without a profile: packaging/profile.sh records one, with which a request takes a tenth less CPU time" >&2
fi
RUSTFLAGS=$flags cargo build --profile dist --locked --target "$target"
case $flags in *profile-use*)
    # The compiler finds what was recorded by the names of functions, which depend on the settings of the build, and says nothing if it
    # finds none.
    tools=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin
    recorded() { "$tools/llvm-profdata" show --all-functions "$profile/cutover.profdata" | sed -n 's/^  \(_ZN[0-9]*cutover.*\):$/\1/p' | sort -u; }
    built() { "$tools/llvm-nm" --just-symbol-name "$binary" | grep '^_ZN[0-9]*cutover' | sort -u; }
    found=$(comm -12 <(recorded) <(built) | wc -l)
    echo "$found functions were built with their profile"
    if [ "$found" -lt 100 ]; then
        echo "$profile/cutover.profdata is of a build with other settings: run packaging/profile.sh again, or remove it" >&2
        exit 1
    fi
    ;;
esac
# ldd succeeds for a static executable that is position-independent.
if ldd "$binary" 2> /dev/null | grep -q "=>"; then
    echo "$binary is not static" >&2
    exit 1
fi
version=$("$binary" --version)
install -m 755 "$binary" "$out/cutover"
echo "$version: $out/cutover"

# The unit for /usr/bin and a user of its own. Each replacement must apply.
replace() {
    grep -qxF -- "$1" "$out/cutover.service" || { echo "systemd/cutover.service has no line \`$1\`" >&2; exit 1; }
    awk -v from="$1" -v to="$2" '{ if ($0 == from) print to; else print }' "$out/cutover.service" > "$out/unit"
    mv "$out/unit" "$out/cutover.service"
}
# Without the comments of an installation by hand.
sed -e '1,/^$/d' systemd/cutover.service > "$out/cutover.service"
replace "ExecStart=/usr/local/bin/cutover run -c /etc/cutover/cutover.toml" "ExecStart=/usr/bin/cutover run -c /etc/cutover/cutover.toml"
replace "ExecReload=/usr/local/bin/cutover reload -c /etc/cutover/cutover.toml" "ExecReload=/usr/bin/cutover reload -c /etc/cutover/cutover.toml"
replace "Documentation=file:/usr/local/share/doc/cutover/README.md" "Documentation=man:cutover(1) file:/usr/share/doc/cutover/README.md"
replace "# A user that exists only while the service runs. Certificates' keys must be readable for it, and not for others:" "# Certificates' keys must be readable for this user, and not for others:"
replace "DynamicUser=yes" "User=cutover"
# \`cutover shift --admin\`, \`deploy --admin\` and \`undo --admin\` let the process write its own file.
replace "ConfigurationDirectory=cutover" "ConfigurationDirectory=cutover
ReadWritePaths=/etc/cutover"

"$out/cutover" man > "$out/cutover.1"
for shell in bash zsh fish; do
    "$out/cutover" completions "$shell" > "$out/cutover.$shell"
done

if cargo deb --version > /dev/null 2>&1; then
    rm -f "$out"/*.deb
    cargo deb --no-build --no-strip --profile dist --target "$target" --output "$out/"
else
    echo "no Debian package: cargo-deb is missing (cargo install cargo-deb)" >&2
fi

if command -v umoci > /dev/null; then
    packaging/oci.sh "$out/cutover" "$out/oci" "${version#cutover }"
else
    echo "no image: umoci is missing (apt install umoci)" >&2
fi
