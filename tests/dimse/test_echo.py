import subprocess


def echoscu(bridge, dcmtk, *arguments):
    return subprocess.run(
        ["echoscu", "-v", *arguments, "127.0.0.1", str(bridge.port)],
        env=dcmtk,
        capture_output=True,
        text=True,
        check=False,
    )


def test_echoscu(bridge, dcmtk):
    done = echoscu(bridge, dcmtk, "-aec", "ANOR", "--repeat", "3")
    assert done.returncode == 0
    assert done.stderr.count("Received Echo Response (Success)") == 3
    assert "Releasing Association" in done.stderr
    assert bridge.process.poll() is None


def test_another_called_title_is_rejected(bridge, dcmtk):
    done = echoscu(bridge, dcmtk, "-aec", "../secret/X")
    assert done.returncode != 0
    assert "Called AE Title Not Recognized" in done.stderr
