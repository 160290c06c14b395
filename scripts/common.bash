# What scripts/demo and scripts/test share. Sourced, not run.

# Needed to build: a C compiler, clang and its headers for libbpf and libxdp.
BUILD_PACKAGES=(gcc libc6-dev make clang pkg-config libelf-dev zlib1g-dev m4)
# Needed to make hosts out of network namespaces.
RUN_PACKAGES=(iproute2 ethtool)

# Oldest compiler that builds this workspace (`rust-version` in Cargo.toml).
RUST_MINIMUM=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

# Heading of a part of the work.
say() { printf '\n== %s\n' "$*"; }

# Remark within a part.
note() { printf '   %s\n' "$*"; }

is_root() { [ "$(id -u)" -eq 0 ]; }

# Where cargo puts what it builds.
target_folder() { realpath -m "${CARGO_TARGET_DIR:-target}"; }

# Prints those of the given Debian packages that are not installed.
missing_packages() {
    local package
    for package in "$@"; do
        if [ "$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
            printf '%s\n' "$package"
        fi
    done
}

# Installs those of the given packages that are missing. Where that is not possible it says which they are, and goes on:
# what does not need them still runs. Leaves the names of those that are still missing in MISSING.
install_packages() {
    say "Debian packages"
    MISSING=()
    if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
        note "this is no Debian: please see for yourself that you have what these packages hold:"
        note "$*"
        return
    fi
    mapfile -t MISSING < <(missing_packages "$@")
    if [ ${#MISSING[@]} -eq 0 ]; then
        note "all there: $*"
        return
    fi
    if ! is_root; then
        note "missing, and only root can install them: ${MISSING[*]}"
        note "as root: apt-get update && apt-get install --no-install-recommends ${MISSING[*]}"
        note "going on without them"
        return
    fi
    note "installing ${MISSING[*]}"
    if ! apt-get update -qq; then
        note "apt-get update failed; trying with the lists that are there"
    fi
    export DEBIAN_FRONTEND=noninteractive
    local package install=(apt-get install -y -qq --no-install-recommends)
    if ! "${install[@]}" "${MISSING[@]}" >/dev/null; then
        note "not all of them at once; trying one by one"
        for package in "${MISSING[@]}"; do
            "${install[@]}" "$package" >/dev/null || true
        done
    fi
    mapfile -t MISSING < <(missing_packages "$@")
    if [ ${#MISSING[@]} -gt 0 ]; then
        note "still missing: ${MISSING[*]}"
    fi
}

# Ends the script, in words, if there is no Rust that builds this.
require_rust() {
    if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
        PATH="$HOME/.cargo/bin:$PATH"
    fi
    local version
    if ! command -v cargo >/dev/null || ! version=$(rustc --version 2>/dev/null | awk '{print $2}'); then
        echo "error: no Rust found; install it from https://rustup.rs (version $RUST_MINIMUM or later)" >&2
        exit 1
    fi
    if [ "$(printf '%s\n' "$RUST_MINIMUM" "${version%%-*}" | sort -V | head -n 1)" != "$RUST_MINIMUM" ]; then
        echo "error: Rust $version found, $RUST_MINIMUM or later expected: rustup update stable" >&2
        exit 1
    fi
    note "Rust $version"
}
