"""Settings: where they come from, what is refused and how it is said, what children get, what people see."""

import dataclasses
import os
from pathlib import Path

import pytest

from storage.settings import (
    SettingError,
    Settings,
    check_exposure,
    find_toml,
    from_env,
    is_loopback,
    load_settings,
    shown,
    table,
    unknown_variables,
    variable,
)
from tests.support import ROOT


def load(
    flags: dict[str, object] | None = None, env: dict[str, str] | None = None, toml: Path | None = None
) -> Settings:
    return load_settings(flags or {}, env or {}, toml)[0]


def refused(flags: dict[str, object] | None = None, env: dict[str, str] | None = None, toml: Path | None = None) -> str:
    with pytest.raises(SettingError) as caught:
        load(flags, env, toml)
    return str(caught.value)


def test_defaults() -> None:
    settings, origins = load_settings({}, {}, None)
    assert (settings.host, settings.http_port, settings.dimse_port, settings.aet) == ("127.0.0.1", 8042, 4242, "ANOR")
    assert settings.data == Path.cwd() / "anor-data"
    assert settings.workers == len(os.sched_getaffinity(0))
    assert settings.objects is None
    assert settings.objects_location == str(Path.cwd() / "anor-data/objects")
    assert set(origins.values()) == {"default"}
    assert set(origins) == {field.name for field in dataclasses.fields(Settings)}


def test_precedence(tmp_path: Path) -> None:
    toml = tmp_path / "anor.toml"
    toml.write_text('http_port = 1\naet = "TOML"\nworkers = 3\nmax_body = "2 MiB"\ninsecure = true\n')
    settings, origins = load_settings(
        {"http_port": 3, "host": None}, {"ANOR_HTTP_PORT": "2", "ANOR_AET": "ENV", "ANOR_HOST": ""}, toml
    )
    assert (settings.http_port, settings.aet, settings.workers) == (3, "ENV", 3)
    assert settings.max_body == 2 << 20
    assert settings.insecure is True
    assert (origins["http_port"], origins["aet"], origins["workers"]) == ("--http-port", "ANOR_AET", str(toml))
    assert origins["host"] == "default"  # a flag that is not given and an empty variable are nothing


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load().http_port = 1  # type: ignore[misc]


def test_children_get_everything(tmp_path: Path) -> None:
    settings = load(
        {
            "data": tmp_path, "objects": "s3://bucket/some prefix", "s3_access_key": "a", "s3_secret_key": "b c",
            "insecure": True, "database_url": "postgresql://u:p%20@/d?host=/x",
        }
    )  # fmt: skip
    env = settings.to_env()
    assert from_env(env) == settings
    assert all(name.startswith("ANOR_") for name in env)
    assert from_env(load().to_env()) == load()


def test_virtual_addressing_needs_a_host_name() -> None:
    given = {"objects": "s3://bucket", "s3_addressing": "virtual"}
    assert load(given | {"s3_endpoint": "http://s3.example.org:9000"}).s3_addressing == "virtual"
    assert load(given).s3_endpoint is None
    for endpoint in ("http://127.0.0.1:9000", "https://[::1]/"):
        with pytest.raises(SettingError, match="s3_endpoint has an IP address"):
            load(given | {"s3_endpoint": endpoint})


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load({"data": Path("here"), "objects": "pictures"})
    assert settings.data == tmp_path / "here"
    assert settings.objects == str(tmp_path / "pictures")
    assert load({"objects": "~/x"}).objects == str(Path.home() / "x")
    (tmp_path / "x").touch(0o600)
    (tmp_path / "x").write_text("0" * 64)  # what credentials_key_file takes
    for setting in table():
        if setting.base_type is Path and setting.about.check != "font":  # a child may run elsewhere
            assert getattr(load({setting.name: "x"}), setting.name) == tmp_path / "x", setting.name


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("http_port", "eight", "a whole number"),
        ("http_port", "70000", "at most 65535"),
        ("http_port", "-1", "at least 0"),
        ("http_port", "1.5", "a whole number"),
        ("http_port", "1 KiB", "a whole number"),
        ("workers", "0", "at least 1"),
        ("s3_sse", "aes", "AES256, aws:kms or aws:kms:KEY-ID"),
        ("s3_sse", "aws:kms:", "AES256, aws:kms or aws:kms:KEY-ID"),
        ("insecure", "perhaps", "true or false"),
        ("log_level", "loud", "one of debug, info, warning, error"),
        ("duplicates", "overwrite", "one of reject, keep-first, replace"),
        ("aet", "SEVENTEEN LETTERS", "an AE title"),
        ("aet", "BACK\\SLASH", "an AE title"),
        ("database_url", "mysql://x", "a URL that begins with postgresql://"),
        ("objects", "gs://bucket", "a directory or s3://bucket/prefix"),
        ("objects", "s3://", "s3://bucket/prefix"),
        ("s3_endpoint", "rgw:7480", "a URL that begins with http"),
        ("public_url", "https://pacs.example.org/?x=1", "a URL that begins with http"),
        ("dicomweb_root", "dicom-web/", "a path such as /dicom-web"),
        ("trusted_proxies", "10.0.0.0/8, proxy", "networks such as 10.0.0.0/8"),
        ("cors_origins", "viewer.example.org", "origins such as https://viewer.example.org"),
        ("s3_multipart_size", "1 MiB", "at least 5 MiB"),
        ("max_depth", "1000", "at most 200"),
        ("database_timeout", "soon", "a number (seconds)"),
        ("max_body", "8 MiBs", "a whole number (bytes)"),
    ],
)
def test_refusals_name_setting_origin_and_what_is_right(name: str, value: str, wanted: str) -> None:
    said = refused(env={variable(name): value})
    assert said.startswith(f"{name} (from {variable(name)}): ")
    assert wanted in said


def test_a_secret_is_not_repeated() -> None:
    assert "hunter2" not in refused(env={"ANOR_DATABASE_URL": "mysql://user:hunter2@host/x"})


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1024", 1024),
        ("64k", 65536),
        ("8 MiB", 8 << 20),
        ("1.5GB", 3 << 29),
        ("16 gib", 16 << 30),
        ("1_000", 1000),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert load(env={"ANOR_MAX_BODY": text}).max_body == size


def test_settings_that_belong_together() -> None:
    assert "qido_default_limit (from ANOR_QIDO_DEFAULT_LIMIT) is above qido_max_limit (from default)" in refused(
        env={"ANOR_QIDO_DEFAULT_LIMIT": "100000"}
    )
    assert "belong together" in refused(env={"ANOR_S3_ACCESS_KEY": "x"})


def test_toml_faults(tmp_path: Path) -> None:
    toml = tmp_path / "anor.toml"
    assert f"cannot read the settings file {toml}" in refused(toml=toml)
    toml.write_text("http_port = ")
    assert f"{toml} is not valid TOML" in refused(toml=toml)
    toml.write_text("http_prot = 1")
    assert refused(toml=toml) == f"{toml}: unknown setting http_prot; is http_port meant?"
    toml.write_text("[server]\nhttp_port = 1")
    assert refused(toml=toml) == f"{toml}: unknown setting server"
    toml.write_text("http_port = true")
    assert refused(toml=toml) == f"http_port (from {toml}): True is not a whole number"
    toml.write_text("aet = 5")
    assert refused(toml=toml) == f"aet (from {toml}): 5 is not text"


@pytest.mark.parametrize("number", ["inf", "nan", "-inf"])
def test_toml_knows_numbers_that_are_none(tmp_path: Path, number: str) -> None:
    toml = tmp_path / "anor.toml"
    for name in ("workers", "database_timeout", "max_body"):
        toml.write_text(f"{name} = {number}\n")
        assert refused(toml=toml).startswith(f"{name} (from {toml}): ")


def test_which_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_toml(None, {}) is None
    Path("anor.toml").touch()
    assert find_toml(None, {}) == Path("anor.toml")
    assert find_toml(None, {"ANOR_CONFIG": "/etc/anor.toml"}) == Path("/etc/anor.toml")
    assert find_toml(Path("flag.toml"), {"ANOR_CONFIG": "/etc/anor.toml"}) == Path("flag.toml")


def test_misspelt_variables() -> None:
    env = {"ANOR_HTTP_PROT": "1", "ANOR_SERVICE_HOST": "10.0.0.1", "ANOR_PORT_8042_TCP_ADDR": "x", "ANOR_CONFIG": "y"}
    assert unknown_variables(env) == {"ANOR_HTTP_PROT": "ANOR_HTTP_PORT"}
    assert unknown_variables({"ANOR_WORKER": "4"}) == {"ANOR_WORKER": "ANOR_WORKERS"}
    assert unknown_variables({"ANOR_NOTHING_LIKE_IT": "4", "OTHER": "1"}) == {"ANOR_NOTHING_LIKE_IT": ""}
    services = ("ANOR_PORT", "ANOR_WEB_SERVICE_PORT_HTTP", "ANOR_PORT_8042_TCP", "ANOR_PORT_8042_TCP_PROTO")
    assert unknown_variables(dict.fromkeys(services, "x")) == {}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)
    check_exposure(host, insecure=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "10.0.0.1"])
def test_beyond_loopback_needs_insecure(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(SettingError, match="--insecure"):
        check_exposure(host, insecure=False)
    check_exposure(host, insecure=True)


def test_a_host_without_an_address() -> None:
    with pytest.raises(SettingError, match="has no address"):
        check_exposure("no-such-host.invalid", insecure=False)


def test_secrets_are_masked() -> None:
    rows = {setting.name: setting for setting in table()}
    assert shown(rows["s3_secret_key"], "hunter2") == "*****"
    assert shown(rows["database_url"], "postgresql://u:hunter2@h:1/d") == "postgresql://u:*****@h:1/d"
    assert (
        shown(rows["database_url"], "postgresql://u@h/d?password=hunter2&x=1")
        == "postgresql://u@h/d?password=*****&x=1"
    )
    assert shown(rows["max_body"], 8 << 20) == "8 MiB"
    assert shown(rows["max_body"], 1000) == "1000"
    assert shown(rows["insecure"], False) == "false"
    assert shown(rows["objects"], None) == "not set"
    secret = {setting.name for setting in table() if setting.about.secret}
    assert {name for name in rows if any(word in name for word in ("secret", "password", "url"))} - secret <= {
        "public_url"
    }


def test_every_setting_is_documented() -> None:
    text = (ROOT / "infra/docs/configuration.md").read_text("utf-8")
    rows = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[0].startswith("`"):
            rows[cells[0].strip("`")] = cells
    for setting in table():
        assert setting.name in rows, f"{setting.name} is missing in infra/docs/configuration.md"
        _, default, meaning = rows[setting.name]
        assert meaning.rstrip(".") == setting.about.help.rstrip(".").replace("|", "\\|"), setting.name
        if setting.name not in {"workers", "dimse_processes", "data"}:
            expected = "" if setting.default in (None, "") else f"`{shown(setting, setting.default)}`"
            assert default == expected, setting.name
    assert set(rows) == {setting.name for setting in table()}, "the table documents settings that do not exist"
