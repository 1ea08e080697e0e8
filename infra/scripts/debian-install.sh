#!/usr/bin/env bash
# Install Debian packages that are missing: debian-install.sh PACKAGE...
# Exit status 1, with the command to type, where that is not possible here. No service is started.
set -euo pipefail

missing=()
for package in "$@"; do
  if [ "$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null)" != "install ok installed" ]; then
    missing+=("$package")
  fi
done
[ ${#missing[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
  echo "not found and not installed, as this is no Debian: ${missing[*]}" >&2
  exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null || ! sudo -n true 2>/dev/null; then
    echo "some Debian packages are missing, and this user may not install them. Type:" >&2
    echo "  sudo apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo -n)
fi

# While this runs, packages may not start their services: Debian asks this program, and 101 means no.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee $policy >/dev/null
  "${as_root[@]}" chmod 755 $policy
  trap '"${as_root[@]}" rm -f $policy' EXIT
fi
# PostgreSQL's package would make a cluster; only its programs are wanted.
if [[ " ${missing[*]} " == *" postgresql-"* ]] && [ ! -e /etc/postgresql-common/createcluster.conf ]; then
  "${as_root[@]}" mkdir -p /etc/postgresql-common
  echo 'create_main_cluster = false' | "${as_root[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
fi

echo "installing Debian packages: ${missing[*]}"
log=$(mktemp)
install() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1 apt-get "$@" </dev/null >>"$log" 2>&1
}
if ! { install -qq update && install -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 install "${missing[@]}"; }; then
  tail -n 20 "$log" >&2
  rm -f "$log"
  exit 1
fi
rm -f "$log"

# Nor at the next boot: what we brought in is started by tests alone.
if [ -d /run/systemd/system ]; then
  for package in "${missing[@]}"; do
    case $package in
      orthanc) "${as_root[@]}" systemctl disable --quiet orthanc.service || true ;;
      postgresql-*) "${as_root[@]}" systemctl disable --quiet postgresql.service || true ;;
    esac
  done
fi
