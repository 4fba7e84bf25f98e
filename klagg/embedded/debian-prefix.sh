#!/usr/bin/env bash
# debian-prefix.sh RECIPE CACHE: Debian packages in a private folder, without root and without touching the host's dpkg.
#
# RECIPE is one of
#   timescaledb   PostgreSQL 17 with TimescaleDB, from trixie
#   redis         redis-server 8, from trixie
#   prometheus    prometheus and promtool, from bookworm, for the tests of the alert rules
#   nginx         nginx, from trixie, for the tests of the gateway behind a proxy
#   chromium      a headless Chromium from the host's own suite, for the tests of the web page
#   pip           pip's wheel from the host's own suite, for a python3 that lacks ensurepip
#
# Prints one line on stdout: the folder, CACHE/RECIPE-SUITE-ARCHITECTURE-HASH, ready for use. HASH is that of this script, so
# a changed recipe makes a new folder. In the folder:
#   bin/          the programs, as small wrappers that start each with the loader and the libraries that came with it; the
#                 host's C library may be older than the one the packages were built for. Chromium finds its files by what
#                 runs as /proc/self/exe, which must not be a loader: it comes from the host's suite and has the host's
#   usr/ etc/     the unpacked packages
#   versions.txt  what was brought in: package and version, a line each
#
# The folder appears by one rename after everything in it was tried, so a half-made one is never seen; concurrent runs wait
# for each other. Progress goes to stderr. On failure the last line on stderr is one sentence, and the exit status is 1.
#
# KLAGG_DEBIAN_MIRROR names a mirror (say file:///mnt/debian); without it the mirrors in the host's apt sources are used.
set -euo pipefail
export LC_ALL=C
umask 022

KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
LOCK_WAIT_S=900
SPACE_NEEDED_MIB=400
MIRRORS_MAX=3

say() { printf 'debian-prefix: %s\n' "$*" >&2; }
fail() {
  say "$*"
  exit 1
}

# Sets the suite to that of the host.
host_suite() {
  suite=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release 2>/dev/null | tr -d '"' || true)
  [ -n "$suite" ] || fail "/etc/os-release names no VERSION_CODENAME, so the Debian package of $title cannot be chosen."
}

# Sets what to bring in: `suite`, `packages`, `title`; `programs` are the folders whose ELF files get wrappers, and `linked`
# the shared objects that a program loads later and that must find their libraries too.
choose_recipe() {
  suite=trixie programs=() linked=() own_loader=yes version_flag=--version
  case $recipe in
    timescaledb)
      title="PostgreSQL 17 with TimescaleDB"
      packages=(postgresql-17 postgresql-client-17 postgresql-17-timescaledb)
      programs=(usr/lib/postgresql/17/bin)
      linked=(usr/lib/postgresql/17/lib/timescaledb.so)
      ;;
    redis)
      title="Redis"
      packages=(redis-server redis-tools)
      programs=(usr/bin)
      ;;
    prometheus)
      title="Prometheus"
      packages=(prometheus)
      suite=bookworm # trixie's package comes without promtool
      programs=(usr/bin)
      ;;
    nginx)
      title="nginx"
      packages=(nginx)
      programs=(usr/sbin)
      version_flag=-v
      ;;
    chromium)
      title="Chromium"
      packages=(chromium-headless-shell chromium-common fonts-dejavu-core fontconfig-config)
      own_loader=no
      host_suite
      ;;
    pip)
      title="pip"
      packages=(python3-pip-whl)
      host_suite
      ;;
    *) fail "Unknown recipe '$recipe': use timescaledb, redis, prometheus, nginx, chromium or pip." ;;
  esac
}

choose_architecture() {
  case $(uname -m) in
    x86_64) architecture=amd64 triplet=x86_64-linux-gnu ;;
    aarch64 | arm64) architecture=arm64 triplet=aarch64-linux-gnu ;;
    *) fail "No recipe for the processor $(uname -m): Debian packages are brought in on amd64 and arm64 only." ;;
  esac
}

check_tools() {
  local tool
  for tool in apt-get apt-config dpkg dpkg-deb; do
    command -v "$tool" >/dev/null ||
      fail "$title cannot be brought in here: $tool is missing, and the packages come through Debian's apt."
  done
  [ "$(dpkg --print-architecture)" = "$architecture" ] ||
    fail "$title cannot be brought in here: dpkg is for $(dpkg --print-architecture), the processor for $architecture."
}

free_mib() { df -Pm "$cache" | awk 'NR==2 {print $4}'; }

check_space() {
  [ "$(free_mib)" -ge "$SPACE_NEEDED_MIB" ] ||
    fail "The disk is too full for $title: $cache has $(free_mib) MiB free, $SPACE_NEEDED_MIB MiB are needed."
}

# Fails with the reason that the log of a step gives: a full disk says so everywhere (but for the log itself, which is on
# it), the rest is the step's own.
fail_with_log() {
  if grep -qi 'no space left on device' "$work/log" || [ "$(free_mib)" -lt 2 ]; then
    fail "The disk ran full while $title was brought into $cache."
  fi
  grep -E '^E: ' "$work/log" | tail -n 3 >&2 || tail -n 3 "$work/log" >&2
  fail "$1"
}

# Runs a step quietly, keeping what it says for fail_with_log.
quietly() { "$@" >"$work/log" 2>&1 </dev/null; }

# The Debian mirrors in the host's apt sources, one a line, best first. apt itself reads its files, so every format and
# option of theirs is understood. A mirror that apt has used before is known by its origin; of others only the suite is.
host_mirrors() {
  local codename
  codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release 2>/dev/null | tr -d '"' || true)
  apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' 2>/dev/null |
    awk -v codename="$codename" '
      $3 != "main" || ($2 != codename && $2 !~ /^(oldstable|stable|testing|sid|unstable)$/) { next }
      $4 == "Debian" { known[$1] = 1 }
      $4 == "" || $4 ~ /^\$/ { guessed[$1] = 1 }
      END { for (m in known) print m; for (m in guessed) if (!(m in known)) print m }' | sed "${MIRRORS_MAX}q"
}

# A configuration for apt that leaves nothing of the host's in place but how to reach the network (proxy, certificates).
# It must be written before APT_CONFIG is set, since it reads the host's.
configure_apt() {
  mkdir -p "$work"/state/lists/partial "$work"/cache/archives/partial "$work/debs"
  : >"$work/status"
  {
    apt-config dump | grep -E '^Acquire::(http|https|ftp|tor)(::| )' || true
    cat <<CONF
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist "$work/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "$work/state";
Dir::State::status "$work/status";
Dir::Cache "$work/cache";
APT::Architecture "$architecture";
APT::Architectures { "$architecture"; };
APT::Install-Recommends "false";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
CONF
  } >"$work/apt.conf"
}

# Fetches the suite's package lists from the first mirror that has them.
update_lists() {
  local mirrors=() mirror signed_by=""
  if [ -n "${KLAGG_DEBIAN_MIRROR:-}" ]; then
    mirrors=("$KLAGG_DEBIAN_MIRROR")
  else
    mapfile -t mirrors < <(host_mirrors)
  fi
  [ "${#mirrors[@]}" -gt 0 ] ||
    fail "No Debian mirror is among this host's apt sources; name one in KLAGG_DEBIAN_MIRROR to bring in $title."
  [ -r "$KEYRING" ] && signed_by="[signed-by=$KEYRING] "
  configure_apt
  export APT_CONFIG=$work/apt.conf
  for mirror in "${mirrors[@]}"; do
    printf 'deb %s%s %s main\n' "$signed_by" "$mirror" "$suite" >"$work/sources.list"
    quietly apt-get -q update && return
  done
  fail_with_log "No package lists of Debian $suite could be had from ${mirrors[*]}: check the network and the mirror."
}

# Prints the packages to unpack: the wanted ones and the shared libraries among all they depend on. What a running system
# needs around them (users, init, Perl, LLVM for the JIT, which stays off) is left out; check_libraries proves the choice.
choose_packages() {
  apt-get -s -q install "${packages[@]}" >"$work/plan" 2>"$work/log" </dev/null ||
    fail_with_log "Debian $suite at this mirror cannot install ${packages[*]}."
  printf '%s\n' "${packages[@]}"
  [ "${#programs[@]}" -gt 0 ] || [ "$own_loader" = no ] || return 0
  awk '/^Inst / {print $2}' "$work/plan" | grep -E '^(lib|zlib1g)' |
    grep -vE '^lib(llvm|z3|perl|.*-perl$|c-bin|c-l10n|cap2-bin|debconf|pam-modules|semanage|sepol|audit-common|proc2)'
}

download() {
  local wanted
  wanted=$(choose_packages)
  mapfile -t wanted < <(sort -u <<<"$wanted")
  cd "$work/debs"
  quietly apt-get -q download "${wanted[@]}" ||
    fail_with_log "The packages of $title could not be downloaded: check the network and the mirror."
  cd "$cache"
}

unpack() {
  local deb
  # Before trixie libraries stood in /lib, which is a link to /usr/lib on every system of today.
  mkdir -p "$made/usr/lib" "$made/usr/lib64"
  ln -s usr/lib "$made/lib"
  ln -s usr/lib64 "$made/lib64"
  for deb in "$work"/debs/*.deb; do
    dpkg-deb --fsys-tarfile "$deb" 2>>"$work/log" | tar -x -C "$made" --keep-directory-symlink --no-same-owner --no-same-permissions \
      --exclude='./usr/share/doc' --exclude='./usr/share/man' --exclude='./usr/share/locale' --exclude='./lib/systemd' \
      --exclude='./usr/share/postgresql/*/man' --exclude='*/lib/bitcode' --exclude='*/lib/llvmjit*' \
      --exclude='*/lib/pgxs' --exclude='*/gconv' 2>>"$work/log" ||
      fail_with_log "The package $(basename "$deb") could not be unpacked into $cache."
    dpkg-deb -W --showformat='${Package} ${Version}\n' "$deb" >>"$made/versions.txt"
  done
}

is_elf() { [ "$(head -c 4 "$1" | tail -c 3 | tr -d '\0')" = ELF ]; }

# Every library that FILE needs must come from the prefix: one of the host's, or a missing one, is a mistake in the recipe.
check_libraries() {
  local found
  found=$("$loader" --inhibit-cache --library-path "$libraries" --list "$1" 2>&1 | grep -vE 'linux-vdso|^[[:space:]]*/' || true)
  if grep -v -F "$made/" <<<"$found" | grep -q .; then
    grep -v -F "$made/" <<<"$found" >&2
    fail "$(basename "$1") of $title does not find its libraries in the prefix."
  fi
}

quote() { printf "'%s'" "${1//\'/\'\\\'\'}"; }

# Puts a wrapper in the place of each program. PostgreSQL's programs look for each other and for their files beside the
# name they were called by, hence --argv0. LD_PRELOAD and LD_LIBRARY_PATH are for the host's C library, not for this one.
wrap_programs() {
  local folder file path
  libraries=$made/usr/lib/$triplet
  loader=$(echo "$libraries"/ld-linux-*.so.*)
  [ -x "$loader" ] || fail "$title came without its program loader: $libraries holds no ld-linux."
  mkdir -p "$made/bin"
  for folder in "${programs[@]}"; do
    for file in "$made/$folder"/*; do # one program under several names: a hard link each, since the names move
      if [ -L "$file" ] && [ -f "$file" ]; then ln -f "$(readlink -f "$file")" "$file"; fi
    done
    for file in "$made/$folder"/*; do
      is_elf "$file" || continue
      path=${file#"$made/"}
      check_libraries "$file"
      mv "$file" "$file.elf"
      cat >"$file" <<WRAPPER
#!/bin/sh
unset LD_PRELOAD LD_LIBRARY_PATH
exec $(quote "$dest/${loader#"$made/"}") --argv0 $(quote "$dest/$path") --library-path $(quote "$dest/usr/lib/$triplet") \\
  $(quote "$dest/$path.elf") "\$@"
WRAPPER
      chmod 755 "$file"
      ln -s "../$path" "$made/bin/"
      quietly "$loader" --library-path "$libraries" "$file.elf" "$version_flag" ||
        fail_with_log "$(basename "$file") of $title does not run on this machine."
    done
  done
  for path in "${linked[@]}"; do check_libraries "$made/$path"; done
}

# Chromium with the host's loader and C library, and with the fonts that came with it.
wrap_chromium() {
  local program=usr/lib/chromium/chromium-headless-shell folders=usr/lib/$triplet
  rm -f "$made/$folders"/{libc,libm,libpthread,libdl,librt,libresolv,libnss_*,ld-linux-*}.so.*
  mkdir -p "$made/bin" "$made/fonts"
  cat >"$made/fonts/fonts.conf" <<CONF
<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>$dest/usr/share/fonts</dir><cachedir prefix="xdg">fontconfig</cachedir></fontconfig>
CONF
  cat >"$made/bin/chromium-headless-shell" <<WRAPPER
#!/bin/sh
unset LD_PRELOAD
export LD_LIBRARY_PATH=$(quote "$dest/$folders:$dest/$folders/pulseaudio") FONTCONFIG_FILE=$(quote "$dest/fonts/fonts.conf")
exec $(quote "$dest/$program") "\$@"
WRAPPER
  chmod 755 "$made/bin/chromium-headless-shell"
  quietly env LD_LIBRARY_PATH="$made/$folders:$made/$folders/pulseaudio" "$made/$program" --no-sandbox --version ||
    fail_with_log "Chromium does not run on this machine."
}

main() {
  [ $# -eq 2 ] || fail "Usage: debian-prefix.sh timescaledb|redis|prometheus|nginx|chromium|pip CACHE"
  recipe=$1
  choose_recipe
  choose_architecture
  mkdir -p "$2" 2>/dev/null || fail "The cache folder $2 cannot be made."
  cache=$(cd "$2" && pwd -P)
  case $cache in *[\"\\]*) fail "The cache folder $cache has a quote or a backslash in its path, which apt cannot take." ;; esac
  local hash
  hash=$(sha256sum "${BASH_SOURCE[0]}" | cut -c 1-12)
  dest=$cache/$recipe-$suite-$architecture-$hash
  [ ! -e "$dest" ] || { echo "$dest" && exit 0; }

  check_tools
  work=$dest.work made=$dest.work/made
  { exec 9>"$dest.lock"; } 2>/dev/null || fail "The cache folder $cache cannot be written to by $(id -un)."
  flock -w "$LOCK_WAIT_S" 9 || fail "Another run has been bringing in $title for $LOCK_WAIT_S s; end it, or try again."
  [ ! -e "$dest" ] || { echo "$dest" && exit 0; }
  rm -rf "$work" # of a run that was killed: the lock is ours now
  trap 'rm -rf "$work"' EXIT
  trap 'exit 1' INT TERM HUP
  check_space
  mkdir -p "$made"
  say "bringing in $title from Debian $suite, once, into $dest"
  update_lists
  download
  unpack
  [ "${#programs[@]}" -eq 0 ] || wrap_programs
  [ "$recipe" != chromium ] || wrap_chromium
  chmod -R a+rX "$made"
  sync -f "$made" # the rename must not reach the disk before what it names
  mv -T "$made" "$dest"
  echo "$dest"
}

main "$@"
