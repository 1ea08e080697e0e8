"""PostgreSQL is killed, stopped, hangs or is full: requests say so in time, and all goes on by itself afterwards."""

import subprocess

from storage.embedded import SOCKET_NAME, EmbeddedPostgres, socket_directory


def test_lock_files_whose_number_is_now_another_programs_do_not_stop_the_start(tmp_path):
    """After kill -9 of everything, or in a restarted container, a lock file may name a process that lives."""
    server = EmbeddedPostgres(tmp_path / "pg", throwaway=True)
    with server:
        pidfile = (server.data / "postmaster.pid").read_text()
        lock = (socket_directory(server.base) / f"{SOCKET_NAME}.lock").read_text()
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            for path, text in (
                (server.data / "postmaster.pid", pidfile),
                (socket_directory(server.base) / f"{SOCKET_NAME}.lock", lock),
            ):
                path.write_text("\n".join([str(other.pid), *text.splitlines()[1:]]) + "\n")
            with server:
                assert server.pid is not None
        finally:
            other.kill()
