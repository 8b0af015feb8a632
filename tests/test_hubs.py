"""The real clients of both hubs, against a local server that speaks their protocols."""

import errno
import hashlib
import json
import os
import resource
import socket
import subprocess
import sys
import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import yaml
from hub_server import NOWHERE, HubServer, hub_env, process

from npu_parity.errors import Absent, ParityError, Unavailable
from npu_parity.sources import clients, faults, hub_cache, hubs
from npu_parity.sources.preprocessing import Preprocessing
from npu_parity.sources.repositories import Request
from npu_parity.sources.weights import beside

pytestmark = pytest.mark.slow

OLD, NEW = bytes(range(256)) * 8, bytes(reversed(range(256))) * 8


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def weights_in(folder):
    """Whole files that a client left: a client's locks, marks and partial files are smaller."""
    return [p for p in folder.rglob("*") if p.is_file() and p.stat().st_size >= len(OLD)]


@pytest.fixture(scope="module")
def running():
    with HubServer() as server, process(server.env()) as clients:
        yield server, clients


@pytest.fixture
def server(running):
    server, _ = running
    yield server
    server.fail(None)


@pytest.fixture(params=list(clients.CLIENTS))
def hub(request):
    return request.param


@pytest.fixture
def repo(request, hub, server):
    """A repository of this test's own, with one file."""
    repo = f"owner/{hub}.{request.node.originalname}"
    server.add(repo, "m.pth", OLD)
    server.requests.clear()
    return repo


@pytest.fixture
def fetch(hub, running, tmp_path):
    """``hubs.fetch`` with the real client, into this test's own cache."""

    def fetch(*args, patience=20.0, **kwargs):
        request = Request(hub, *args, **{"cache_dir": tmp_path} | kwargs)
        return running[1].submit(hubs.fetch, request, patience).result(timeout=30)

    return fetch


@pytest.fixture
def refusal(hub, fetch):
    """The text of the error that a fetch ends in; one line that names hub, repository and file."""

    def refusal(repo, file, **kwargs):
        with pytest.raises(ParityError) as error:
            fetch(repo, file, **kwargs)
        text = str(error.value)
        assert text.startswith(f"{hub}:{repo} {file}") and len(text.splitlines()) == 1
        return text

    return refusal


@pytest.fixture
def reachable(hub, running):
    """What ``hubs.reachable`` says in the running client or one of its own, and how soon."""

    def reachable(env=None, timeout=3.0):
        with process(env) if env else nullcontext(running[1]) as pool:
            pool.submit(clients.connect, hub).result(30)  # the import does not count
            start = time.perf_counter()
            reason = pool.submit(hubs.reachable, hub, timeout).result(30)
            return reason, time.perf_counter() - start

    return reachable


def test_import_loads_no_client():
    code = "import sys, npu_parity.sources.hubs; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "npu_parity.sources.hubs" in loaded.split()
    assert not {"torch", "huggingface_hub", "modelscope_hub", "requests"} & set(loaded.split())


def test_fetched_file_is_described(hub, server, repo, fetch, tmp_path):
    commit = server.add(repo, "deep/m.pth", NEW)
    got = fetch(repo, "deep/m.pth")
    assert got == hubs.HubFile(hub, repo, commit, "deep/m.pth", got.path, sha256(NEW))
    assert got.path.is_relative_to(tmp_path) and got.path.read_bytes() == NEW


def test_default_cache_is_the_clients_own(server, repo, fetch):
    assert fetch(repo, "m.pth", cache_dir=None).path.is_relative_to(server.folder)


def test_revision(server, repo, fetch, refusal):
    tagged = server.add(repo, "m.pth", NEW, revision="v1")
    assert fetch(repo, "m.pth").sha256 == sha256(OLD)
    for revision in ("v1", tagged):
        got = fetch(repo, "m.pth", revision=revision)
        assert (got.sha256, got.revision) == (sha256(NEW), tagged)
    assert "at v2: " in refusal(repo, "m.pth", revision="v2")


@pytest.mark.abuse("faulty hubs")
def test_branch_that_moved_is_noticed(server, repo, fetch):
    first = fetch(repo, "m.pth")
    commit = server.add(repo, "m.pth", NEW)  # of the same size
    got = fetch(repo, "m.pth")
    assert first.revision != got.revision == commit
    assert got.path.read_bytes() == NEW


def test_pattern_takes_the_last_in_natural_order(server, repo, fetch):
    for name in ("model-9900.pth", "model-122000.pth", "model-99000.pth", "model-5.txt"):
        server.add(repo, name, name.encode())
    server.add(repo, "model-200000/a.pth", b"in another folder")
    assert fetch(repo, "model-*.pth").file == "model-122000.pth"
    assert fetch(repo, "*/a.pth").file == "model-200000/a.pth"


def test_no_match_lists_what_is_there(server, repo, refusal):
    for i in range(12):
        server.add(repo, f"n{i}.pth", b"x")
    server.add(repo, "z/n.pth", b"x")  # ModelScope lists the folder as well
    for name in ("model-*.pth", "M.pth"):
        assert refusal(repo, name).endswith(
            "has m.pth, n0.pth, n1.pth, n2.pth, n3.pth, n4.pth, n5.pth, n6.pth and 6 more"
        )


def test_pin(server, repo, fetch, refusal):
    text = refusal(repo, "m.pth", sha256=sha256(NEW))
    assert sha256(OLD) in text and sha256(NEW) in text
    assert not server.downloads  # told before anything is downloaded
    assert fetch(repo, "m.pth", sha256=sha256(OLD).upper()).sha256 == sha256(OLD)


def test_unannounced_sha256_needs_a_pin(server, repo, fetch, refusal):
    server.add(repo, "bare.pth", NEW, announced=False)
    assert f"states no sha256; if you trust the downloaded file, pin its sha256 {sha256(NEW)}" in (
        refusal(repo, "bare.pth")
    )
    assert sha256(NEW) in refusal(repo, "bare.pth", sha256=sha256(OLD))
    assert fetch(repo, "bare.pth", sha256=sha256(NEW)).sha256 == sha256(NEW)


@pytest.mark.abuse("faulty hubs")
def test_cache_is_used_but_not_believed(server, repo, fetch):
    first = fetch(repo, "m.pth")
    assert fetch(repo, "m.pth") == first
    assert len(server.downloads) == 1
    first.path.write_bytes(NEW)  # of the same size
    assert fetch(repo, "m.pth") == first
    assert len(server.downloads) == 2
    assert first.path.read_bytes() == OLD


@pytest.mark.abuse("faulty hubs")
def test_corrupt_bytes_are_refused_and_removed(server, repo, fetch, refusal, tmp_path):
    server.fail("corrupt")
    text = refusal(repo, "m.pth")
    assert sha256(OLD) in text and sha256(bytes([OLD[0] ^ 1]) + OLD[1:]) in text
    assert not weights_in(tmp_path)
    server.fail(None)
    assert fetch(repo, "m.pth").path.read_bytes() == OLD


def test_connection_lost_once_is_survived(server, repo, fetch):
    server.fail("truncate", times=1)
    assert fetch(repo, "m.pth").path.read_bytes() == OLD
    assert len(server.downloads) == 2


@pytest.mark.abuse("faulty hubs")
def test_connection_lost_for_good(server, repo, fetch, refusal, tmp_path):
    server.fail("truncate")
    assert "connection lost" in refusal(repo, "m.pth")
    assert not weights_in(tmp_path)
    server.fail(None)
    assert fetch(repo, "m.pth").path.read_bytes() == OLD


@pytest.mark.abuse("faulty hubs")
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (401, "HTTP 401, the stand-in was told to; check the name, or log in"),
        (403, "HTTP 403, the stand-in was told to; access denied"),
        (404, "HTTP 404, the stand-in was told to; check repository"),
        (503, "HTTP 503, the stand-in was told to"),
        ("drop", "connection lost"),
        ("hang", "no answer in time"),
    ],
)
def test_failures_are_told_in_one_line(server, repo, refusal, fault, words):
    server.fail(fault)
    start = time.perf_counter()
    assert words in refusal(repo, "m.pth")
    assert time.perf_counter() - start < 6


@pytest.mark.abuse("faulty hubs")
@pytest.mark.parametrize("fault", ["drip", "hang", "slow", "later"])
def test_the_whole_fetch_has_a_deadline(server, repo, fetch, fault, tmp_path):
    server.fail(fault)
    start = time.perf_counter()
    with pytest.raises(Unavailable) as error:
        fetch(repo, "m.pth", patience=1.5)
    assert time.perf_counter() - start < 6 and len(str(error.value).splitlines()) == 1
    assert not weights_in(tmp_path)


@pytest.mark.abuse("faulty hubs")
@pytest.mark.parametrize("fault", ["long", "endless"])
def test_no_more_than_announced_is_stored(server, repo, refusal, fault, tmp_path):
    server.fail(fault)
    start = time.perf_counter()
    refusal(repo, "m.pth", patience=5)
    assert time.perf_counter() - start < 12
    server.fail(None)
    assert sum(path.stat().st_size for path in weights_in(tmp_path)) < 50 * 2**20


@pytest.mark.abuse("faulty hubs")
def test_compressed_transfer_is_the_same_file(server, repo, fetch):
    server.fail("gzip")
    assert fetch(repo, "m.pth").path.read_bytes() == OLD


@pytest.mark.abuse("faulty hubs")
@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (401, Absent, "HTTP 401"),
        (403, Absent, "HTTP 403"),
        (404, Absent, "HTTP 404"),
        (429, Unavailable, "HTTP 429"),
        (500, Unavailable, "HTTP 500"),
        ("loop", Unavailable, "redirected in a loop"),
        ("portal", Unavailable, "a page and not the hub's, such as a login to the network"),
    ],
)
def test_only_a_hub_out_of_reach_lets_a_seed_take_over(server, repo, fetch, fault, kind, words):
    server.fail(fault)
    with pytest.raises(kind, match=words) as error:
        fetch(repo, "m.pth", patience=4)
    assert type(error.value) is kind and len(str(error.value).splitlines()) == 1


@pytest.mark.abuse("faulty hubs")
def test_repository_that_moved_is_named(hub, server, repo, refusal):
    if hub == "modelscope":
        pytest.skip("ModelScope does not redirect")
    server.add("new/name", "m.pth", OLD)
    server.moved[f"/api/models/{repo}"] = "/api/models/new/name"
    assert "the repository has moved to new/name: write this name" in refusal(repo, "m.pth")


@pytest.mark.abuse("faulty hubs")
def test_default_branch_of_the_other_hub(hub, repo, refusal):
    other = {"modelscope": "main", "huggingface": "master"}[hub]
    branch = {"modelscope": "master", "huggingface": "main"}[hub]
    assert f"its default branch is {branch}" in refusal(repo, "m.pth", revision=other)


@pytest.mark.abuse("faulty hubs")
def test_cache_that_cannot_be_written_is_an_error_of_this_machine(repo, fetch, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ParityError, match="cannot be stored here: Not a directory") as error:
        fetch(repo, "m.pth", cache_dir=tmp_path / "file" / "cache")
    assert type(error.value) is ParityError


@pytest.fixture
def read_only(fetch, repo, tmp_path):
    """A cache on a file system that is mounted read-only; it has ``m.pth``."""
    fetch(repo, "m.pth")
    place = tmp_path.with_name(f"{tmp_path.name}.mounted")
    place.mkdir()
    bind = subprocess.run(["mount", "--bind", tmp_path, place], capture_output=True, text=True)
    if bind.returncode:
        pytest.skip(f"mounting is not permitted: {bind.stderr.strip()}")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True)
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.abuse("faulty hubs")
def test_read_only_cache_is_read_but_not_written(server, repo, fetch, read_only):
    downloads = len(server.downloads)
    assert fetch(repo, "m.pth", cache_dir=read_only).path.is_relative_to(read_only)
    assert len(server.downloads) == downloads
    server.add(repo, "more.pth", NEW)
    with pytest.raises(ParityError, match="cannot be stored here: Read-only file sys") as error:
        fetch(repo, "more.pth", cache_dir=read_only)
    assert type(error.value) is ParityError


def peak(call, *arguments):
    """The result of a call, and the megabytes by which it made this process larger at its peak."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = call(*arguments)
    return result, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


@pytest.mark.abuse("faulty hubs")
def test_listing_of_100000_files(hub, server, repo, tmp_path):
    """Few requests, in bounded memory. ModelScope's client asks again from 3,000 files on."""
    server.fill(repo, (f"events-{i}.txt" for i in range(100_000)))
    patient = dict.fromkeys(
        ("HF_HUB_ETAG_TIMEOUT", "MODELSCOPE_REPO_TREE_PAGE_TIMEOUT_SECONDS"), "120"
    )
    with process(server.env() | patient) as clients:
        request = Request(hub, repo, cache_dir=tmp_path)
        found, megabytes = clients.submit(peak, hubs.fetch, request, 120.0).result(180)
        assert len(server.requests) < 8
        missing = Request(hub, repo, "step-*.pth", cache_dir=tmp_path)
        error = clients.submit(hubs.fetch, missing, 120.0).exception(180)
    assert (found.file, found.sha256) == ("m.pth", sha256(OLD))
    assert megabytes < 700
    assert "and 99993 more" in str(error) and len(str(error)) < 400


@pytest.mark.abuse("faulty hubs")
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), ParityError),
        (OSError(errno.EROFS, "Read-only file system", "/cache/a"), ParityError),
        (PermissionError(errno.EACCES, "Permission denied", "/cache/a"), ParityError),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), Unavailable),
        (PermissionError(errno.EPERM, "Operation not permitted"), Unavailable),  # a firewall
        (socket.gaierror(-2, "Name or service not known"), Unavailable),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), Unavailable),
        (RuntimeError("any"), Unavailable),
    ],
)
def test_a_fault_of_this_machine_is_not_one_of_the_hub(error, kind):
    """A full disk never lets a seed take over."""
    for wrapped in (False, True):
        try:
            try:
                raise error
            except Exception as cause:
                if wrapped:
                    raise RuntimeError("the client failed") from cause
                raise
        except Exception as raised:
            found, reason = faults.explained(raised)
        assert found is kind and reason


@pytest.mark.abuse("faulty hubs")
def test_free_disk_is_checked_first(server, hub, tmp_path):
    label, client = "label", SimpleNamespace(setting="HF_HUB_CACHE")
    entry = clients.Entry("m.pth", 10**18, "", "", "", "")
    with pytest.raises(ParityError, match=r"needs 1000000000000 MB, but .* MB free: free some"):
        hubs._require_space(label, client, tmp_path / "none", entry, there=False)


# Names in a repository


def test_file_without_lfs_has_gits_hash(hub, server, repo, fetch, refusal):
    server.add(repo, "small.pth", NEW, lfs=False)
    assert fetch(repo, "small.pth").sha256 == sha256(NEW)
    server.add(repo, "small.pth", OLD, lfs=False)
    server.fail("corrupt")
    assert "the downloaded file has sha256" in refusal(repo, "small.pth")


def test_usual_names_come_in_order(server, repo, fetch):
    assert fetch(repo).file == "m.pth"  # the only weights file
    for name in ("pytorch_model.bin", "model.safetensors"):
        server.add(repo, name, NEW)
        assert fetch(repo).file == name


def test_several_unusual_names_are_a_question(server, repo, fetch):
    server.add(repo, "other.pth", NEW)
    with pytest.raises(Absent, match=r"no usual name; add /FILE to .* m.pth, other.pth"):
        fetch(repo)


def test_shards_come_with_their_index(server, repo, fetch):
    index = {"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}
    server.add(repo, "model.safetensors.index.json", json.dumps(index).encode(), lfs=False)
    server.add(repo, "m-1.safetensors", NEW)
    with pytest.raises(Absent, match=r"the index names m-2.safetensors, but the repository lacks"):
        fetch(repo)
    server.add(repo, "m-2.safetensors", OLD)
    got = fetch(repo)
    assert [part.file for part in got.shards] == ["m-1.safetensors", "m-2.safetensors"]
    assert all(part.path.parent == got.path.parent for part in got.shards)


@pytest.mark.abuse("faulty hubs")
def test_an_index_cannot_name_files_elsewhere(server, repo, fetch):
    index = {"weight_map": {"a": "../../evil.safetensors"}}
    server.add(repo, "model.safetensors.index.json", json.dumps(index).encode(), lfs=False)
    with pytest.raises(ParityError, match=r"weight_map names '../../evil.safetensors', refused"):
        fetch(repo)


# The lock and the caches


@pytest.mark.abuse("faulty hubs")
def test_a_change_under_a_lock_is_refused_before_any_download(hub, server, repo, fetch):
    locked = {"m.pth": sha256(OLD)}
    assert fetch(repo, "m.pth", locked=locked).sha256 == sha256(OLD)
    server.add(repo, "m.pth", NEW)
    server.requests.clear()
    with pytest.raises(ParityError) as error:
        fetch(repo, "m.pth", locked=locked)
    text = str(error.value)
    assert sha256(OLD) in text and sha256(NEW) in text
    assert f"npu-parity accept '{hub}:{repo}/m.pth'" in text and not server.downloads


def test_cache_serves_a_hub_out_of_reach(hub, running, server, repo, fetch, tmp_path):
    def cached(**kwargs):
        options = {"cache_dir": tmp_path} | kwargs
        request = Request(hub, repo, "m.pth", **options)
        return running[1].submit(hub_cache.find, request).result(30)

    assert cached() is None
    first = fetch(repo, "m.pth")
    server.fail("drop")
    found = cached()
    assert (found.path, found.sha256) == (first.path, first.sha256)
    assert found.cache == "the newest of 1 revisions"
    assert cached(sha256=sha256(OLD)).cache == "of the expected sha256"
    assert cached(sha256=sha256(NEW)) is None
    assert cached(revision="v9") is None
    if hub == "huggingface":
        first.path.write_bytes(NEW)
        with pytest.raises(ParityError, match="is damaged: delete it"):
            cached()


@pytest.mark.abuse("faulty hubs")
def test_missing_repository(server, refusal):
    assert "HTTP 404" in refusal("owner/missing", "m.pth")


@pytest.mark.abuse("faulty hubs")
@pytest.mark.parametrize(
    "unsafe",
    ["../m.pth", "a/../../m.pth", "/etc/m.pth", "a\\m.pth", "C:m.pth", "~/m.pth", "", "a\nb"],
)
def test_unsafe_names_never_reach_the_hub(hub, unsafe):
    for names in ((unsafe, "m.pth"), ("owner/name", unsafe), ("owner/name", "m.pth", unsafe)):
        if names[-1]:  # an empty revision is none
            with pytest.raises(ParityError) as error:
                Request(hub, *names)
            assert repr(unsafe) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.abuse("faulty hubs")
def test_unsafe_name_from_the_hub(server, repo, refusal, tmp_path):
    server.add(repo, "../evil.pth", NEW)
    assert "'../evil.pth'" in refusal(repo, "*/evil.pth")
    assert not server.downloads and not list(tmp_path.parent.glob("**/evil.pth"))


def test_unknown_hub():
    for call in (lambda: hubs.reachable("github"), lambda: hubs.fetch(Request("github", "a/b"))):
        with pytest.raises(
            ParityError, match="'github' is unknown: expected one of modelscope, hug"
        ):
            call()


def test_log_stays_clean(hub, server, repo, tmp_path):
    code = (
        "import sys; from npu_parity.sources import hubs, repositories\n"
        "print(hubs.fetch(repositories.Request(*sys.argv[1:])).sha256)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, hub, repo, "m.pth"],
        env=os.environ | hub_env(server.url, tmp_path),
        capture_output=True,
        text=True,
    )
    assert (done.stdout.strip(), done.stderr) == (sha256(OLD), "")


def test_fetch_gives_up_soon_without_settings(hub, tmp_path):
    env = hub_env(NOWHERE, tmp_path, hub)
    env = {k: v for k, v in env.items() if "TIMEOUT" not in k and "ATTEMPTS" not in k}
    with process(env) as pool:
        start = time.perf_counter()
        error = pool.submit(hubs.fetch, Request(hub, "owner/name", "m.pth")).exception(30)
    assert str(error) == f"{hub}:owner/name m.pth: connection refused"
    assert time.perf_counter() - start < 6


def test_reachable(server, reachable):
    reason, _ = reachable()
    assert reason is None and server.requests


@pytest.mark.abuse("faulty hubs")
@pytest.mark.parametrize("fault", ["hang", "slow"])
def test_hanging_hub_is_decided_within_the_timeout(server, reachable, fault):
    server.fail(fault)
    reason, seconds = reachable(timeout=0.5)
    assert reason == f"{server.url}: no answer within 0.5 s"
    assert seconds < 1.2


@pytest.mark.abuse("faulty hubs")
def test_hub_in_trouble_is_not_reachable(server, reachable):
    server.fail(503)
    assert reachable()[0] == f"{server.url}: HTTP 503"


def test_nobody_listens(reachable, tmp_path):
    reason, seconds = reachable(hub_env(NOWHERE, tmp_path))
    assert reason == f"{NOWHERE}: connection refused"
    assert seconds < 2


def test_unknown_host(reachable, tmp_path):
    reason, seconds = reachable(hub_env("http://hub.invalid", tmp_path), timeout=1)
    assert reason in {
        f"http://hub.invalid: {why}" for why in ("name not resolved", "no answer within 1 s")
    }
    assert seconds < 2


def test_proxy_is_used(server, reachable, tmp_path):
    server.requests.clear()
    proxied = {"HTTP_PROXY": server.url, "http_proxy": server.url}
    assert reachable(hub_env("http://hub.invalid", tmp_path) | proxied)[0] is None
    assert [r.host for r in server.requests] == ["hub.invalid"]
    server.fail(407)
    assert reachable(hub_env("http://hub.invalid", tmp_path) | proxied)[0].endswith(": HTTP 407")


def test_offline_mode(server):
    server.requests.clear()
    asked = Request("huggingface", "owner/name", "m.pth")
    with process(server.env() | {"HF_HUB_OFFLINE": "1"}) as pool:
        assert "offline mode is set" in pool.submit(hubs.reachable, "huggingface").result(30)
        error = pool.submit(hubs.fetch, asked).exception(30)
    assert isinstance(error, ParityError) and "offline mode is set" in str(error)
    assert not server.requests


# The preprocessing beside the weights

PROCESSOR = {"do_resize": True, "size": 40, "do_center_crop": True, "crop_size": 32} | {
    "resample": 3,
    "image_mean": [0.5] * 3,
    "image_std": [0.25] * 3,
}
TIMM = {"input_size": [3, 32, 32], "crop_pct": 0.8, "mean": [0.4] * 3, "std": [0.2] * 3}
TIMM = {"architecture": "x", "pretrained_cfg": TIMM | {"interpolation": "bicubic"}}


def prepared(weights, lock, unreachable=()):
    """Settings and origins, as scripts/inputs.py finds them."""
    found = Preprocessing("own.py:net", {}, weights, beside(lock, dict(unreachable)))
    return found.settings, found.origins


@pytest.fixture
def prepare(running, tmp_path):
    def prepare(*weights, **options):
        lock = tmp_path / "weights.lock.yaml"
        return running[1].submit(prepared, weights, lock, **options).result(timeout=30)

    return prepare


@pytest.mark.parametrize("folder", ["", "onnx/"])
def test_the_processor_beside_the_weights_says_it(hub, server, repo, prepare, tmp_path, folder):
    server.add(repo, f"{folder}net.pth", OLD)
    for name, data in (("config.json", TIMM), ("preprocessor_config.json", PROCESSOR)):
        server.add(repo, folder + name, json.dumps(data).encode(), lfs=False)
    settings, origins = prepare(f"{hub}:{repo}/{folder}net.pth", "seed:1")
    assert (settings["resize"], settings["crop"], settings["mean"]) == (40, 32, [0.5] * 3)
    origin = f"{hub}:{repo}/{folder}preprocessor_config.json"
    assert set(origins.values()) == {origin, "default"}
    locked = yaml.safe_load((tmp_path / "weights.lock.yaml").read_text())
    assert [*locked] == [origin]


def test_timms_config_of_any_repository_says_it(hub, server, repo, prepare):
    server.add(repo, "config.json", json.dumps(TIMM).encode(), lfs=False)
    settings, origins = prepare(f"{hub}:{repo}")
    assert (settings["resize"], settings["crop"], settings["std"]) == (40, 32, [0.2] * 3)
    assert origins["std"] == f"{hub}:{repo}/config.json"


def test_the_revision_of_the_weights_counts(hub, server, repo, prepare):
    server.add(repo, "preprocessor_config.json", json.dumps(PROCESSOR).encode(), "v1", lfs=False)
    assert prepare(f"{hub}:{repo}@v1/m.pth")[0]["crop"] == 32
    assert prepare(f"{hub}:{repo}/m.pth")[0]["crop"] == 224


def test_a_repository_that_says_nothing_or_does_not_exist(hub, server, repo, prepare):
    for weights in (f"{hub}:{repo}", f"{hub}:owner/nothing"):
        settings, origins = prepare(weights)
        assert settings["crop"] == 224 and origins["crop"] == "ImageNet's usual values"


def test_the_cache_says_it_if_the_hub_is_out_of_reach(hub, server, repo, prepare):
    server.add(repo, "preprocessor_config.json", json.dumps(PROCESSOR).encode(), lfs=False)
    first = prepare(f"{hub}:{repo}")
    server.requests.clear()
    assert prepare(f"{hub}:{repo}", unreachable={hub: "no answer"}) == first
    settings, _ = prepare(f"{hub}:owner/unknown", unreachable={hub: "no answer"})
    assert settings["crop"] == 224 and not server.requests


def test_a_processor_that_changed_is_refused(hub, server, repo, prepare):
    server.add(repo, "preprocessor_config.json", json.dumps(PROCESSOR).encode())
    prepare(f"{hub}:{repo}")
    server.add(repo, "preprocessor_config.json", json.dumps(PROCESSOR | {"size": 41}).encode())
    with pytest.raises(ParityError, match=r"accept '.*preprocessor_config\.json'"):
        prepare(f"{hub}:{repo}")


def test_a_damaged_processor_is_one_line_with_its_source(hub, server, repo, prepare):
    server.add(repo, "preprocessor_config.json", b"{", lfs=False)
    with pytest.raises(ParityError) as error:
        prepare(f"{hub}:{repo}")
    assert str(error.value).startswith(f"{hub}:{repo}/preprocessor_config.json: no preprocessing")


def test_two_hubs_that_differ_are_a_question(server, prepare):
    for kind, mean in (("a", 0.5), ("b", 0.4)):
        data = json.dumps(PROCESSOR | {"image_mean": [mean] * 3}).encode()
        server.add(f"owner/{kind}", "preprocessor_config.json", data, lfs=False)
    with pytest.raises(ParityError, match="differ in mean; add preprocessing"):
        prepare("modelscope:owner/a", "huggingface:owner/b")
