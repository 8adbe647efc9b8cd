"""Where the harness writes as which user, what it gives back, and what a bare host receives of this one: without root."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.machine import host, newcomer
from tests.machine.image import APPLIANCE


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An ordinary user's environment; the home."""
    for name in ("DDWD_CACHE", "XDG_CACHE_HOME", "SUDO_UID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    return tmp_path


def test_a_user_has_one_cache_folder(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert host.cache_folder() == user / ".cache/ddwd"
    monkeypatch.setenv("XDG_CACHE_HOME", "/other")
    assert host.cache_folder() == Path("/other/ddwd")
    monkeypatch.setenv("DDWD_CACHE", "/named")
    assert host.cache_folder() == Path("/named")


def test_root_has_the_same_folder_unless_an_ordinary_user_called_sudo(
    user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("DDWD_CACHE", str(user))
    assert host.cache_folder() == user
    monkeypatch.setenv("SUDO_UID", "0")
    assert host.cache_folder() == user
    monkeypatch.setenv("SUDO_UID", "1000")
    assert host.cache_folder() == Path("/var/cache/ddwd")
    assert APPLIANCE.path().parent == Path("/var/cache/ddwd/images")


@pytest.mark.usefixtures("user")
def test_an_ordinary_user_gives_nothing_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.chown", lambda *_args, **_named: pytest.fail("chown"))
    (tmp_path / "dist").mkdir()
    host.give_back(tmp_path)


class _Owned:
    """A clone of user 1000 in which root owns the names given, by what lstat says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, clone: Path, *names: str) -> None:
        self.given: list[tuple[str, int, int]] = []
        real = os.lstat

        def lstat(path: str | Path) -> os.stat_result:
            return _with_owner(real(path), 0 if Path(path).name in names else 1000)

        def chown(path: Path, uid: int, gid: int, *, follow_symlinks: bool) -> None:
            assert not follow_symlinks
            self.given.append((str(path.relative_to(clone)), uid, gid))

        monkeypatch.setattr("os.geteuid", lambda: 0)
        monkeypatch.setattr(Path, "lstat", lstat)
        monkeypatch.setattr("os.chown", chown)


def _with_owner(found: os.stat_result, owner: int) -> os.stat_result:
    return os.stat_result((*found[:4], owner, owner, *found[6:]))


def _clone(folder: Path) -> Path:
    (folder / "dist").mkdir()
    (folder / "dist/bench.json").touch()
    (folder / "dist/link").symlink_to("/etc/passwd")
    (folder / "README.md").touch()
    return folder


@pytest.mark.usefixtures("user")
def test_root_gives_back_what_it_wrote_in_the_clone_of_who_called_sudo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owned = _Owned(monkeypatch, _clone(tmp_path), "dist", "bench.json", "link")
    monkeypatch.setenv("SUDO_UID", "1000")
    host.give_back(tmp_path)
    assert sorted(owned.given) == [
        ("dist", 1000, 1000),
        ("dist/bench.json", 1000, 1000),
        ("dist/link", 1000, 1000),
    ]


@pytest.mark.usefixtures("user")
@pytest.mark.parametrize("caller", ["", "0", "1001"])
def test_a_clone_of_another_user_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caller: str
) -> None:
    owned = _Owned(monkeypatch, _clone(tmp_path), "dist", "bench.json")
    monkeypatch.setenv("SUDO_UID", caller)
    host.give_back(tmp_path)
    assert owned.given == []


# --- packaging/as-root and packaging/host ----------------------------------------------------------------------------


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder of stand-ins: an `id` that says 1000 and a `sudo` that prints its arguments."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name, body in (("id", "echo 1000"), ("sudo", 'printf "%s\\n" "$@"')):
        (folder / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        (folder / name).chmod(0o755)
    return folder


def _as_root(tools: Path, **environment: str) -> list[str]:
    path = f"{tools}:/usr/bin:/bin"
    return subprocess.run(
        ["packaging/as-root", "id", "-u"], env={"PATH": path, **environment}, capture_output=True, text=True,
        check=True, cwd=host.REPO,
    ).stdout.splitlines()  # fmt: skip


def test_sudo_keeps_what_says_where_to_write_and_download(tools: Path) -> None:
    given = _as_root(
        tools, DDWD_CACHE="/c", PIP_CACHE_DIR="/c/pip", PIP_CERT="/x", http_proxy="p", SSL_CERT_FILE="/y", HOME="/h"
    )  # fmt: skip
    kept = given[0].removeprefix("--preserve-env=").split(",")
    assert sorted(kept) == ["DDWD_CACHE", "PIP_CERT", "SSL_CERT_FILE", "http_proxy"]
    assert given[1:] == [
        "env", f"PATH={tools}:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin", "PYTHONDONTWRITEBYTECODE=1", "id", "-u",
    ]  # fmt: skip


def test_sudo_is_called_without_any_variable_too(tools: Path) -> None:
    assert _as_root(tools)[0] == "env"


def test_two_targets_that_need_tools_install_one_after_the_other(tools: Path, tmp_path: Path) -> None:
    """`make test` runs its steps side by side: the second one finds what the first has brought."""
    began, brought = tmp_path / "began", tools / "ddwd-made-up"
    apt = f'echo "$$" >> {began}; sleep 0.5; printf "#!/bin/sh\\n" > {brought}; chmod 755 {brought}'
    for name, body in (("apt-get", apt), ("sudo", 'exec "$@"'), ("tee", "cat >/dev/null"), ("id", "echo 0")):
        (tools / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        (tools / name).chmod(0o755)
    copies = tmp_path / "packaging"
    copies.mkdir()
    for name in ("host", "as-root"):
        text = (host.REPO / "packaging" / name).read_text(encoding="utf-8")
        (copies / name).write_text(text.replace("/usr/sbin/policy-rc.d", str(tmp_path)), encoding="utf-8")
        (copies / name).chmod(0o755)
    both = [
        subprocess.Popen([copies / "host", "ddwd-made-up"], env={"PATH": f"{tools}:/usr/bin:/bin"})
        for _ in range(2)
    ]
    assert [one.wait(60) for one in both] == [0, 0]
    assert len(began.read_text(encoding="utf-8").split()) == 1


# --- packaging/newcomer ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "carried"),
    [
        ("PIP_FIND_LINKS", True), ("PIP_CACHE_DIR", False), ("https_proxy", True), ("NO_PROXY", True),
        ("SSL_CERT_FILE", True), ("REQUESTS_CA_BUNDLE", True), ("HOME", False), ("PYTHONPATH", False),
        ("DDWD_CACHE", False),
    ],
)  # fmt: skip
def test_a_bare_host_has_the_variables_of_the_network_only(name: str, *, carried: bool) -> None:
    assert bool(newcomer.CARRIED.fullmatch(name)) is carried


def test_local_folders_that_settings_name_are_found(tmp_path: Path) -> None:
    index, wheels = tmp_path / "index/simple", tmp_path / "wheels"
    index.mkdir(parents=True)
    wheels.mkdir()
    settings = f"""[global]
find-links = {wheels} {tmp_path}/none
extra-index-url = file://{index} https://example.invalid{wheels}
"""
    assert newcomer.local_paths([settings, f'Acquire::https::CAInfo "{wheels}";']) == [wheels, index]
