#!/usr/bin/env bash
# The Debian packages that tests use: a real S3 (Ceph), DICOM peers, a browser, the oldest PostgreSQL that is supported.
# Where they cannot be installed, the command to type is said, and the tests do not start.
set -uo pipefail
cd "$(dirname "$0")/../.."

packages=(
  ceph-mon ceph-osd radosgw ceph-common  # the S3 object store, tests/rgw.py
  dcmtk                                  # storescu, echoscu, findscu against our DIMSE service
  libgdcm-tools libopenjp2-tools libjxl-tools  # independent decoders of what we encode
  dicom3tools                            # dciodvfy: slides that we make against the rules of their IOD
  orthanc orthanc-dicomweb               # a peer to compare answers with
  gcc libc6-dev                          # keeps that peer on the loopback interface, tests/orthanc.py
  chromium libatomic1                    # pages and viewers, tests/browser, and what drives it
  postgresql-15                          # the programs alone
  pgbouncer                              # the database behind a pooler in transaction mode
  nginx-light                            # infra/nginx in front of a server
  fonts-dejavu-core                      # text on rendered images in other scripts than Latin
)
if ! infra/scripts/debian-install.sh "${packages[@]}"; then
  echo "Or run without them, make test PACKAGES=no: tests that need one are skipped or fail, and say which." >&2
  exit 1
fi
