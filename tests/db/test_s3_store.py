"""What only the S3 store has to get right, on a real Ceph RGW: outages, hanging disks, wrong keys, bucket set-up."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from dicomweb.errors import ObjectMissing, Unavailable
from storage.objects import open_store
from storage.s3_admin import RULE_ID, S3Admin
from storage.s3_config import bucket_and_prefix, client_config, client_options
from storage.s3_store import S3Store
from storage.settings import Settings, load_settings
from tests.proxy import ForwardProxy
from tests.rgw import DNS_NAME, SSE_KEY, Rgw, free_port

MIB = 1 << 20


@pytest.fixture
def s3_settings(rgw: Rgw, rgw_bucket: str, tmp_path: Path) -> Callable[..., Settings]:
    """A factory: settings for a prefix of our own, with short limits."""
    prefix = secrets.token_hex(6)

    def make(**overrides: object) -> Settings:
        values = {"data": tmp_path, "s3_read_timeout": 1.5, "s3_retries": 2, **rgw.settings(rgw_bucket, prefix)}
        return load_settings(values | overrides, {}, None)[0]

    return make


@pytest.fixture
async def store(s3_settings: Callable[..., Settings]) -> AsyncIterator[S3Store]:
    opened = S3Store.from_settings(s3_settings())
    yield opened
    await opened.close()


def new_key() -> str:
    return f"1/20260131/{secrets.token_hex(16)}"


async def recovered(store: S3Store, seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while True:
            try:
                await store.check()
            except Unavailable:
                await asyncio.sleep(0.2)
            else:
                return


# ------------------------------------------------------------------------------------------------------ outages


async def test_a_killed_gateway_is_reported_fast_and_comes_back(store, rgw, tmp_path):
    key, large = new_key(), tmp_path / "large"
    await store.put(key, [b"before"], 6)
    large.write_bytes(bytes(20 * MIB))
    rgw.kill("rgw")
    try:
        for call in (
            lambda: store.put(new_key(), [b"x"], 1),
            lambda: store.put_file(new_key(), large, 20 * MIB),
            lambda: store.get(key),
            lambda: store.get_ranges(key, [(0, 1), (2, 3)]),
            lambda: anext(store.stream(key, 0, 6)),
            lambda: store.size(key),
            lambda: store.delete(key),
            lambda: anext(store.list("1/")),
            store.check,
        ):
            began = time.monotonic()
            with pytest.raises(Unavailable, match=r"cannot be reached|in time|not answer"):
                await call()
            assert time.monotonic() - began < 4
    finally:
        rgw.revive("rgw")
        await asyncio.to_thread(rgw.wait_ready)
    assert large.exists()
    assert await store.get(key) == b"before"
    await store.put_file(new_key(), large, 20 * MIB)


async def test_a_paused_disk_makes_requests_end_within_the_deadline(store, rgw, tmp_path):
    async def refused(call: Awaitable[object]) -> None:
        began = time.monotonic()
        with pytest.raises(Unavailable, match="answer"):
            await call
        assert time.monotonic() - began < 2 * 1.5 + 1

    key, large = new_key(), tmp_path / "large"
    await store.put(key, [bytes(100_000)], 100_000)
    large.write_bytes(bytes(20 * MIB))
    rgw.pause("osd")
    try:
        await asyncio.gather(
            refused(store.put(new_key(), [bytes(100_000)], 100_000)),
            refused(store.put_file(new_key(), large, 20 * MIB)),
            refused(store.get_range(key, 10, 50_000)),
            refused(anext(store.stream(key, 0, 100_000))),
            refused(store.check()),
        )
    finally:
        rgw.resume("osd")
    await recovered(store)
    assert await store.get_range(key, 10, 50_000) == bytes(50_000)


async def test_many_callers_survive_a_restart_of_the_gateway(store, rgw):
    bodies = {new_key(): secrets.token_bytes(200_000) for _ in range(200)}
    acknowledged: list[str] = []

    async def put(keys: list[str]) -> None:
        for key in keys:
            for _ in range(200):
                try:
                    await store.put(key, [bodies[key]], len(bodies[key]))
                except Unavailable:
                    await asyncio.sleep(0.1)
                else:
                    acknowledged.append(key)
                    break

    keys = list(bodies)
    writers = [asyncio.create_task(put(keys[number::8])) for number in range(8)]
    while len(acknowledged) < 30:  # noqa: ASYNC110  progress of our own tasks, no event for it
        await asyncio.sleep(0.01)
    rgw.kill("rgw")
    rgw.revive("rgw")
    await asyncio.gather(*writers)
    assert sorted(acknowledged) == sorted(keys)  # also a retried key whose first answer was lost
    for key in keys:
        assert await store.get(key) == bodies[key]


# ------------------------------------------------------------------------------------------------ wrong settings


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"s3_secret_key": "wrong" * 8}, "secret key is wrong"),
        ({"s3_access_key": "nobody"}, "access key is unknown"),
        ({"objects": "s3://there-is-no-such-bucket"}, "bucket does not exist"),
        ({"s3_endpoint": f"http://127.0.0.1:{free_port()}"}, "cannot be reached"),
        ({"s3_endpoint": "http://there-is-no-such-host.invalid"}, "cannot be reached"),
    ],
)
async def test_wrong_settings_are_named_and_never_look_like_missing_objects(s3_settings, overrides, reason):
    store = S3Store.from_settings(s3_settings(**overrides))
    key = new_key()
    for call in (store.check, lambda: store.get(key), lambda: store.put(key, [b"x"], 1), lambda: anext(store.list(""))):
        with pytest.raises(Unavailable, match=reason) as caught:
            await call()
        assert "wrongwrong" not in str(caught.value)
    with pytest.raises(Unavailable):
        await store.size(key)
    await store.close()


async def test_keys_come_from_the_environment_when_the_settings_have_none(s3_settings, monkeypatch):
    given = s3_settings()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", given.s3_access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", given.s3_secret_key)
    store = open_store(s3_settings(s3_access_key=None, s3_secret_key=None))
    key = new_key()
    await store.put(key, [b"x"], 1)
    assert await store.get(key) == b"x"
    await store.close()


# ------------------------------------------------------------------------------------------------ objects, bucket


async def test_a_put_whose_answer_was_lost_may_be_repeated(store):
    key = new_key()
    await store.put(key, [b"same bytes"], 10)
    await store.put(key, [b"same ", b"bytes"], 10)
    with pytest.raises(Unavailable, match="already"):
        await store.put(key, [b"diff bytes"], 10)


async def test_a_cancelled_multipart_upload_leaves_no_parts(store, s3_settings, tmp_path):
    admin, large = S3Admin(s3_settings()), tmp_path / "large"
    large.write_bytes(bytes(60 * MIB))
    key = new_key()
    task = asyncio.create_task(store.put_file(key, large, 60 * MIB))
    await asyncio.sleep(0.25)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.close()
    assert admin.abort_uploads(key) == 0
    with pytest.raises(ObjectMissing):
        await S3Store.from_settings(s3_settings()).size(key)
    assert large.exists()
    admin.close()


async def test_names_of_others_in_the_bucket_are_passed_over(store, rgw, rgw_bucket, s3_settings):
    prefix = bucket_and_prefix(s3_settings().objects)[1]
    client = rgw.client()
    for name in (".DS_Store", "a folder/", "ünicode", "1/20260131/ok"):
        client.put_object(Bucket=rgw_bucket, Key=f"{prefix}/{name}", Body=b"x")
    client.put_object(Bucket=rgw_bucket, Key=f"{prefix}-neighbour/1/x", Body=b"x")
    client.close()
    assert [info.key async for info in store.list("")] == ["1/20260131/ok"]


def test_bucket_set_up(rgw, s3_settings):
    bucket = f"made-{secrets.token_hex(5)}"
    admin = S3Admin(s3_settings(objects=f"s3://{bucket}/pre/fix", s3_read_timeout=20))
    with pytest.raises(Unavailable, match="does not exist"):
        admin.ensure_bucket(create=False)
    assert admin.ensure_bucket(create=True)
    assert not admin.ensure_bucket(create=True)

    client = rgw.client()
    theirs = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 3}}
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [theirs]})
    admin.set_lifecycle(expire_versions_days=30)
    admin.set_lifecycle(expire_versions_days=14)
    rules = {rule["ID"]: rule for rule in client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]}
    assert sorted(rules) == sorted(["theirs", RULE_ID])
    assert rules[RULE_ID]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 2}
    assert rules[RULE_ID]["NoncurrentVersionExpiration"]["NoncurrentDays"] == 14
    assert rules[RULE_ID]["Filter"]["Prefix"] == "pre/fix/"

    assert not admin.versioning()
    admin.set_versioning(enabled=True)
    assert admin.versioning()
    admin.set_versioning(enabled=False)
    assert not admin.versioning()

    assert admin.public_access() == []
    client.put_bucket_acl(Bucket=bucket, ACL="public-read")
    assert any("AllUsers" in reason for reason in admin.public_access())
    client.put_bucket_acl(Bucket=bucket, ACL="private")
    client.close()
    admin.close()


async def test_objects_are_encrypted_where_that_is_set(s3_settings, rgw, rgw_bucket, tmp_path):
    """SSE-KMS, for a single PUT and for an upload in parts; what is read is what was written."""
    settings = s3_settings(s3_sse=f"aws:kms:{SSE_KEY}", s3_read_timeout=10)
    encrypting = S3Store.from_settings(settings)
    small, large = new_key(), new_key()
    body = secrets.token_bytes(20 * MIB)
    (tmp_path / "large").write_bytes(body)
    await encrypting.put(small, [b"before"], 6)
    await encrypting.put_file(large, tmp_path / "large", len(body))
    client = rgw.client()
    prefix = bucket_and_prefix(settings.objects)[1]
    for key in (small, large):
        said = client.head_object(Bucket=rgw_bucket, Key=f"{prefix}/{key}")
        assert (said["ServerSideEncryption"], said["SSEKMSKeyId"]) == ("aws:kms", SSE_KEY)
    client.close()
    assert await encrypting.get(small) == b"before"
    assert await encrypting.get_ranges(large, [(17 * MIB, 100), (5, 70_000)]) == [
        body[17 * MIB : 17 * MIB + 100],
        body[5:70_005],
    ]
    assert b"".join([chunk async for chunk in encrypting.stream(large, 0, len(body))]) == body
    await encrypting.close()
    unknown = S3Store.from_settings(s3_settings(s3_sse="aws:kms:no-such-key"))
    with pytest.raises(Unavailable):
        await unknown.put(new_key(), [b"x"], 1)
    await unknown.close()


async def test_buckets_in_host_names(s3_settings, rgw, rgw_bucket, tmp_path, monkeypatch):
    """Virtual-hosted addressing, by both clients. The names do not resolve: a proxy has the gateway behind them."""
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    host = f"{DNS_NAME}:{rgw.port}"
    virtual = {"s3_addressing": "virtual", "s3_endpoint": f"http://{host}/", "s3_read_timeout": 20}
    body = secrets.token_bytes(20 * MIB)
    (tmp_path / "large").write_bytes(body)
    small, large = new_key(), new_key()
    made = f"made-{secrets.token_hex(5)}"
    with ForwardProxy(("127.0.0.1", rgw.port)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        store = S3Store.from_settings(s3_settings(**virtual))
        await store.check()
        await store.put(small, [b"small"], 5)
        await store.put_file(large, tmp_path / "large", len(body))
        assert await store.get(small) == b"small"
        assert await store.get_ranges(large, [(17 * MIB, 100), (5, 7)]) == [body[17 * MIB : 17 * MIB + 100], body[5:12]]
        assert b"".join([chunk async for chunk in store.stream(large, 0, len(body))]) == body
        assert await store.size(large) == len(body)
        assert sorted([info.key async for info in store.list("1/")]) == sorted([small, large])
        with pytest.raises(ObjectMissing):
            await store.get(new_key())
        await store.close()
        assert proxy.hosts == {f"{rgw_bucket}.{host}"}

        proxy.hosts.clear()
        admin = S3Admin(s3_settings(objects=f"s3://{made}/prefix", **virtual))
        assert admin.ensure_bucket(create=True)
        assert not admin.ensure_bucket(create=False)
        admin.set_lifecycle()
        assert admin.public_access() == []
        assert admin.abort_uploads(large) == 0
        admin.close()
        assert proxy.hosts == {f"{made}.{host}"}
        monkeypatch.delenv("http_proxy")
    # What has been written is where others look for it, with the bucket in the path.
    plain = S3Store.from_settings(s3_settings())
    assert await plain.get(small) == b"small"
    await plain.delete(large)
    await plain.close()
    client = rgw.client()
    assert made in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
    client.close()


def test_settings_become_client_options(tmp_path):
    def config(**values: object) -> dict[str, object]:
        made = load_settings({"data": tmp_path, "objects": "s3://bucket/p"} | values, {}, None)[0]
        return dict(client_config(made, "bucket"))

    assert config(s3_sse="AES256")["server_side_encryption"] == "AES256"
    kms = config(s3_sse="aws:kms:arn:aws:kms:eu-west-1:1:key/2")
    assert (kms["server_side_encryption"], kms["sse_kms_key_id"]) == ("aws:kms", "arn:aws:kms:eu-west-1:1:key/2")
    assert "sse_kms_key_id" not in config(s3_sse="aws:kms")
    virtual = config(s3_endpoint="https://s3.example.org:8443", s3_addressing="virtual")
    assert virtual["endpoint"] == "https://bucket.s3.example.org:8443"
    assert config(s3_endpoint="https://s3.example.org/")["endpoint"] == "https://s3.example.org"
    # The body is signed where TLS does not protect it.
    assert config(s3_endpoint="http://s3.example.org")["unsigned_payload"] is False
    assert config()["unsigned_payload"] is True
    plain = load_settings({"objects": "s3://bucket", "s3_endpoint": "http://a"}, {}, None)[0]
    assert client_options(plain)["allow_http"] is True
    assert client_options(load_settings({"objects": "s3://bucket"}, {}, None)[0])["allow_http"] is False


@pytest.mark.parametrize("address", ["s3://", "bucket/prefix", "s3:///x", "s3://b/p?q", "s3://b#f"])
def test_malformed_addresses_are_refused(address):
    with pytest.raises(ValueError, match="s3://bucket/prefix"):
        bucket_and_prefix(address)
